-- Causal self-attention: each position looks back at itself and at those before it, and takes a
-- weighted mean of what they offer.
--     attention(q, k, v) = softmax(q . k / sqrt(d)) v,  d = n_embd / n_head,  in every head
-- [n_seq, n_embd] -> [n_seq, n_embd]
-- Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; attn() in openai/gpt-2,
-- src/model.py.
--
-- This is the formula over all positions at once, as a reader wants to see it. Generation asks for
-- one position at a time, with a cache of the others: generation/cache.sql.


CREATE AGGREGATE gpt2._concat(vector) (
    SFUNC = vector_concat, STYPE = vector, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._concat(vector) IS 'vectors end to end';


CREATE FUNCTION gpt2._attention_scale(m gpt2.model)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (m).scale_attn_weights THEN 1 / sqrt(((m).n_embd / (m).n_head)::float8) ELSE 1 END;
COMMENT ON FUNCTION gpt2._attention_scale(gpt2.model) IS 'factor of the scores: 1 / sqrt(d)';


CREATE FUNCTION gpt2._attention(x vector[], m gpt2.model, block int)
RETURNS TABLE ("position" int, y vector)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH qkv AS MATERIALIZED (
        -- [n_seq, 3 * n_embd]
        SELECT p.n::int - 1 AS "position", l.y AS qkv
        FROM unnest(x) WITH ORDINALITY AS p (x, n)
        CROSS JOIN LATERAL gpt2._linear(p.x, m, block, 'attn.c_attn') AS l
    ), head AS MATERIALIZED (
        -- [n_head, n_seq, d], three times
        SELECT h.head, p."position",
               subvector(p.qkv, 1 + h.head * h.d, h.d) AS q,
               subvector(p.qkv, 1 + h.head * h.d + (m).n_embd, h.d) AS k,
               subvector(p.qkv, 1 + h.head * h.d + 2 * (m).n_embd, h.d) AS v,
               h.d
        FROM qkv AS p
        CROSS JOIN (
            SELECT head, (m).n_embd / (m).n_head
            FROM generate_series(0, (m).n_head - 1) AS head
        ) AS h (head, d)
    ), score AS (
        -- [n_head, n_seq, n_seq]: how well each earlier position's key fits the query
        SELECT q.head, q."position", k.v, k.d, -(q.q <#> k.k) * gpt2._attention_scale(m) AS score
        FROM head AS q
        JOIN head AS k ON k.head = q.head AND k."position" <= q."position"
        OFFSET 0
    ), pattern AS (
        -- softmax over the keys; the largest score is taken off before exp, which changes nothing
        -- but its range, and exp() would raise an error below -745
        SELECT s.head, s."position", s.v, s.d,
               exp(greatest(s.score - max(s.score) OVER w, -700)) AS weight
        FROM score AS s
        WINDOW w AS (PARTITION BY s.head, s."position")
    ), z AS (
        -- [n_head, n_seq, d]: the weighted mean of the values. A weight below 1e-12 adds nothing
        -- that float4 could hold, and pgvector raises an error where a product underflows.
        SELECT p.head, p."position",
               sum(gpt2._fill(CASE WHEN p.share > 1e-12 THEN p.share ELSE 0 END, p.d) * p.v) AS z
        FROM (SELECT *, weight / sum(weight) OVER (PARTITION BY head, "position") AS share
              FROM pattern) AS p
        GROUP BY p.head, p."position"
    )
    -- [n_seq, n_embd]: the heads side by side, mixed by one more linear layer
    SELECT c."position", l.y
    FROM (SELECT z."position", gpt2._concat(z.z ORDER BY z.head) AS z
          FROM z GROUP BY z."position") AS c
    CROSS JOIN LATERAL gpt2._linear(c.z, m, block, 'attn.c_proj') AS l;
END;
COMMENT ON FUNCTION gpt2._attention(vector[], gpt2.model, int) IS
    'causal self-attention of all heads over all positions: c_proj(attention(c_attn(x)))';
