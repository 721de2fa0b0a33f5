-- What lies between two models of one shape. A mean of models that were fine-tuned from the same
-- weights is often better than either.
-- Source: Wortsman et al. 2022 (arXiv:2203.05482), section 2.


CREATE FUNCTION gpt2._mean(a vector, b vector, weight float8)
RETURNS vector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- In float8, a number at a time: pgvector raises an error where a product of float4 underflows.
RETURN ARRAY(
    SELECT (1 - weight) * u.a + weight * u.b
    FROM (SELECT unnest(_mean.a::real[]) AS a, unnest(_mean.b::real[]) AS b) AS u)::vector;
COMMENT ON FUNCTION gpt2._mean(vector, vector, float8) IS '(1 - weight) * a + weight * b';


CREATE FUNCTION gpt2._mean(a vector[], b vector[], weight float8)
RETURNS vector[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(
    SELECT gpt2._mean(u.a, u.b, weight)
    FROM (SELECT unnest(_mean.a) AS a, unnest(_mean.b) AS b) AS u);
COMMENT ON FUNCTION gpt2._mean(vector[], vector[], float8) IS
    '(1 - weight) * a + weight * b of each pair of vectors';


CREATE FUNCTION gpt2._insert_mean(model int, a gpt2.model, b gpt2.model, weight float8)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO gpt2.matrix_page (model, block, layer, slice, page, weight, half)
    SELECT _insert_mean.model, p.block, p.layer, p.slice, p.page,
           CASE (a).dtype WHEN 'float32' THEN p.mean END,
           CASE (a).dtype WHEN 'float16' THEN p.mean::halfvec[] END
    FROM (
        SELECT x.block, x.layer, x.slice, x.page,
               gpt2._mean(x.weight, y.weight, _insert_mean.weight) AS mean
        FROM gpt2._matrix_page AS x
        JOIN gpt2._matrix_page AS y ON y.block = x.block AND y.layer = x.layer
            AND y.slice = x.slice AND y.page = x.page
        WHERE x.model = (a).model AND y.model = (b).model
        ORDER BY x.block, x.layer, x.slice, x.page
    ) AS p;
    INSERT INTO gpt2.bias (model, block, layer, bias)
    SELECT _insert_mean.model, x.block, x.layer, gpt2._mean(x.bias, y.bias, _insert_mean.weight)
    FROM gpt2.bias AS x JOIN gpt2.bias AS y ON y.block = x.block AND y.layer = x.layer
    WHERE x.model = (a).model AND y.model = (b).model;
    INSERT INTO gpt2.layer_norm (model, block, layer, weight, bias)
    SELECT _insert_mean.model, x.block, x.layer,
           gpt2._mean(x.weight, y.weight, _insert_mean.weight),
           gpt2._mean(x.bias, y.bias, _insert_mean.weight)
    FROM gpt2.layer_norm AS x JOIN gpt2.layer_norm AS y ON y.block = x.block AND y.layer = x.layer
    WHERE x.model = (a).model AND y.model = (b).model;
    INSERT INTO gpt2.wpe (model, "position", weight)
    SELECT _insert_mean.model, x."position", gpt2._mean(x.weight, y.weight, _insert_mean.weight)
    FROM gpt2.wpe AS x JOIN gpt2.wpe AS y ON y."position" = x."position"
    WHERE x.model = (a).model AND y.model = (b).model;
END;
COMMENT ON FUNCTION gpt2._insert_mean IS 'gives a model the weights (1 - weight) * a + weight * b';


CREATE FUNCTION gpt2_average(name text, a text, b text, weight float8 DEFAULT 0.5)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- The rows of a model are found by their keys: a hash or a sort of them would fill the disk.
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
-- so that numbers pass unchanged through JSON, and source says the weight
SET extra_float_digits = 1
AS $$
DECLARE
    one gpt2.model;
    other gpt2.model;
    new int;
BEGIN
    PERFORM gpt2._assert(weight BETWEEN 0 AND 1, 'invalid_parameter_value',
        'weight must be between 0 and 1',
        format('It is %s; NaN and NULL are refused too.', coalesce(weight::text, 'NULL')),
        'Use 0 for the first model, 1 for the second, 0.5 for their mean.');
    PERFORM gpt2._lock_models();  -- nobody shall drop either from here on
    SELECT * INTO one FROM gpt2._chosen_model(a);
    SELECT * INTO other FROM gpt2._chosen_model(b);
    PERFORM gpt2._check_same_shape(one, other);
    new := gpt2._add_model(name, to_jsonb(one) || jsonb_build_object(
        'base', NULL, 'revision', NULL, 'sha256', NULL,
        'source', format('average of "%s" and "%s", weight %s', one.name, other.name, weight)));
    -- the product with a smaller weight could underflow
    PERFORM gpt2._insert_mean(new, one, other, CASE WHEN weight < 1e-100 THEN 0 ELSE weight END);
    PERFORM gpt2._finish_model(new);
    RETURN name;
END;
$$;
COMMENT ON FUNCTION gpt2_average IS
    'makes a model of the weights (1 - weight) * a + weight * b; gives its name';
