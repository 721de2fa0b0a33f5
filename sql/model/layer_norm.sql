-- Layer normalisation: each position's activations to mean 0 and variance 1, then scaled and
-- shifted by learned vectors.  [n_embd] -> [n_embd]
-- Source: Ba, Kiros, Hinton 2016 (arXiv:1607.06450); norm() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._fill(value float8, n int)
RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_fill(value::float4, ARRAY[n])::vector;
COMMENT ON FUNCTION gpt2._fill(float8, int) IS
    'vector of n equal values: pgvector multiplies vectors by vectors only';


CREATE FUNCTION gpt2._layer_norm(x vector, weight vector, bias vector, epsilon float8)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT d.x * gpt2._fill(1 / sqrt(-(d.x <#> d.x) / d.n + epsilon), d.n) * weight + bias
    FROM (
        -- deviations from the mean; <#> is the inner product, negated
        SELECT m.x - gpt2._fill(-(m.x <#> gpt2._fill(1, m.n)) / m.n, m.n) AS x, m.n
        FROM (SELECT _layer_norm.x, vector_dims(_layer_norm.x) AS n OFFSET 0) AS m
        OFFSET 0
    ) AS d;
END;
COMMENT ON FUNCTION gpt2._layer_norm(vector, vector, vector, float8) IS
    'layer normalisation of one position: (x - mean) / sqrt(variance + epsilon) * weight + bias';
