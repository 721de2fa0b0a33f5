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


CREATE FUNCTION gpt2._embedding(token int, "position" int, m gpt2.model)
RETURNS TABLE (x vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Scalar subqueries, as the planner would make a hash table of all positions for a join. The
    -- second of two is run where the first finds nothing: in a variant.
    SELECT coalesce(
            (SELECT coalesce(w.weight[i.i], w.half[i.i]::vector)
             FROM gpt2.token_page AS w
             WHERE w.model = (m).model AND w.layer = 'wte'
               AND w.page = _embedding.token / (m).page_size),
            (SELECT coalesce(w.weight[i.i], w.half[i.i]::vector)
             FROM gpt2.token_page AS w
             WHERE w.model = (m).base AND w.layer = 'wte'
               AND w.page = _embedding.token / (m).page_size))
        + coalesce(
            (SELECT w.weight FROM gpt2.wpe_row AS w
             WHERE w.model = (m).model AND w."position" = _embedding."position"),
            (SELECT w.weight FROM gpt2.wpe_row AS w
             WHERE w.model = (m).base AND w."position" = _embedding."position"))
    FROM (SELECT _embedding.token % (m).page_size + 1) AS i (i);
END;
COMMENT ON FUNCTION gpt2._embedding(int, int, gpt2.model) IS
    'what the first block reads of a position: the token''s embedding plus the position''s';


CREATE FUNCTION gpt2._embeddings(tokens int[], m gpt2.model)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_agg(e.x ORDER BY t.n)
    FROM unnest(tokens) WITH ORDINALITY AS t (token, n)
    CROSS JOIN LATERAL gpt2._embedding(t.token, t.n::int - 1, m) AS e;
END;
COMMENT ON FUNCTION gpt2._embeddings(int[], gpt2.model) IS
    'what the first block reads, [n_seq, n_embd]';


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
                THEN gpt2._embeddings(tokens, m.m) END
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
        THEN gpt2._block(x, m.m, block) END
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
    WITH RECURSIVE m AS MATERIALIZED (
        SELECT c.m
        FROM (SELECT gpt2._model(gpt2_forward.model) AS m OFFSET 0) AS c
        WHERE tokens IS NOT NULL AND gpt2._check_tokens(tokens, c.m)
    ), block AS (
        SELECT 0 AS block, gpt2._embeddings(tokens, m.m) AS x FROM m
    UNION ALL
        SELECT b.block + 1, gpt2._block(b.x, m.m, b.block)
        FROM block AS b, m
        WHERE b.block < (m.m).n_layer
    )
    SELECT array_agg(n.y ORDER BY p.n)
    FROM m
    JOIN block AS b ON b.block = (m.m).n_layer
    CROSS JOIN LATERAL unnest(b.x) WITH ORDINALITY AS p (x, n)
    CROSS JOIN LATERAL gpt2._layer_norm(p.x, m.m, b.block, 'ln_f') AS n;
END;
COMMENT ON FUNCTION gpt2_forward(int[], text) IS
    'activations after ln_f, [n_seq, n_embd]; their inner products with wte are the logits';
