-- Transformer block: attention moves information between positions, the perceptron works on each
-- alone; both add to what came in, the residual stream.  [n_seq, n_embd] -> [n_seq, n_embd]
--     x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
-- Each step passes through its hook point (hooks.sql), and all of them are given.
-- Source: block() in openai/gpt-2, src/model.py; Radford et al. 2019, section 2.3.


CREATE FUNCTION gpt2._join_heads(heads gpt2._head[])
RETURNS TABLE ("position" int, z vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- [n_head, n_seq, d] -> [n_seq, n_embd]
    SELECT p.n::int - 1, gpt2._concat(p.z ORDER BY h.n)
    FROM unnest(heads) WITH ORDINALITY AS h (q, k, v, scores, pattern, z, n)
    CROSS JOIN LATERAL unnest(h.z) WITH ORDINALITY AS p (z, n)
    GROUP BY p.n;
END;
COMMENT ON FUNCTION gpt2._join_heads IS 'what the heads give, side by side, a row a position';


CREATE FUNCTION gpt2._block(x vector[], m gpt2.model, block int, patch gpt2._patch DEFAULT NULL)
RETURNS TABLE (
    ln1_normalized vector[], ln1 vector[], heads gpt2._head[], attn_out vector[],
    resid_mid vector[], ln2_normalized vector[], ln2 vector[], mlp_pre vector[],
    mlp_post vector[], mlp_out vector[], resid_post vector[]
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT ln1.normalized, ln1.y, attention.heads, each.*
    FROM (
        SELECT array_agg(n.normalized ORDER BY p.n) AS normalized, array_agg(n.y ORDER BY p.n) AS y
        FROM unnest(_block.x) WITH ORDINALITY AS p (x, n)
        CROSS JOIN LATERAL
            gpt2._layer_norm(p.x, m, _block.block, 'ln_1', p.n::int - 1, patch) AS n
    ) AS ln1
    CROSS JOIN LATERAL (
        SELECT array_agg(a.activations ORDER BY a.head) AS heads
        FROM gpt2._attention(ln1.y, m, _block.block, patch) AS a
    ) AS attention
    CROSS JOIN LATERAL (
        SELECT array_agg(attn_out.y ORDER BY i), array_agg(resid_mid.y ORDER BY i),
               array_agg(ln2.normalized ORDER BY i), array_agg(ln2.y ORDER BY i),
               array_agg(mlp.pre ORDER BY i), array_agg(mlp.post ORDER BY i),
               array_agg(mlp.y ORDER BY i), array_agg(resid_post.y ORDER BY i)
        FROM gpt2._join_heads(attention.heads) AS z (i, z)
        CROSS JOIN LATERAL gpt2._linear(z.z, m, _block.block, 'attn.c_proj') AS o
        CROSS JOIN LATERAL
            gpt2._hook(o.y, 'hook_attn_out', _block.block, NULL, i, patch) AS attn_out
        CROSS JOIN LATERAL gpt2._hook(
            _block.x[i + 1] + attn_out.y, 'hook_resid_mid', _block.block, NULL, i, patch)
            AS resid_mid
        CROSS JOIN LATERAL
            gpt2._layer_norm(resid_mid.y, m, _block.block, 'ln_2', i, patch) AS ln2
        CROSS JOIN LATERAL gpt2._mlp(ln2.y, m, _block.block, i, patch) AS mlp
        CROSS JOIN LATERAL gpt2._hook(
            resid_mid.y + mlp.y, 'hook_resid_post', _block.block, NULL, i, patch) AS resid_post
    ) AS each;
END;
COMMENT ON FUNCTION gpt2._block IS
    'one transformer block over all positions: every activation on the way, resid_post at the end';
