-- What pgvector lacks, for the formulas.


CREATE FUNCTION gpt2._exp(x float8)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- exp() raises an error where its result is too small, below -745
RETURN exp(greatest(x, -700));
COMMENT ON FUNCTION gpt2._exp IS 'exp(x), at least exp(-700)';


CREATE FUNCTION gpt2._fill(value float8, n int)
RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN array_fill(value::float4, ARRAY[n])::vector;
COMMENT ON FUNCTION gpt2._fill IS
    'vector of n equal values: pgvector multiplies vectors by vectors only';


CREATE AGGREGATE gpt2._concat(vector) (
    SFUNC = vector_concat, STYPE = vector, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._concat(vector) IS 'vectors end to end';


CREATE FUNCTION gpt2._transpose(x vector[])
RETURNS TABLE (y vector[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- [n, d] -> [d, n]: end to end, every d-th number belongs to the same row
    SELECT ARRAY(
        SELECT ARRAY(SELECT u.x[i] FROM generate_series(j, cardinality(u.x), u.d) AS i)::vector
        FROM generate_series(1, u.d) AS j)
    FROM (
        SELECT ARRAY(SELECT unnest(r.x::real[]) FROM unnest(_transpose.x) AS r (x)) AS x,
               vector_dims(_transpose.x[1]) AS d
        OFFSET 0
    ) AS u
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._transpose IS 'transposed matrix: [n, d] -> [d, n]';


CREATE FUNCTION gpt2._pad(x vector, n_zero int)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT (_pad.x::real[] || array_fill(0::real, ARRAY[n_zero]))::vector
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._pad IS 'a vector with zeros at its end';


CREATE FUNCTION gpt2._is_moderate(x vector, scale float8 DEFAULT 1)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- what the model makes of larger ones could overflow
RETURN vector_norm(x) <= 1e15 / greatest(abs(scale), 1e-100);
COMMENT ON FUNCTION gpt2._is_moderate IS
    'whether a model can compute with a vector times scale that a caller gives: a norm of 1e15';
