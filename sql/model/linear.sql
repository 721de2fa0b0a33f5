-- Linear layer: a neuron's output is its bias plus the inner product of its weights with the input.
-- [n_in] -> [n_out]
-- Source: conv1d() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._linear(
    x vector, m gpt2.model, block int, layer gpt2.layer, slice int DEFAULT 0
) RETURNS TABLE (y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- <#> is the inner product, negated; the index gives the pages in the order of the neurons.
    -- OFFSET 0 is a fence: without it the planner computes y again wherever it is mentioned, and
    -- x, its rounding to float16 and the fields of m again for every page.
    SELECT CASE WHEN input.x IS NOT NULL
        THEN ARRAY(
            SELECT unnest(p.bias) - (unnest(p.weight) <#> input.x)
            FROM gpt2.linear_page AS p
            WHERE p.model = input.model AND p.block = _linear.block AND p.layer = _linear.layer
              AND p.slice = _linear.slice
            ORDER BY p.page)
        ELSE ARRAY(
            SELECT unnest(p.bias) - (unnest(p.half) <#> input.half)
            FROM gpt2.linear_page AS p
            WHERE p.model = input.model AND p.block = _linear.block AND p.layer = _linear.layer
              AND p.slice = _linear.slice
            ORDER BY p.page)
        END::vector
    FROM (
        SELECT (m).model, CASE (m).precision WHEN 'float32' THEN _linear.x END AS x,
               CASE (m).precision WHEN 'float16' THEN _linear.x::halfvec END AS half
        OFFSET 0
    ) AS input
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._linear(vector, gpt2.model, int, gpt2.layer, int) IS
    'weights times x plus bias; a slice is a share of the inputs, and the slices'' results add up';
