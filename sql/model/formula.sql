-- The formulas of the model, and nothing else: no table, no weights, no hook. Everything else in
-- this folder brings the weights to them (linear.sql), puts them together (attention.sql, mlp.sql,
-- block.sql, forward.sql), or watches and replaces what they give (hooks.sql).
--
--     normalize(x)        = (x - mean(x)) / sqrt(variance(x) + epsilon)
--     gelu(x)             = x * P(a standard normal number is below x), by its tanh approximation
--     softmax(x)          = exp(x) / sum(exp(x))
--     attend(q, k, v)     = softmax(q . k / sqrt(d)) v = weighted(softmax(scores(q, k)), v)
--
-- A vector is [n], an array of vectors is [n_rows, n]. `<#>` is pgvector's inner product, negated.
-- OFFSET 0 is a fence: what is above it is computed once, not wherever it is mentioned.
-- Sources: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; Ba, Kiros, Hinton 2016
-- (arXiv:1607.06450); Hendrycks, Gimpel 2016 (arXiv:1606.08415); norm(), gelu(), softmax() and
-- attn() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._normalize(x vector, epsilon float8)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n] -> [n]: mean 0, variance 1
    SELECT d.x * gpt2._fill(1 / sqrt(-(d.x <#> d.x) / d.n + epsilon), d.n)
    FROM (
        -- deviations from the mean
        SELECT i.x - gpt2._fill(-(i.x <#> gpt2._fill(1, i.n)) / i.n, i.n) AS x, i.n
        FROM (SELECT _normalize.x, vector_dims(_normalize.x) AS n OFFSET 0) AS i
        OFFSET 0
    ) AS d;
END;
COMMENT ON FUNCTION gpt2._normalize IS '(x - mean) / sqrt(variance + epsilon)';


CREATE FUNCTION gpt2._gelu(x float8, exact boolean)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 0.5 * x * (1 + CASE
    WHEN exact THEN gpt2._erf(x / sqrt(2::float8))
    ELSE tanh(sqrt(2 / pi()) * (x + 0.044715 * x * x * x))
END);
COMMENT ON FUNCTION gpt2._gelu IS
    'Gaussian error linear unit: exact (gelu), or by its tanh approximation (gelu_new)';


CREATE FUNCTION gpt2._softmax(x vector)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n] -> [n]; the largest is taken off before exp, which changes nothing but its range
    WITH e AS (
        SELECT array_agg(gpt2._exp(u.x - u.largest)) AS x, sum(gpt2._exp(u.x - u.largest)) AS total
        FROM (SELECT u.x, max(u.x) OVER () AS largest
              FROM unnest(_softmax.x::real[]::float8[]) AS u (x)) AS u
    )
    SELECT ARRAY(SELECT unnest(e.x) / e.total)::vector FROM e;
END;
COMMENT ON FUNCTION gpt2._softmax IS 'shares in the ratio of exp(x), which add up to 1';


CREATE FUNCTION gpt2._scores(q vector, k vector[], scale float8)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [d], [n_seq, d] -> [n_seq]: how well each key fits the query; scale is 1 / sqrt(d)
    SELECT ARRAY(SELECT -(u.k <#> q) * scale FROM unnest(k) AS u (k))::vector OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._scores IS 'q . k * scale, for each key';


CREATE FUNCTION gpt2._weighted(pattern vector, v vector[])
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n_seq], [d, n_seq] -> [d]: the values are transposed, so that a weighted mean of them is
    -- inner products with the weights
    SELECT ARRAY(SELECT -(u.v <#> pattern) FROM unnest(v) AS u (v))::vector OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._weighted IS 'mean of the values, weighted by the pattern';
