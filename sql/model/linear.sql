-- Linear layer: a neuron is a row, and its output is its bias plus the inner product of its weights
-- with the input.  [n_in] -> [n_out]
-- Source: conv1d() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._linear(x vector, model int, block int, layer gpt2.layer, slice int DEFAULT 0)
RETURNS TABLE (y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- OFFSET 0 is a fence: without it the planner computes y again wherever it is mentioned, and an
    -- expression given for x again for every neuron
    SELECT ARRAY(
        SELECT w.bias - (w.weight <#> input.x)
        FROM gpt2.linear AS w
        WHERE w.model = _linear.model AND w.block = _linear.block AND w.layer = _linear.layer
          AND w.slice = _linear.slice
        ORDER BY w.unit
    )::vector
    FROM (SELECT _linear.x OFFSET 0) AS input
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._linear(vector, int, int, gpt2.layer, int) IS
    'weights times x plus bias; a slice is a share of the inputs, and the slices'' results add up';
