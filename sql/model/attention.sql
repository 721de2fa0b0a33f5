-- Causal self-attention: each position looks back at itself and at those before it, and takes a
-- weighted mean of what they offer.
--     attention(q, k, v) = softmax(q . k / sqrt(d)) v,  d = n_embd / n_head,  in every head
-- [n_seq, n_embd] -> [n_head, n_seq, d]
-- Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; attn() in openai/gpt-2,
-- src/model.py.
--
-- This is the formula over all positions at once, as a reader wants to see it. Generation asks for
-- one position at a time, with a cache of the others: engine/cache.sql.


CREATE AGGREGATE gpt2._concat(vector) (
    SFUNC = vector_concat, STYPE = vector, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._concat(vector) IS 'vectors end to end';


CREATE FUNCTION gpt2._attention_scale(m gpt2.model)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (m).scale_attn_weights THEN 1 / sqrt(((m).n_embd / (m).n_head)::float8) ELSE 1 END;
COMMENT ON FUNCTION gpt2._attention_scale IS 'factor of the scores: 1 / sqrt(d)';


CREATE FUNCTION gpt2._softmax(x vector)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- softmax(x) = exp(x) / sum(exp(x)). The largest is taken off before exp, which changes nothing
    -- but its range, and exp() would raise an error below -745.
    SELECT ARRAY(SELECT unnest(e.x) / e.total)::vector
    FROM (
        SELECT array_agg(u.x) AS x, sum(u.x) AS total
        FROM (SELECT exp(greatest(unnest(i.x) - i.largest, -700)) AS x
              FROM (SELECT array_agg(x) AS x, max(x) AS largest
                    FROM (SELECT unnest(_softmax.x::real[])::float8 AS x) AS s) AS i) AS u
    ) AS e;
END;
COMMENT ON FUNCTION gpt2._softmax IS 'shares in the ratio of exp(x), which add up to 1';


CREATE FUNCTION gpt2._transpose(x vector[])
RETURNS TABLE (y vector[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n, d] -> [d, n]: end to end, every d-th number belongs to the same row
    SELECT ARRAY(
        SELECT ARRAY(SELECT u.x[i] FROM generate_series(j, cardinality(u.x), u.d) AS i)::vector
        FROM generate_series(1, u.d) AS j)
    FROM (
        SELECT ARRAY(SELECT unnest(r.x::real[]) FROM (SELECT unnest(_transpose.x) AS x) AS r) AS x,
               vector_dims(_transpose.x[1]) AS d
        OFFSET 0
    ) AS u;
END;
COMMENT ON FUNCTION gpt2._transpose IS 'transposed matrix: [n, d] -> [d, n]';


-- What the heads compute, a row of vectors a position each.
CREATE TYPE gpt2._head AS (
    q vector[],        -- [n_seq, d]: queries
    k vector[],        -- [n_seq, d]: keys
    v vector[],        -- [n_seq, d]: values
    scores vector[],   -- [n_seq, position + 1]: how well the key of each earlier position fits
    pattern vector[],  -- [n_seq, position + 1]: softmax of the scores
    z vector[]         -- [n_seq, d]: mean of the values, weighted by the pattern
);
COMMENT ON TYPE gpt2._head IS 'activations of one head of attention at all positions';


CREATE FUNCTION gpt2._attention(
    x vector[], m gpt2.model, block int, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (head int, activations gpt2._head)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 12
BEGIN ATOMIC
    WITH head AS MATERIALIZED (
        -- three times [n_head, n_seq, d]: the queries, keys and values that c_attn computes
        SELECT h.head,
               array_agg(gpt2._hook(subvector(p.qkv, 1 + h.head * h.d, h.d),
                   'attn.hook_q', block, h.head, p."position", patch) ORDER BY p."position") AS q,
               array_agg(gpt2._hook(subvector(p.qkv, 1 + h.head * h.d + h.n_embd, h.d),
                   'attn.hook_k', block, h.head, p."position", patch) ORDER BY p."position") AS k,
               array_agg(gpt2._hook(subvector(p.qkv, 1 + h.head * h.d + 2 * h.n_embd, h.d),
                   'attn.hook_v', block, h.head, p."position", patch) ORDER BY p."position") AS v
        FROM (
            SELECT i.n::int - 1, l.y
            FROM unnest(x) WITH ORDINALITY AS i (x, n)
            CROSS JOIN LATERAL gpt2._linear(i.x, m, block, 'attn.c_attn') AS l
            OFFSET 0
        ) AS p ("position", qkv)
        CROSS JOIN (
            SELECT head, (m).n_embd / (m).n_head, (m).n_embd
            FROM generate_series(0, (m).n_head - 1) AS head
            OFFSET 0
        ) AS h (head, d, n_embd)
        GROUP BY h.head
    )
    SELECT h.head,
           (SELECT ROW(h.q, h.k, h.v, array_agg(s.scores ORDER BY q.n),
                       array_agg(p.pattern ORDER BY q.n), array_agg(z.z ORDER BY q.n))::gpt2._head
            FROM unnest(h.q) WITH ORDINALITY AS q (q, n)
            CROSS JOIN LATERAL (
                -- how well each earlier position's key fits the query; <#> is the inner product,
                -- negated
                SELECT gpt2._hook(
                    ARRAY(SELECT -(k <#> q.q) * scale.scale FROM unnest(h.k[:q.n]) AS k)::vector,
                    'attn.hook_attn_scores', block, h.head, q.n::int - 1, patch) AS scores
                OFFSET 0
            ) AS s
            CROSS JOIN LATERAL (
                SELECT gpt2._hook(p.y, 'attn.hook_pattern', block, h.head, q.n::int - 1, patch)
                           AS pattern
                FROM gpt2._softmax(s.scores) AS p
                OFFSET 0
            ) AS p
            CROSS JOIN LATERAL (
                SELECT gpt2._hook(
                    ARRAY(SELECT -(v <#> w.pattern) FROM unnest(v.y) AS v)::vector,
                    'attn.hook_z', block, h.head, q.n::int - 1, patch) AS z
                -- with weight 0 for what comes later
                FROM (SELECT (p.pattern::real[]
                              || array_fill(0::real, ARRAY[cardinality(h.q) - q.n::int]))::vector
                             AS pattern
                      OFFSET 0) AS w
                OFFSET 0
            ) AS z)
    FROM head AS h
    -- [d, n_seq]: each number of the values over all positions, so that a weighted mean of the
    -- values is inner products with the weights
    CROSS JOIN LATERAL gpt2._transpose(h.v) AS v
    CROSS JOIN (SELECT gpt2._attention_scale(m) OFFSET 0) AS scale (scale);
END;
COMMENT ON FUNCTION gpt2._attention IS
    'causal self-attention of each head over all positions, up to z; c_proj follows in the block';
