-- Which models there are, and how large; reading one before it is needed.


CREATE FUNCTION gpt2._read(models int[])
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
-- Not by sequential scans: they read other models' rows too, and keep a large table out of most of
-- the shared buffers.
SET enable_seqscan = off
SET enable_bitmapscan = off
BEGIN ATOMIC
    SELECT coalesce(sum(bytes), 0)::bigint
    FROM (
        SELECT pg_column_size(p) FROM gpt2.matrix_page AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.bias AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.layer_norm AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.wpe AS p WHERE p.model = ANY (models)
    ) AS page (bytes);
END;
COMMENT ON FUNCTION gpt2._read IS 'reads the rows that models store; gives their bytes';


CREATE FUNCTION gpt2._model_size(m gpt2.model)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_size_pretty(CASE
    WHEN (m).base IS NOT NULL THEN gpt2._read(ARRAY[(m).model])
    ELSE CASE (m).dtype WHEN 'float16' THEN 2 ELSE 4 END * (m).n_parameters
END);
COMMENT ON FUNCTION gpt2._model_size IS
    'size of the parameters, of a variant that of the rows it stores, as in "8872 kB"';


CREATE FUNCTION gpt2_models()
RETURNS TABLE (
    name text, is_default boolean, n_parameters bigint, size text, dtype text,
    n_layer int, n_embd int, n_head int, n_ctx int, n_vocab int,
    base text, source text, loaded_at timestamptz
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT m.name, m.is_default, m.n_parameters, gpt2._model_size(m), m.dtype,
           m.n_layer, m.n_embd, m.n_head, m.n_ctx, m.n_vocab, b.name, m.source, m.loaded_at
    FROM gpt2.model AS m
    LEFT JOIN gpt2.model AS b ON b.model = m.base
    ORDER BY m.name;
END;
COMMENT ON FUNCTION gpt2_models IS
    'lists the models: parameters, bytes of weights, dtype, shape, base of a variant, origin';


CREATE FUNCTION gpt2_prewarm(model text DEFAULT NULL)
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._read(ARRAY[m.model, m.base]) FROM gpt2._chosen_model(gpt2_prewarm.model) AS m;
END;
COMMENT ON FUNCTION gpt2_prewarm IS
    'reads a model''s weights, of a variant its base''s too, into the shared buffers; gives their '
    'bytes';
