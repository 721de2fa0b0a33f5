-- Causal self-attention: each position looks back at itself and at those before it, and takes a
-- weighted mean of what they offer: softmax(q . k / sqrt(d)) v (formula.sql), in every head.
-- [n_seq, n_embd] -> [n_head, n_seq, d],  d = n_embd / n_head
-- Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; attn() in openai/gpt-2,
-- src/model.py.
--
-- This is the formula over all positions at once, as a reader wants to see it. Generation asks for
-- one position at a time, with a cache of the others: engine/cache.sql.


-- Some models, CodeParrot and Stanford's, also divide the scores by the block's number from 1.
-- Source: scale_attn_by_inverse_layer_idx in transformers' GPT2Attention; Karamcheti et al. 2021,
-- Mistral: A Journey towards Reproducible Language Model Training.
CREATE FUNCTION gpt2._attention_scale(m gpt2.model, block int)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (m).scale_attn_weights THEN 1 / sqrt(((m).n_embd / (m).n_head)::float8) ELSE 1 END
    / CASE WHEN (m).scale_attn_by_inverse_layer_idx THEN block + 1 ELSE 1 END;
COMMENT ON FUNCTION gpt2._attention_scale IS
    'factor of the scores in a block: 1 / sqrt(d), and 1 / (block + 1) where the model has that';


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
    WITH shape AS (
        SELECT (m).n_embd, (m).n_embd / (m).n_head AS d,
               gpt2._attention_scale(m, _attention.block) AS scale
    ), qkv AS (
        -- [n_seq, 3 * n_embd]: the queries, keys and values of all heads
        SELECT i.n::int - 1 AS "position", l.y
        FROM unnest(_attention.x) WITH ORDINALITY AS i (x, n)
        CROSS JOIN LATERAL gpt2._linear(i.x, m, _attention.block, 'attn.c_attn') AS l
    ), head AS (
        -- three times [n_head, n_seq, d]
        SELECT h AS head, array_agg(q.y ORDER BY p."position") AS q,
               array_agg(k.y ORDER BY p."position") AS k,
               array_agg(v.y ORDER BY p."position") AS v
        FROM shape AS s
        CROSS JOIN qkv AS p
        CROSS JOIN generate_series(0, (m).n_head - 1) AS h
        CROSS JOIN LATERAL gpt2._hook(subvector(p.y, 1 + h * s.d, s.d),
            'attn.hook_q', _attention.block, h, p."position", patch) AS q
        CROSS JOIN LATERAL gpt2._hook(subvector(p.y, 1 + h * s.d + s.n_embd, s.d),
            'attn.hook_k', _attention.block, h, p."position", patch) AS k
        CROSS JOIN LATERAL gpt2._hook(subvector(p.y, 1 + h * s.d + 2 * s.n_embd, s.d),
            'attn.hook_v', _attention.block, h, p."position", patch) AS v
        GROUP BY h
    )
    SELECT h.head, ROW(h.q, h.k, h.v, a.scores, a.pattern, a.z)::gpt2._head
    FROM shape AS s
    CROSS JOIN head AS h
    CROSS JOIN LATERAL gpt2._transpose(h.v) AS v
    CROSS JOIN LATERAL (
        SELECT array_agg(scores.y ORDER BY q.n), array_agg(pattern.y ORDER BY q.n),
               array_agg(z.y ORDER BY q.n)
        FROM unnest(h.q) WITH ORDINALITY AS q (q, n)
        -- the keys up to the query's own position
        CROSS JOIN LATERAL gpt2._scores(q.q, h.k[:q.n], s.scale) AS f
        CROSS JOIN LATERAL gpt2._hook(
            f.y, 'attn.hook_attn_scores', _attention.block, h.head, q.n::int - 1, patch) AS scores
        CROSS JOIN LATERAL gpt2._softmax(scores.y) AS g
        CROSS JOIN LATERAL gpt2._hook(
            g.y, 'attn.hook_pattern', _attention.block, h.head, q.n::int - 1, patch) AS pattern
        -- with weight 0 for what comes later
        CROSS JOIN LATERAL gpt2._pad(pattern.y, cardinality(h.q) - q.n::int) AS w
        CROSS JOIN LATERAL gpt2._weighted(w.y, v.y) AS i
        CROSS JOIN LATERAL gpt2._hook(
            i.y, 'attn.hook_z', _attention.block, h.head, q.n::int - 1, patch) AS z
    ) AS a (scores, pattern, z);
END;
COMMENT ON FUNCTION gpt2._attention IS
    'causal self-attention of each head over all positions, up to z; c_proj follows in the block';
