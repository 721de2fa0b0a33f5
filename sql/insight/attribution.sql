-- Who said it: the logit of a token is a sum over the parts that wrote to the residual stream, and
-- a neuron writes in one direction, which pushes some tokens.
-- Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Geva et al. 2022
-- (arXiv:2203.14680) for neurons.


CREATE FUNCTION gpt2._output_embedding(token int, m gpt2.model)
RETURNS vector
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN gpt2._assert(token BETWEEN 0 AND (m).n_vocab - 1, 'invalid_parameter_value',
            format('token %s is not in the vocabulary of model "%s"', token, (m).name),
            format('Tokens are 0 to %s.', (m).n_vocab - 1),
            'Tokens come from gpt2_tokenize(prompt, model), for the same model.')
        THEN (SELECT w.weight FROM gpt2._token_weight(
                  token, CASE WHEN (m).tie_word_embeddings THEN 'wte' ELSE 'lm_head' END
                             ::gpt2.layer, m) AS w)
    END;
END;
COMMENT ON FUNCTION gpt2._output_embedding IS
    'the row of lm_head, or of wte where they are tied: its inner product with ln_f''s output is '
    'the token''s logit';


CREATE FUNCTION gpt2_direct_logit_attribution(
    prompt text DEFAULT NULL, token int DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS TABLE (component text, block int, head int, contribution float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(prompt, input_ids, special_tokens),
                         gpt2_direct_logit_attribution.model) AS i
    ), activation AS (
        -- all that is written to the residual stream at the last position
        SELECT a.*
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
            '{embed, pos_embed, z, mlp_out, resid_post, ln_final_out}', NULL, i.m)) AS a
        WHERE a."position" = cardinality(i.tokens) - 1
    ), target AS MATERIALIZED (
        SELECT i.m, w.bias, r.value AS resid_post,
               ARRAY(SELECT a::float8 * b FROM unnest(w.weight::real[], u.u::real[]) AS x (a, b))
                   AS scaled,
               -(w.bias <#> u.u) AS from_bias
        FROM input AS i
        JOIN activation AS r ON r.hook = 'hook_resid_post' AND r.block = (i.m).n_layer - 1
        JOIN activation AS y ON y.hook = 'ln_final.hook_out'
        JOIN gpt2.layer_norm AS w ON w.model = (i.m).model AND w.layer = 'ln_f'
        CROSS JOIN LATERAL (
            SELECT gpt2._output_embedding(coalesce(
                gpt2_direct_logit_attribution.token,
                (SELECT l.token FROM gpt2._top_tokens(y.value, i.m, 1) AS l)), i.m) AS u
            OFFSET 0
        ) AS u
    ), direction AS (
        -- Layer norm takes off the mean, divides by the standard deviation and scales. With the
        -- deviation as it is, that is linear: an inner product with this, without its mean.
        SELECT t.m, t.from_bias,
               ARRAY(SELECT (x - s.mean) / d.deviation FROM unnest(t.scaled) AS x)::vector AS d
        FROM target AS t
        CROSS JOIN LATERAL (SELECT avg(x) AS mean FROM unnest(t.scaled) AS x) AS s
        CROSS JOIN LATERAL (SELECT sqrt(var_pop(x) + (t.m).layer_norm_epsilon) AS deviation
                            FROM unnest(t.resid_post::real[]::float8[]) AS x) AS d
    ), part AS (
        SELECT a.hook AS component, NULL::int AS block, NULL::int AS head, a.value
        FROM activation AS a WHERE a.hook IN ('hook_embed', 'hook_pos_embed')
    UNION ALL
        -- a head's share of c_proj: its own inputs, the others 0, and no bias
        SELECT 'attn.hook_z', a.block, a.head, l.y - b.bias
        FROM activation AS a
        CROSS JOIN direction AS t
        JOIN gpt2.bias AS b
            ON b.model = (t.m).model AND b.block = a.block AND b.layer = 'attn.c_proj'
        CROSS JOIN LATERAL (SELECT vector_dims(a.value) AS d OFFSET 0) AS z
        CROSS JOIN LATERAL gpt2._linear(
            (array_fill(0::real, ARRAY[a.head * z.d]) || a.value::real[]
             || array_fill(0::real, ARRAY[(t.m).n_embd - (a.head + 1) * z.d]))::vector,
            t.m, a.block, 'attn.c_proj') AS l
        WHERE a.hook = 'attn.hook_z'
    UNION ALL
        SELECT 'attn.c_proj.bias', b.block, NULL, b.bias
        FROM direction AS t
        JOIN gpt2.bias AS b ON b.model = (t.m).model AND b.layer = 'attn.c_proj'
    UNION ALL
        SELECT a.hook, a.block, NULL, a.value FROM activation AS a WHERE a.hook = 'hook_mlp_out'
    )
    SELECT c.component, c.block, c.head, c.contribution
    FROM (
        SELECT p.component, p.block, p.head, -(p.value <#> t.d) AS contribution
        FROM part AS p CROSS JOIN direction AS t
    UNION ALL
        SELECT 'ln_f.bias', NULL, NULL, t.from_bias FROM direction AS t
    ) AS c
    ORDER BY CASE c.component WHEN 'hook_embed' THEN 0 WHEN 'hook_pos_embed' THEN 1
                              WHEN 'ln_f.bias' THEN 3 ELSE 2 END,
             c.block, c.component, c.head;
END;
COMMENT ON FUNCTION gpt2_direct_logit_attribution IS
    'what each head, each perceptron, the embeddings and the biases add to the logit of the next '
    'token, the likeliest by default; the parts add up to it';


CREATE FUNCTION gpt2_neurons(
    text text, block int, top_k int DEFAULT 5, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS TABLE ("position" int, piece text, rank int, neuron int, activation float8, pushes text[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_neurons.text, input_ids, special_tokens),
                         gpt2_neurons.model) AS i
        WHERE gpt2._check_top_k(top_k)
    ), strongest AS (
        SELECT a."position", s.rank, s.neuron, s.activation
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
            '{mlp.hook_post}', ARRAY[gpt2_neurons.block], i.m)) AS a
        CROSS JOIN LATERAL (
            SELECT row_number() OVER (ORDER BY n.activation DESC, n.n) AS rank,
                   n.n::int - 1 AS neuron, n.activation
            FROM unnest(a.value::real[]) WITH ORDINALITY AS n (activation, n)
            ORDER BY n.activation DESC, n.n
            LIMIT top_k
        ) AS s
    ), pushed AS MATERIALIZED (
        -- A neuron writes its column of c_proj to the residual stream. Seen through ln_f's weights,
        -- its inner products with the output embeddings tell which tokens become likelier.
        SELECT n.neuron, n.m, n.d
        FROM (
            SELECT s.neuron, i.m, ARRAY(
                SELECT (l.weight::real[])[s.neuron % (i.m).n_embd + 1]::float8
                           * (w.weight::real[])[l.unit + 1]
                FROM gpt2.linear AS l
                JOIN gpt2.layer_norm AS w ON w.model = l.model AND w.layer = 'ln_f'
                WHERE l.model = (i.m).model AND l.block = gpt2_neurons.block
                  AND l.layer = 'mlp.c_proj' AND l.slice = s.neuron / (i.m).n_embd
                ORDER BY l.unit)::vector AS d
            FROM input AS i
            CROSS JOIN (SELECT DISTINCT s.neuron FROM strongest AS s) AS s
        ) AS n
    ), pushes AS (
        SELECT p.neuron, array_agg(t.piece ORDER BY l.rank) AS pieces
        FROM pushed AS p
        CROSS JOIN LATERAL gpt2._top_tokens(p.d, p.m, 5) AS l
        CROSS JOIN LATERAL gpt2._pieces(ARRAY[l.token], p.m) AS t
        GROUP BY p.neuron
    )
    SELECT s."position", p.piece, s.rank::int, s.neuron, s.activation, t.pieces
    FROM input AS i
    CROSS JOIN LATERAL gpt2._pieces(i.tokens, i.m) AS p
    JOIN strongest AS s ON s."position" = p."position"
    JOIN pushes AS t ON t.neuron = s.neuron
    ORDER BY s."position", s.rank;
END;
COMMENT ON FUNCTION gpt2_neurons IS
    'the strongest neurons of a block''s perceptron at each position, and the tokens they push';
