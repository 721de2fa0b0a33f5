-- How a model comes: both importers (loader/ and plpython/) go through these functions, so that
-- they cannot differ.


CREATE FUNCTION gpt2._add_tokenizer(sha256 text, n_token int)
RETURNS int
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO gpt2.tokenizer (sha256, n_token)
    VALUES (_add_tokenizer.sha256, _add_tokenizer.n_token)
    RETURNING tokenizer;
END;
COMMENT ON FUNCTION gpt2._add_tokenizer IS
    'begins the import of a vocabulary: its tokens and merges follow by COPY';


CREATE FUNCTION gpt2._check_name(name text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(name <> '', 'invalid_parameter_value',
        'the name of a model may not be empty', 'It is what queries call it by.',
        'SELECT name FROM gpt2_models(); lists those that are taken.')
    AND gpt2._assert(octet_length(name) <= 1000, 'invalid_parameter_value',
        'the name of a model is too long',
        format('It has %s bytes, 1000 is the most.', octet_length(name)), 'Use a shorter one.');
COMMENT ON FUNCTION gpt2._check_name IS
    'true, or an error where a name is empty, NULL, or longer than an index may hold';


CREATE FUNCTION gpt2._check_may_load()
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(has_table_privilege('gpt2.model', 'INSERT'), 'insufficient_privilege',
    format('role "%s" may not load a model into database "%s"', current_user, current_database()),
    'It lacks the privilege INSERT on table gpt2.model.',
    format('Load it as the owner of the extension gpt2, or: GRANT SELECT, INSERT, UPDATE, DELETE '
           'ON ALL TABLES IN SCHEMA gpt2 TO %I;', current_user));
COMMENT ON FUNCTION gpt2._check_may_load IS
    'true, or an error where the role may not add a model; told before a model is read';


CREATE FUNCTION gpt2._check_free(name text, replace boolean)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(
    coalesce(_check_free.replace, false)
        OR NOT EXISTS (SELECT FROM gpt2.model AS m WHERE m.name = _check_free.name),
    'duplicate_object', format('model "%s" already exists', _check_free.name),
    'A model is not overwritten unless it is asked for.',
    format('Choose another name, drop it: SELECT gpt2_drop_model(%L); or replace it: '
           'gpt2-loader load SOURCE --replace, or gpt2_load_model(path, name, replace => true).',
           _check_free.name));
COMMENT ON FUNCTION gpt2._check_free IS
    'true, or an error where a model has the name and is not to be replaced';


CREATE FUNCTION gpt2._add_model(
    name text, properties jsonb, replace boolean DEFAULT false, make_default boolean DEFAULT false
) RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new gpt2.model;
BEGIN
    PERFORM gpt2._check_name(name);
    new := jsonb_populate_record(NULL::gpt2.model, properties);
    new.is_default := false;
    IF new.activation_function = 'gelu' THEN
        PERFORM gpt2._erf(0); -- raises its error here, and not at the model's first use
    END IF;
    PERFORM gpt2._assert(
        gpt2._page_size(new.n_embd, new.dtype) IS DISTINCT FROM 0, 'feature_not_supported',
        format('n_embd %s is too wide for dtype %s', new.n_embd, new.dtype),
        format('The weights of a neuron must fit a page of the server, %s bytes.',
               current_setting('block_size')),
        CASE new.dtype WHEN 'float32' THEN
            'Load it with dtype float16: gpt2-loader load SOURCE --dtype float16, or '
            'gpt2_load_model(path, name, dtype => ''float16'').' END);
    -- Two imports at once would both be the first, or both take the name.
    PERFORM gpt2._lock_models();
    PERFORM gpt2._check_free(_add_model.name, _add_model.replace);
    IF EXISTS (SELECT FROM gpt2.model AS m WHERE m.name = _add_model.name) THEN
        new.is_default := (gpt2._delete_model(_add_model.name)).is_default;
    END IF;
    IF make_default OR NOT EXISTS (SELECT FROM gpt2.model) THEN
        new.is_default := true;
    END IF;
    IF new.is_default THEN
        UPDATE gpt2.model AS m SET is_default = false WHERE m.is_default;
    END IF;
    INSERT INTO gpt2.model (
        name, is_default, base, tokenizer, n_token, bos_token, eos_tokens, n_vocab, n_ctx, n_embd,
        n_head, n_layer, n_inner, activation_function, layer_norm_epsilon, scale_attn_weights,
        scale_attn_by_inverse_layer_idx, tie_word_embeddings, n_parameters, dtype, page_size,
        source, revision, sha256
    ) VALUES (
        _add_model.name, new.is_default, new.base, new.tokenizer, new.n_token, new.bos_token,
        new.eos_tokens, new.n_vocab, new.n_ctx, new.n_embd, new.n_head, new.n_layer, new.n_inner,
        new.activation_function, new.layer_norm_epsilon, new.scale_attn_weights,
        new.scale_attn_by_inverse_layer_idx, new.tie_word_embeddings, new.n_parameters, new.dtype,
        gpt2._page_size(new.n_embd, new.dtype), new.source, new.revision, new.sha256
    ) ON CONFLICT DO NOTHING RETURNING model INTO new.model;
    PERFORM gpt2._assert(new.model IS NOT NULL, 'duplicate_object',
        format('model "%s" already exists', _add_model.name),
        format('That one, or the default model, is hidden from role "%s" by row-level security.',
               current_user),
        'Choose another name, or ask the owner of table gpt2.model.');
    PERFORM gpt2._drop_unused_tokenizers();  -- that of the model replaced
    RETURN new.model;
END;
$$;
COMMENT ON FUNCTION gpt2._add_model IS
    'begins the import of a model: its weights follow by COPY in the same transaction';


CREATE FUNCTION gpt2._finish_model(model int)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    m gpt2.model;
    missing text;
BEGIN
    SELECT * INTO STRICT m FROM gpt2.model AS x WHERE x.model = _finish_model.model;
    SELECT string_agg(format('%s has %s rows of %s', e.name, coalesce(c.rows, 0), e.rows), ', '
                      ORDER BY e.name)
    INTO missing
    FROM (VALUES
        ('wte', m.n_vocab),
        ('lm_head', CASE WHEN m.tie_word_embeddings THEN 0 ELSE m.n_vocab END),
        ('linear', m.n_layer * (4 * m.n_embd + m.n_inner
                                + m.n_embd * ceil(m.n_inner / m.n_embd::numeric)::int)),
        ('bias', 4 * m.n_layer),
        ('layer_norm', 2 * m.n_layer + 1),
        ('wpe', m.n_ctx)
    ) AS e (name, rows)
    LEFT JOIN (
        SELECT CASE p.block WHEN -1 THEN p.layer::text ELSE 'linear' END,
               sum(coalesce(cardinality(p.weight), cardinality(p.half)))
        FROM gpt2.matrix_page AS p WHERE p.model = m.model GROUP BY 1
    UNION ALL
        SELECT 'bias', count(*) FROM gpt2.bias AS b WHERE b.model = m.model
    UNION ALL
        SELECT 'layer_norm', count(*) FROM gpt2.layer_norm AS n WHERE n.model = m.model
    UNION ALL
        SELECT 'wpe', count(*) FROM gpt2.wpe AS w WHERE w.model = m.model
    ) AS c (name, rows) ON c.name = e.name
    WHERE coalesce(c.rows, 0) <> e.rows;
    PERFORM gpt2._assert(missing IS NULL, 'data_exception',
        format('the weights of model "%s" are incomplete', m.name), missing || '.');
    -- The order of an index is the planner's choice only where it knows the table's size.
    ANALYZE gpt2.model, gpt2.matrix_page, gpt2.bias, gpt2.layer_norm, gpt2.wpe;
END;
$$;
COMMENT ON FUNCTION gpt2._finish_model IS
    'ends the import of a model: counts its rows against its shape';
