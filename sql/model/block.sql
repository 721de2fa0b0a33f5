-- Transformer block: attention moves information between positions, the perceptron works on each
-- alone; both add to what came in, the residual stream.  [n_seq, n_embd] -> [n_seq, n_embd]
--     x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
-- Source: block() in openai/gpt-2, src/model.py; Radford et al. 2019, section 2.3.


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
        SELECT array_agg(n.normalized ORDER BY p.n) AS normalized,
               array_agg(gpt2._hook(n.y, 'ln1.hook_out', _block.block, NULL, p.n::int - 1, patch)
                         ORDER BY p.n) AS y
        FROM unnest(_block.x) WITH ORDINALITY AS p (x, n)
        CROSS JOIN LATERAL
            gpt2._layer_norm(p.x, m, _block.block, 'ln_1', p.n::int - 1, patch) AS n
    ) AS ln1
    CROSS JOIN LATERAL (
        SELECT array_agg(a.activations ORDER BY a.head) AS heads
        FROM gpt2._attention(ln1.y, m, _block.block, patch) AS a
    ) AS attention
    CROSS JOIN LATERAL (
        SELECT array_agg(attn_out.x ORDER BY z."position"),
               array_agg(resid_mid.x ORDER BY z."position"),
               array_agg(ln2.normalized ORDER BY z."position"),
               array_agg(ln2.y ORDER BY z."position"),
               array_agg(mlp.pre ORDER BY z."position"),
               array_agg(mlp.post ORDER BY z."position"),
               array_agg(mlp.y ORDER BY z."position"),
               array_agg(resid_post.x ORDER BY z."position")
        FROM (
            -- [n_seq, n_embd]: the heads side by side
            SELECT p.n::int - 1, gpt2._concat(p.z ORDER BY h.n)
            FROM unnest(attention.heads) WITH ORDINALITY AS h (q, k, v, scores, pattern, z, n)
            CROSS JOIN LATERAL unnest(h.z) WITH ORDINALITY AS p (z, n)
            GROUP BY p.n
        ) AS z ("position", z)
        CROSS JOIN LATERAL (
            SELECT gpt2._hook(l.y, 'hook_attn_out', _block.block, NULL, z."position", patch)
            FROM gpt2._linear(z.z, m, _block.block, 'attn.c_proj') AS l
            OFFSET 0
        ) AS attn_out (x)
        CROSS JOIN LATERAL (
            SELECT gpt2._hook(_block.x[z."position" + 1] + attn_out.x,
                              'hook_resid_mid', _block.block, NULL, z."position", patch)
            OFFSET 0
        ) AS resid_mid (x)
        CROSS JOIN LATERAL (
            SELECT n.normalized,
                   gpt2._hook(n.y, 'ln2.hook_out', _block.block, NULL, z."position", patch)
            FROM gpt2._layer_norm(resid_mid.x, m, _block.block, 'ln_2', z."position", patch) AS n
            OFFSET 0
        ) AS ln2 (normalized, y)
        CROSS JOIN LATERAL gpt2._mlp(ln2.y, m, _block.block, z."position", patch) AS mlp
        CROSS JOIN LATERAL (
            SELECT gpt2._hook(resid_mid.x + mlp.y,
                              'hook_resid_post', _block.block, NULL, z."position", patch)
            OFFSET 0
        ) AS resid_post (x)
    ) AS each;
END;
COMMENT ON FUNCTION gpt2._block IS
    'one transformer block over all positions: every activation on the way, resid_post at the end';
