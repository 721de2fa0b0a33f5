-- A text as one vector: what the model has made of its positions, pooled.
--     [n_seq, n_embd] -> [n_embd]
-- Source of 'weighted': Muennighoff 2022 (arXiv:2202.08904), section 3.1: a position has seen only
-- what comes before it, so later ones count for more.


CREATE FUNCTION gpt2._pool(x vector[], pooling text)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE pooling
        WHEN 'mean' THEN (SELECT avg(p.x) FROM unnest(_pool.x) AS p (x))
        WHEN 'last' THEN _pool.x[cardinality(_pool.x)]
        -- [n_embd, n_seq]: the largest number of each row
        WHEN 'max' THEN (
            SELECT ARRAY(SELECT (SELECT max(u.x) FROM unnest(r.x::real[]) AS u (x))
                         FROM unnest(t.y) AS r (x))::vector
            FROM gpt2._transpose(_pool.x) AS t)
        -- [n_embd, n_seq] times [n_seq]: 1, 2, ..., each by their sum
        WHEN 'weighted' THEN (
            SELECT ARRAY(SELECT -(r.x <#> w.weight) FROM unnest(t.y) AS r (x))::vector
            FROM gpt2._transpose(_pool.x) AS t
            CROSS JOIN (
                SELECT array_agg(2 * i / (n.n * (n.n + 1)) ORDER BY i)::vector AS weight
                FROM (SELECT cardinality(_pool.x)::float8 AS n) AS n
                CROSS JOIN LATERAL generate_series(1, n.n::int) AS i
            ) AS w)
    END;
END;
COMMENT ON FUNCTION gpt2._pool IS
    'one vector for all positions: their mean, largest, last, or mean weighted by position';


CREATE FUNCTION gpt2_embed(
    text text DEFAULT NULL, pooling text DEFAULT 'mean', block int DEFAULT NULL,
    model text DEFAULT NULL,
--@include ../arguments/prompt.sql
    truncate text DEFAULT NULL
) RETURNS vector
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS (
        SELECT i.m, i.tokens,
               gpt2._full_name('hook_resid_post', gpt2_embed.block) AS hook
        FROM gpt2._input(
            gpt2._prompt(gpt2_embed.text, input_ids, special_tokens, truncate), gpt2_embed.model)
            AS i
        WHERE gpt2._assert(pooling IN ('mean', 'weighted', 'max', 'last'),
                  'invalid_parameter_value',
                  format('pooling "%s" does not exist', coalesce(pooling, 'NULL')),
                  'It says how the positions of a text become one vector.',
                  'Use mean, weighted (by position), max or last.')
          AND gpt2._assert(coalesce(gpt2_embed.block, 0) BETWEEN 0 AND (i.m).n_layer - 1,
                  'invalid_parameter_value',
                  format('block %s does not exist in model "%s"', gpt2_embed.block, (i.m).name),
                  format('Its blocks are 0 to %s.', (i.m).n_layer - 1),
                  'Use NULL for what the last layer norm gives.')
    )
    SELECT p.y
    FROM (
        -- [n_seq, n_embd]; what a block gives only the pass with hook points tells
        SELECT array_agg(f.value ORDER BY f."position") AS x
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, ARRAY[i.hook]) AS f
        WHERE gpt2_embed.block IS NOT NULL
        HAVING gpt2_embed.block IS NOT NULL
    UNION ALL
        (SELECT (gpt2._run(gpt2._begin(i.tokens, i.m), i.m, cardinality(i.tokens),
                           keep => false)).y
         FROM input AS i
         WHERE gpt2_embed.block IS NULL
         OFFSET 0)
    ) AS a
    CROSS JOIN LATERAL gpt2._pool(a.x, pooling) AS p
    WHERE a.x IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2_embed IS
    'a text as one vector of width n_embd: its activations after a block, or at the end, pooled '
    'over the positions';


CREATE FUNCTION gpt2_similarity(
    a text, b text, pooling text DEFAULT 'mean', block int DEFAULT NULL, model text DEFAULT NULL,
    special_tokens boolean DEFAULT false, truncate text DEFAULT NULL
) RETURNS float8
LANGUAGE sql STABLE PARALLEL SAFE COST 2000000
RETURN 1 - (
    gpt2_embed(a, pooling, block, model, special_tokens => special_tokens, truncate => truncate)
    <=> gpt2_embed(b, pooling, block, model, special_tokens => special_tokens,
                   truncate => truncate));
COMMENT ON FUNCTION gpt2_similarity IS
    'cosine of the angle between the embeddings of two texts: 1 for the same direction, -1 for the '
    'opposite one';
