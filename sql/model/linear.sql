-- Linear layer: a neuron's output is its bias plus the inner product of its weights with the input.
-- [n_in] -> [n_out]
-- Source: conv1d() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._linear(x vector, m gpt2.model, block int, layer gpt2.layer)
RETURNS TABLE (y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- <#> is the inner product, negated; the index gives the pages in the order of the neurons.
    -- OFFSET 0 is a fence: without it the planner computes y again wherever it is mentioned, and
    -- x, its rounding to float16 and the fields of m again for every page.
    SELECT b.bias - wx.y
    FROM (SELECT (m).model, (m).n_embd, (m).precision, _linear.x OFFSET 0) AS input
    JOIN gpt2.bias AS b
        ON b.model = input.model AND b.block = _linear.block AND b.layer = _linear.layer
    CROSS JOIN LATERAL (
        -- a slice is n_embd of the inputs
        SELECT sum(CASE slice.precision
            WHEN 'float32' THEN ARRAY(
                SELECT unnest(p.weight) <#> slice.x
                FROM gpt2.linear_page AS p
                WHERE p.model = b.model AND p.block = b.block AND p.layer = b.layer
                  AND p.slice = slice.slice
                ORDER BY p.page)
            ELSE ARRAY(
                SELECT unnest(p.half) <#> slice.half
                FROM gpt2.linear_page AS p
                WHERE p.model = b.model AND p.block = b.block AND p.layer = b.layer
                  AND p.slice = slice.slice
                ORDER BY p.page)
            END::vector) AS y
        FROM (
            SELECT s.slice, s.x, input.precision,
                   CASE input.precision WHEN 'float16' THEN s.x::halfvec END AS half
            FROM (
                SELECT i AS slice, subvector(input.x, i * input.n_embd + 1, input.n_embd) AS x
                FROM generate_series(0, (vector_dims(input.x) - 1) / input.n_embd) AS i
                OFFSET 0
            ) AS s
            OFFSET 0
        ) AS slice
    ) AS wx
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._linear(vector, gpt2.model, int, gpt2.layer) IS
    'weights times x plus bias';
