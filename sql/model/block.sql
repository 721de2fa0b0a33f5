-- Transformer block: attention moves information between positions, the perceptron works on each
-- alone; both add to what came in.  [n_seq, n_embd] -> [n_seq, n_embd]
--     x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
-- Source: block() in openai/gpt-2, src/model.py; Radford et al. 2019, section 2.3.


CREATE FUNCTION gpt2._block(x vector[], m gpt2.model, block int)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH attention AS MATERIALIZED (
        SELECT a."position", a.y
        FROM (
            SELECT array_agg(n.y ORDER BY p.n) AS x
            FROM unnest(_block.x) WITH ORDINALITY AS p (x, n)
            CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, _block.block, 'ln_1') AS n
        ) AS ln_1
        CROSS JOIN LATERAL gpt2._attention(ln_1.x, m, _block.block) AS a
    )
    SELECT array_agg(r.x + f.y ORDER BY r."position")
    FROM (
        SELECT a."position", p.x + a.y
        FROM unnest(_block.x) WITH ORDINALITY AS p (x, n)
        JOIN attention AS a ON a."position" = p.n - 1
        OFFSET 0
    ) AS r ("position", x)
    CROSS JOIN LATERAL gpt2._layer_norm(r.x, m, _block.block, 'ln_2') AS n
    CROSS JOIN LATERAL gpt2._mlp(n.y, m, _block.block) AS f;
END;
COMMENT ON FUNCTION gpt2._block(vector[], gpt2.model, int) IS
    'one transformer block over all positions';
