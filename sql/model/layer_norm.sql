-- Layer normalisation: each position's activations to mean 0 and variance 1, then scaled and
-- shifted by learned vectors.  [n_embd] -> [n_embd]
-- Source: Ba, Kiros, Hinton 2016 (arXiv:1607.06450); norm() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._fill(value float8, n int)
RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_fill(value::float4, ARRAY[n])::vector;
COMMENT ON FUNCTION gpt2._fill IS
    'vector of n equal values: pgvector multiplies vectors by vectors only';


CREATE FUNCTION gpt2._layer_norm(
    x vector, m gpt2.model, block int, layer gpt2.norm,
    "position" int DEFAULT NULL, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (normalized vector, y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT n.x, n.x * w.weight + w.bias
    FROM (
        SELECT gpt2._hook(
            d.x * gpt2._fill(1 / sqrt(-(d.x <#> d.x) / d.n + (m).layer_norm_epsilon), d.n),
            CASE layer WHEN 'ln_1' THEN 'ln1.hook_normalized' WHEN 'ln_2' THEN 'ln2.hook_normalized'
                       ELSE 'ln_final.hook_normalized' END,
            CASE WHEN layer <> 'ln_f' THEN _layer_norm.block END, NULL, "position", patch) AS x
        FROM (
            -- deviations from the mean; <#> is the inner product, negated
            SELECT c.x - gpt2._fill(-(c.x <#> gpt2._fill(1, c.n)) / c.n, c.n) AS x, c.n
            FROM (SELECT _layer_norm.x, vector_dims(_layer_norm.x) AS n OFFSET 0) AS c
            OFFSET 0
        ) AS d
        OFFSET 0
    ) AS n
    JOIN gpt2.layer_norm AS w
        ON w.model = (m).model AND w.block = _layer_norm.block AND w.layer = _layer_norm.layer;
END;
COMMENT ON FUNCTION gpt2._layer_norm IS
    'layer normalisation of one position: normalized = (x - mean) / sqrt(variance + epsilon), '
    'y = normalized * weight + bias';
