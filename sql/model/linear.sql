-- Linear layer: a neuron's output is its bias plus the inner product of its weights with the input.
-- [n_in] -> [n_out]
-- Source: conv1d() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._linear(x vector, m gpt2.model, block int, layer gpt2.layer)
RETURNS TABLE (y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- OFFSET 0 is a fence: without it the planner computes y again wherever it is mentioned.
    SELECT (SELECT b.bias FROM gpt2.bias AS b
            WHERE b.model = (m).model AND b.block = _linear.block AND b.layer = _linear.layer)
           - wx.y
    FROM (
        SELECT sum(p.products::vector) AS y
        FROM (
            -- a slice is n_embd of the inputs
            SELECT s AS slice, subvector(input.x, s * input.n_embd + 1, input.n_embd) AS x
            FROM (SELECT _linear.x, (m).n_embd OFFSET 0) AS input
            CROSS JOIN LATERAL
                generate_series(0, (vector_dims(input.x) - 1) / input.n_embd) AS s
            OFFSET 0
        ) AS s
        CROSS JOIN LATERAL gpt2._products(s.x, m, _linear.block, _linear.layer, s.slice) AS p
    ) AS wx
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._linear IS 'weights times x plus bias';
