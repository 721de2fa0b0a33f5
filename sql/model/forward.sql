-- The model: embeddings, the blocks, one more layer norm; the output projection turns a position
-- into a logit for every token.  tokens [n_seq] -> [n_seq, n_embd] -> [n_seq, n_vocab]
-- Source: model() in openai/gpt-2, src/model.py. A reader can walk it by hand: gpt2_embeddings,
-- then gpt2_block for block 0, 1, ..., is gpt2_forward but for ln_f.


CREATE FUNCTION gpt2._check_ids(tokens int[], m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert(coalesce(array_ndims(tokens), 1) = 1, 'invalid_parameter_value',
               format('the list of tokens has %s dimensions', array_ndims(tokens)),
               'It must have one: the positions of one text.', 'Call the function for each text.')
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
COMMENT ON FUNCTION gpt2._check_ids IS
    'true, or an error where this is no list of tokens that the model has';


CREATE FUNCTION gpt2._check_tokens(tokens int[], m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(cardinality(tokens), 0) > 0, 'invalid_parameter_value',
           'the list of tokens is empty', 'A forward pass needs at least one position.',
           'Tokens come from gpt2_tokenize(prompt).')
       AND gpt2._assert(cardinality(tokens) <= (m).n_ctx, 'program_limit_exceeded',
           format('%s tokens are too long for model "%s"', cardinality(tokens), (m).name),
           format('Its context is %s tokens.', (m).n_ctx),
           format('Use the last %s: tokens[cardinality(tokens) - %s:].', (m).n_ctx,
                  (m).n_ctx - 1))
       AND gpt2._check_ids(tokens, m);
COMMENT ON FUNCTION gpt2._check_tokens IS
    'true, or an error where the model cannot read the tokens';


CREATE FUNCTION gpt2._forward(
    tokens int[], m gpt2.model, wanted text[],
    patch gpt2._patch DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL
) RETURNS SETOF gpt2.activation
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- wanted: full names of hook points. A row of the recursion is a block: x, the residual stream
    -- after it, [n_seq, n_embd], and those of its activations that are wanted.
    WITH RECURSIVE last AS (
        -- the last block whose activations are wanted; n_layer, the layer norm after all of them
        SELECT coalesce(max(CASE WHEN w ~ '^ln_final' THEN (m).n_layer WHEN w ~ '^hook' THEN -1
                                 ELSE split_part(w, '.', 2)::int END), -1) AS block
        FROM unnest(wanted) AS w
    ), embedding AS (
        SELECT embed.y AS embed, pos_embed.y AS pos_embed, t.n::int - 1 AS "position"
        FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
        CROSS JOIN LATERAL gpt2._embedding(t.token, t.n::int - 1, m) AS e
        CROSS JOIN LATERAL
            gpt2._hook(e.embed, 'hook_embed', NULL, NULL, t.n::int - 1, patch) AS embed
        CROSS JOIN LATERAL
            gpt2._hook(e.pos_embed, 'hook_pos_embed', NULL, NULL, t.n::int - 1, patch) AS pos_embed
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
                   ELSE (SELECT array_agg(h.y ORDER BY p.n)
                         FROM unnest(s.x) WITH ORDINALITY AS p (x, n)
                         CROSS JOIN LATERAL gpt2._hook(p.x, 'hook_resid_pre', b.block + 1, NULL,
                                                       p.n::int - 1, patch) AS h) END AS x
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
        ('ln_final.hook_normalized', n.normalized), ('ln_final.hook_out', n.y)) AS h (hook, value)
    WHERE h.hook = ANY (wanted);
END;
COMMENT ON FUNCTION gpt2._forward IS
    'the forward pass over all positions: those of its activations that are wanted';


CREATE FUNCTION gpt2_embeddings(tokens int[], model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
--@include settings.sql
BEGIN ATOMIC
    SELECT CASE WHEN tokens IS NOT NULL AND gpt2._check_tokens(tokens, m)
                THEN (SELECT array_agg(e.embed + e.pos_embed ORDER BY t.n)
                      FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
                      CROSS JOIN LATERAL gpt2._embedding(t.token, t.n::int - 1, m) AS e) END
    FROM gpt2._chosen_model(gpt2_embeddings.model) AS m;
END;
COMMENT ON FUNCTION gpt2_embeddings IS
    'what the first block reads, [n_seq, n_embd]: token embedding plus position embedding';


CREATE FUNCTION gpt2_block(x vector[], block int, model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
--@include settings.sql
BEGIN ATOMIC
    SELECT CASE WHEN x IS NOT NULL
        AND gpt2._assert(block BETWEEN 0 AND m.n_layer - 1, 'invalid_parameter_value',
            format('block %s does not exist in model "%s"', coalesce(block::text, 'NULL'),
                   m.name),
            format('Its blocks are 0 to %s.', m.n_layer - 1),
            'SELECT name, n_layer FROM gpt2_models(); lists the numbers of blocks.')
        AND gpt2._assert(cardinality(x) > 0, 'invalid_parameter_value',
            'the list of activations is empty', 'A block needs at least one position.',
            'Activations come from gpt2_embeddings(tokens, model).')
        AND gpt2._assert(array_ndims(x) = 1, 'invalid_parameter_value',
            format('the list of activations has %s dimensions', array_ndims(x)),
            'It must have one: the positions of one text.', 'Call the function for each text.')
        AND gpt2._assert(cardinality(x) <= m.n_ctx, 'program_limit_exceeded',
            format('%s positions are too long for model "%s"', cardinality(x), m.name),
            format('Its context is %s tokens.', m.n_ctx),
            'SELECT name, n_ctx FROM gpt2_models(); lists the contexts.')
        AND gpt2._assert(
            (SELECT bool_and(coalesce(vector_dims(v.x) = m.n_embd AND gpt2._is_moderate(v.x),
                                      false))
             FROM unnest(x) AS v (x)),
            'invalid_parameter_value',
            format('the activations do not fit model "%s"', m.name),
            format('Each must be a vector of width %s, its norm at most 1e15.', m.n_embd),
            'Activations come from gpt2_embeddings(tokens, model), for the same model.')
        -- a slice is counted from 1
        THEN (SELECT b.resid_post
              FROM (SELECT gpt2_block.x[:] AS x OFFSET 0) AS i
              CROSS JOIN LATERAL gpt2._block(i.x, m, block) AS b) END
    FROM gpt2._chosen_model(gpt2_block.model) AS m;
END;
COMMENT ON FUNCTION gpt2_block IS
    'one transformer block, counted from 0: [n_seq, n_embd] -> [n_seq, n_embd]';


CREATE FUNCTION gpt2_forward(tokens int[], model text DEFAULT NULL)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
--@include settings.sql
BEGIN ATOMIC
    WITH m AS (
        SELECT c AS m
        FROM gpt2._chosen_model(gpt2_forward.model) AS c
        WHERE tokens IS NOT NULL AND gpt2._check_tokens(tokens, c)
    )
    SELECT array_agg(a.value ORDER BY a."position")
    FROM m
    CROSS JOIN LATERAL gpt2._forward(tokens, m.m, '{ln_final.hook_out}') AS a;
END;
COMMENT ON FUNCTION gpt2_forward IS
    'activations after ln_f, [n_seq, n_embd]; their inner products with wte are the logits';
