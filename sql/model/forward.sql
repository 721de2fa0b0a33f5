-- The model: embeddings, the blocks, one more layer norm; the output projection turns a position
-- into a logit for every token.  tokens [n_seq] -> [n_seq, n_embd] -> [n_seq, n_vocab]
-- Source: model() in openai/gpt-2, src/model.py. A reader can walk it by hand: gpt2_embeddings,
-- then gpt2_block for block 0, 1, ..., is gpt2_forward but for ln_f.


CREATE FUNCTION gpt2._check_tokens(tokens int[], m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert(coalesce(cardinality(tokens), 0) > 0, 'invalid_parameter_value',
               'the list of tokens is empty', 'A forward pass needs at least one position.',
               'Tokens come from gpt2_tokenize(prompt).')
       AND gpt2._assert(cardinality(tokens) <= (m).n_ctx, 'program_limit_exceeded',
               format('%s tokens are too long for model "%s"', cardinality(tokens), (m).name),
               format('Its context is %s tokens.', (m).n_ctx),
               format('Use the last %s: tokens[cardinality(tokens) - %s:].', (m).n_ctx,
                      (m).n_ctx - 1))
       AND gpt2._assert(bad.token IS NULL, 'invalid_parameter_value',
               format('token %s is not in the vocabulary of model "%s"', bad.token, (m).name),
               format('Tokens are 0 to %s.', (m).n_vocab - 1),
               'Tokens come from gpt2_tokenize(prompt, model), for the same model.')
    FROM (
        SELECT (array_agg(coalesce(t.token::text, 'NULL') ORDER BY t.n))[1]
        FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
        WHERE t.token IS NULL OR t.token NOT BETWEEN 0 AND (m).n_vocab - 1
    ) AS bad (token);
END;
COMMENT ON FUNCTION gpt2._check_tokens(int[], gpt2.model) IS
    'true, or an error where the model cannot read the tokens';


CREATE FUNCTION gpt2._token_weight(token int, layer gpt2.embedding, m gpt2.model)
RETURNS TABLE (weight vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Scalar subqueries, as the planner would make a hash table of all pages for a join. The second
    -- of two is run where the first finds nothing: in a variant.
    SELECT coalesce(
        (SELECT coalesce(p.weight[i.i], p.half[i.i]::vector)
         FROM gpt2.token_page AS p
         WHERE p.model = (m).model AND p.layer = _token_weight.layer
           AND p.page = _token_weight.token / (m).page_size),
        (SELECT coalesce(p.weight[i.i], p.half[i.i]::vector)
         FROM gpt2.token_page AS p
         WHERE p.model = (m).base AND p.layer = _token_weight.layer
           AND p.page = _token_weight.token / (m).page_size))
    FROM (SELECT _token_weight.token % (m).page_size + 1) AS i (i);
END;
COMMENT ON FUNCTION gpt2._token_weight(int, gpt2.embedding, gpt2.model) IS
    'a row of wte or lm_head, found by its page: the views look at all of them';


CREATE FUNCTION gpt2._embedding(token int, "position" int, m gpt2.model)
RETURNS TABLE (embed vector, pos_embed vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT w.weight, coalesce(
        (SELECT p.weight FROM gpt2.wpe_row AS p
         WHERE p.model = (m).model AND p."position" = _embedding."position"),
        (SELECT p.weight FROM gpt2.wpe_row AS p
         WHERE p.model = (m).base AND p."position" = _embedding."position"))
    FROM gpt2._token_weight(_embedding.token, 'wte', m) AS w;
END;
COMMENT ON FUNCTION gpt2._embedding(int, int, gpt2.model) IS
    'the token''s embedding and the position''s; the first block reads their sum';


CREATE FUNCTION gpt2._forward(
    tokens int[], m gpt2.model, wanted text[],
    patch gpt2._patch DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL
) RETURNS SETOF gpt2.activation
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- wanted: full names of hook points. A row of the recursion is a block: x, the residual stream
    -- after it, [n_seq, n_embd], and those of its activations that are wanted.
    WITH RECURSIVE last AS MATERIALIZED (
        -- the last block whose activations are wanted; n_layer, the layer norm after all of them
        SELECT coalesce(max(CASE WHEN w ~ '^ln_final' THEN (m).n_layer WHEN w ~ '^hook' THEN -1
                                 ELSE split_part(w, '.', 2)::int END), -1) AS block
        FROM unnest(wanted) AS w
    ), embedding AS MATERIALIZED (
        SELECT e.embed, e.pos_embed, t.n::int - 1 AS "position"
        FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
        CROSS JOIN LATERAL (
            SELECT gpt2._hook(e.embed, 'hook_embed', NULL, NULL, t.n::int - 1, patch) AS embed,
                   gpt2._hook(e.pos_embed, 'hook_pos_embed', NULL, NULL, t.n::int - 1, patch)
                       AS pos_embed
            FROM gpt2._embedding(t.token, t.n::int - 1, m) AS e
            OFFSET 0
        ) AS e
    ), block AS (
        SELECT -1 AS block,
               (SELECT array_agg(e.embed + e.pos_embed ORDER BY e."position") FROM embedding AS e)
                   AS x,
               NULL::gpt2.activation[] AS activations
    UNION ALL
        SELECT b.block + 1, a.resid_post, wanted.activations
        FROM block AS b
        CROSS JOIN last
        CROSS JOIN LATERAL (
            SELECT CASE WHEN patch IS NULL THEN s.x
                   ELSE (SELECT array_agg(gpt2._hook(p.x, 'hook_resid_pre', b.block + 1, NULL,
                                                     p.n::int - 1, patch) ORDER BY p.n)
                         FROM unnest(s.x) WITH ORDINALITY AS p (x, n)) END AS x
            FROM (SELECT CASE WHEN steer IS NULL THEN b.x
                         ELSE gpt2._steer(b.x, 0, b.block + 1, steer) END AS x OFFSET 0) AS s
            OFFSET 0
        ) AS resid_pre
        CROSS JOIN LATERAL gpt2._block(resid_pre.x, m, b.block + 1, patch) AS a
        CROSS JOIN LATERAL (
            SELECT array_agg(ROW(b.block + 1, h.head, p.n - 1, h.hook, p.value)::gpt2.activation)
                       AS activations
            FROM (
                SELECT NULL::int, v.hook, v.value
                FROM (VALUES ('hook_resid_pre', resid_pre.x),
                             ('ln1.hook_normalized', a.ln1_normalized),
                             ('ln1.hook_out', a.ln1)) AS v (hook, value)
            UNION ALL
                SELECT h.n::int - 1, v.hook, v.value
                FROM unnest(a.heads) WITH ORDINALITY AS h (q, k, v, scores, pattern, z, n)
                CROSS JOIN LATERAL (VALUES
                    ('attn.hook_q', h.q), ('attn.hook_k', h.k), ('attn.hook_v', h.v),
                    ('attn.hook_attn_scores', h.scores), ('attn.hook_pattern', h.pattern),
                    ('attn.hook_z', h.z)) AS v (hook, value)
            UNION ALL
                SELECT NULL, v.hook, v.value
                FROM (VALUES ('hook_attn_out', a.attn_out), ('hook_resid_mid', a.resid_mid),
                             ('ln2.hook_normalized', a.ln2_normalized), ('ln2.hook_out', a.ln2),
                             ('mlp.hook_pre', a.mlp_pre), ('mlp.hook_post', a.mlp_post),
                             ('hook_mlp_out', a.mlp_out),
                             ('hook_resid_post', a.resid_post)) AS v (hook, value)
            ) AS h (head, hook, value)
            CROSS JOIN LATERAL unnest(h.value) WITH ORDINALITY AS p (value, n)
            WHERE gpt2._full_name(h.hook, b.block + 1) = ANY (wanted)
        ) AS wanted
        WHERE b.block + 1 < least(last.block + 1, (m).n_layer)
    )
    SELECT NULL::int, NULL::int, e."position", h.hook, h.value
    FROM embedding AS e
    CROSS JOIN LATERAL (VALUES ('hook_embed', e.embed), ('hook_pos_embed', e.pos_embed))
        AS h (hook, value)
    WHERE h.hook = ANY (wanted)
UNION ALL
    SELECT a.*
    FROM block AS b
    CROSS JOIN LATERAL unnest(b.activations) AS a
UNION ALL
    SELECT NULL, NULL, p.n::int - 1, h.hook, h.value
    FROM last
    JOIN block AS b ON last.block = (m).n_layer AND b.block = (m).n_layer - 1
    CROSS JOIN LATERAL unnest(
        CASE WHEN steer IS NULL THEN b.x ELSE gpt2._steer(b.x, 0, b.block + 1, steer) END
    ) WITH ORDINALITY AS p (x, n)
    CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, b.block + 1, 'ln_f', p.n::int - 1, patch) AS n
    CROSS JOIN LATERAL (VALUES
        ('ln_final.hook_normalized', n.normalized),
        ('ln_final.hook_out',
         gpt2._hook(n.y, 'ln_final.hook_out', NULL, NULL, p.n::int - 1, patch))) AS h (hook, value)
    WHERE h.hook = ANY (wanted);
END;
COMMENT ON FUNCTION gpt2._forward(int[], gpt2.model, text[], gpt2._patch, gpt2.steering[]) IS
    'the forward pass over all positions: those of its activations that are wanted';


CREATE FUNCTION gpt2._edited_tokens(
    y vector, half halfvec, model int, base int, layer gpt2.embedding
) RETURNS float8[]
LANGUAGE sql STABLE PARALLEL SAFE
-- Both come from the index in the order of their pages: merging them costs next to nothing.
SET enable_nestloop = off
SET enable_hashjoin = off
BEGIN ATOMIC
    SELECT CASE WHEN _edited_tokens.y IS NOT NULL
        THEN ARRAY(
            SELECT -(unnest(coalesce(o.weight, p.weight)) <#> _edited_tokens.y)
            FROM gpt2.token_page AS p
            LEFT JOIN gpt2.token_page AS o
                ON o.model = _edited_tokens.model AND o.layer = _edited_tokens.layer
                AND o.page = p.page
            WHERE p.model = base AND p.layer = _edited_tokens.layer ORDER BY p.page)
        ELSE ARRAY(
            SELECT -(unnest(coalesce(o.half, p.half)) <#> _edited_tokens.half)
            FROM gpt2.token_page AS p
            LEFT JOIN gpt2.token_page AS o
                ON o.model = _edited_tokens.model AND o.layer = _edited_tokens.layer
                AND o.page = p.page
            WHERE p.model = base AND p.layer = _edited_tokens.layer ORDER BY p.page)
        END;
END;
COMMENT ON FUNCTION gpt2._edited_tokens(vector, halfvec, int, int, gpt2.embedding) IS
    'inner products with the pages of a variant, where it has none with those of its base';


CREATE FUNCTION gpt2._unembed(y vector, m gpt2.model)
RETURNS TABLE (logits float8[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Ids that only pad the vocabulary are left out: those from n_token on but for eos_token.
    SELECT CASE WHEN (m).n_token = (m).n_vocab THEN l.logits
                WHEN (m).eos_token < (m).n_token THEN l.logits[:(m).n_token]
                ELSE l.logits[:(m).n_token]
                     || array_fill('-Infinity'::float8, ARRAY[(m).eos_token - (m).n_token])
                     || l.logits[(m).eos_token + 1]
           END
    FROM (
        SELECT i.*, i.base IS NOT NULL AND EXISTS (
                   SELECT FROM gpt2.token_page AS o
                   WHERE o.model = i.model AND o.layer = i.layer) AS edited
        FROM (
            SELECT (m).model, (m).base, coalesce((m).base, (m).model) AS source,
                   CASE (m).precision WHEN 'float32' THEN _unembed.y END AS y,
                   CASE (m).precision WHEN 'float16' THEN _unembed.y::halfvec END AS half,
                   CASE WHEN (m).tie_word_embeddings THEN 'wte' ELSE 'lm_head' END::gpt2.embedding
                       AS layer
            OFFSET 0
        ) AS i
        OFFSET 0
    ) AS input
    CROSS JOIN LATERAL (
        SELECT CASE WHEN input.edited
            THEN gpt2._edited_tokens(input.y, input.half, input.model, input.base, input.layer)
            WHEN input.y IS NOT NULL
            THEN ARRAY(
                SELECT -(unnest(p.weight) <#> input.y) FROM gpt2.token_page AS p
                WHERE p.model = input.source AND p.layer = input.layer ORDER BY p.page)
            ELSE ARRAY(
                SELECT -(unnest(p.half) <#> input.half) FROM gpt2.token_page AS p
                WHERE p.model = input.source AND p.layer = input.layer ORDER BY p.page)
            END
        OFFSET 0
    ) AS l (logits);
END;
COMMENT ON FUNCTION gpt2._unembed(vector, gpt2.model) IS
    'logits of tokens 0, 1, ... after a position: inner products with their output embeddings';


CREATE FUNCTION gpt2._logits(y vector, m gpt2.model)
RETURNS TABLE (token int, logit float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 50000
BEGIN ATOMIC
    SELECT l.token, l.logit
    FROM (SELECT generate_subscripts(u.logits, 1) - 1 AS token, unnest(u.logits) AS logit
          FROM gpt2._unembed(y, m) AS u) AS l
    WHERE l.logit > '-Infinity';
END;
COMMENT ON FUNCTION gpt2._logits(vector, gpt2.model) IS 'logits after a position, a token a row';


CREATE FUNCTION gpt2_embeddings(tokens int[], model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
SET enable_bitmapscan = off
SET enable_seqscan = off
BEGIN ATOMIC
    SELECT CASE WHEN tokens IS NOT NULL AND gpt2._check_tokens(tokens, m.m)
                THEN (SELECT array_agg(e.embed + e.pos_embed ORDER BY t.n)
                      FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
                      CROSS JOIN LATERAL gpt2._embedding(t.token, t.n::int - 1, m.m) AS e) END
    FROM (SELECT gpt2._model(gpt2_embeddings.model) AS m OFFSET 0) AS m;
END;
COMMENT ON FUNCTION gpt2_embeddings(int[], text) IS
    'what the first block reads, [n_seq, n_embd]: token embedding plus position embedding';


CREATE FUNCTION gpt2_block(x vector[], block int, model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
SET enable_bitmapscan = off
SET enable_seqscan = off
BEGIN ATOMIC
    SELECT CASE WHEN x IS NOT NULL
        AND gpt2._assert(block BETWEEN 0 AND (m.m).n_layer - 1, 'invalid_parameter_value',
            format('block %s does not exist in model "%s"', coalesce(block::text, 'NULL'),
                   (m.m).name),
            format('Its blocks are 0 to %s.', (m.m).n_layer - 1),
            'SELECT name, n_layer FROM gpt2_models(); lists the numbers of blocks.')
        AND gpt2._assert(cardinality(x) > 0, 'invalid_parameter_value',
            'the list of activations is empty', 'A block needs at least one position.',
            'Activations come from gpt2_embeddings(tokens, model).')
        AND gpt2._assert(cardinality(x) <= (m.m).n_ctx, 'program_limit_exceeded',
            format('%s positions are too long for model "%s"', cardinality(x), (m.m).name),
            format('Its context is %s tokens.', (m.m).n_ctx),
            'SELECT name, n_ctx FROM gpt2_models(); lists the contexts.')
        AND gpt2._assert(
            (SELECT bool_and(coalesce(vector_dims(v.x) = (m.m).n_embd, false))
             FROM unnest(x) AS v (x)),
            'invalid_parameter_value',
            format('the activations do not fit model "%s"', (m.m).name),
            format('Each must be a vector of width %s.', (m.m).n_embd),
            'Activations come from gpt2_embeddings(tokens, model), for the same model.')
        THEN (SELECT b.resid_post FROM gpt2._block(x, m.m, block) AS b) END
    FROM (SELECT gpt2._model(gpt2_block.model) AS m OFFSET 0) AS m;
END;
COMMENT ON FUNCTION gpt2_block(vector[], int, text) IS
    'one transformer block, counted from 0: [n_seq, n_embd] -> [n_seq, n_embd]';


CREATE FUNCTION gpt2_forward(tokens int[], model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
SET enable_bitmapscan = off
SET enable_seqscan = off
BEGIN ATOMIC
    WITH m AS MATERIALIZED (
        SELECT c.m
        FROM (SELECT gpt2._model(gpt2_forward.model) AS m OFFSET 0) AS c
        WHERE tokens IS NOT NULL AND gpt2._check_tokens(tokens, c.m)
    )
    SELECT array_agg(a.value ORDER BY a."position")
    FROM m
    CROSS JOIN LATERAL gpt2._forward(tokens, m.m, '{ln_final.hook_out}') AS a;
END;
COMMENT ON FUNCTION gpt2_forward(int[], text) IS
    'activations after ln_f, [n_seq, n_embd]; their inner products with wte are the logits';
