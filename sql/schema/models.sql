-- Which models there are, which one a call means, and how one comes and goes. Both importers
-- (loader/ and plpython/) go through the private functions here, so that they cannot differ.


-- Choosing a model

CREATE FUNCTION gpt2._model(model text)
RETURNS gpt2.model
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH wanted (name) AS (
        SELECT coalesce(_model.model, nullif(current_setting('gpt2.model', true), ''))
    ), chosen AS (
        SELECT m AS model,
               EXISTS (
                   SELECT FROM gpt2.token_page AS e WHERE e.model = coalesce(m.base, m.model)
               ) AS has_weights
        FROM gpt2.model AS m, wanted AS w
        WHERE CASE WHEN w.name IS NULL THEN m.is_default ELSE m.name = w.name END
    )
    SELECT CASE
        WHEN c.has_weights THEN c.model
        WHEN NOT c.has_weights THEN gpt2._raise(c.model, 'object_not_in_prerequisite_state',
            format('model "%s" has no weights', (c.model).name),
            'Table gpt2.token_page has no row of it.',
            format('Load it again: gpt2-loader load SOURCE --name %s --replace',
                   quote_ident((c.model).name)))
        WHEN w.name IS NOT NULL THEN gpt2._raise(NULL::gpt2.model, 'invalid_parameter_value',
            format('model "%s" does not exist', w.name),
            CASE WHEN _model.model IS NULL THEN 'The setting gpt2.model names it.'
                 ELSE 'The argument model names it.' END,
            'SELECT name FROM gpt2_models(); lists the models.')
        ELSE gpt2._raise(NULL::gpt2.model, 'object_not_in_prerequisite_state',
            'no model is loaded', 'Table gpt2.model has no default model.',
            'Load one: gpt2-loader load SOURCE, or SELECT gpt2_load_model(''/path/of/model'');')
    END
    FROM wanted AS w LEFT JOIN chosen AS c ON true;
END;
COMMENT ON FUNCTION gpt2._model(text) IS
    'the model of this name, else of the setting gpt2.model, else the default one';


CREATE FUNCTION gpt2._vocabulary(model text)
RETURNS TABLE (tokenizer int, n_token int, eos_token int)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- without a model, GPT-2's own
    SELECT coalesce(m.tokenizer, 1), coalesce(m.n_token, 50257), coalesce(m.eos_token, 50256)
    FROM (
        SELECT (c.model).* FROM (
            SELECT CASE
                WHEN _vocabulary.model IS NOT NULL
                    OR nullif(current_setting('gpt2.model', true), '') IS NOT NULL
                    OR EXISTS (SELECT FROM gpt2.model AS d WHERE d.is_default)
                THEN gpt2._model(_vocabulary.model)
            END AS model
            OFFSET 0
        ) AS c
    ) AS m;
END;
COMMENT ON FUNCTION gpt2._vocabulary(text) IS
    'the vocabulary of a model; with no model loaded, GPT-2''s own';


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
        SELECT pg_column_size(p) FROM gpt2.linear_page AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.token_page AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.wpe_row AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.bias_row AS p WHERE p.model = ANY (models)
    UNION ALL
        SELECT pg_column_size(p) FROM gpt2.layer_norm_row AS p WHERE p.model = ANY (models)
    ) AS page (bytes);
END;
COMMENT ON FUNCTION gpt2._read(int[]) IS 'reads the rows that models store; gives their bytes';


CREATE FUNCTION gpt2._model_size(m gpt2.model)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_size_pretty(CASE
    WHEN (m).base IS NOT NULL THEN gpt2._read(ARRAY[(m).model])
    ELSE CASE (m).precision WHEN 'float16' THEN 2 ELSE 4 END * (m).n_parameters
END);
COMMENT ON FUNCTION gpt2._model_size(gpt2.model) IS
    'size of the parameters, of a variant that of the rows it stores, as in "8872 kB"';


CREATE FUNCTION gpt2_models()
RETURNS TABLE (
    name text, is_default boolean, n_parameters bigint, size text, "precision" text,
    n_layer int, n_embd int, n_head int, n_ctx int, n_vocab int,
    base text, source text, loaded_at timestamptz
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT m.name, m.is_default, m.n_parameters, gpt2._model_size(m), m.precision,
           m.n_layer, m.n_embd, m.n_head, m.n_ctx, m.n_vocab, b.name, m.source, m.loaded_at
    FROM gpt2.model AS m
    LEFT JOIN gpt2.model AS b ON b.model = m.base
    ORDER BY m.name;
END;
COMMENT ON FUNCTION gpt2_models() IS
    'lists the models: parameters, bytes of weights, precision, shape, base of a variant, origin';


CREATE FUNCTION gpt2_default_model(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._model(name);
    UPDATE gpt2.model AS m SET is_default = false
    WHERE m.is_default AND m.name <> gpt2_default_model.name;
    UPDATE gpt2.model AS m SET is_default = true
    WHERE NOT m.is_default AND m.name = gpt2_default_model.name;
END;
$$;
COMMENT ON FUNCTION gpt2_default_model(text) IS
    'makes a model the one that calls without a model argument use';


CREATE FUNCTION gpt2._delete_model(name text)
RETURNS gpt2.model
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deleted gpt2.model;
    variants text;
BEGIN
    DELETE FROM gpt2.model AS m WHERE m.name = _delete_model.name RETURNING m.* INTO deleted;
    IF NOT FOUND THEN
        PERFORM gpt2._raise(NULL::boolean, 'invalid_parameter_value',
            format('model "%s" does not exist', name), 'The argument name names it.',
            'SELECT name FROM gpt2_models(); lists the models.');
    END IF;
    -- Looked for after the DELETE, which waits for a variant that another session is creating.
    SELECT string_agg(format('"%s"', m.name), ', ' ORDER BY m.name) INTO variants
    FROM gpt2.model AS m WHERE m.base = deleted.model;
    PERFORM gpt2._assert(variants IS NULL, 'dependent_objects_still_exist',
        format('model "%s" has variants', name),
        format('They store only what differs from it: %s.', variants),
        format('Drop them first: SELECT gpt2_drop_model(name) FROM gpt2_models() WHERE base = %L;',
               name));
    -- Its rows need not tell a model that is gone that it changed (edition.sql).
    PERFORM set_config('gpt2.dropped', deleted.model::text, true);
    DELETE FROM gpt2.token_page WHERE model = deleted.model;
    DELETE FROM gpt2.wpe_row WHERE model = deleted.model;
    DELETE FROM gpt2.layer_norm_row WHERE model = deleted.model;
    DELETE FROM gpt2.bias_row WHERE model = deleted.model;
    DELETE FROM gpt2.linear_page WHERE model = deleted.model;
    RETURN deleted;
END;
$$;
COMMENT ON FUNCTION gpt2._delete_model(text) IS 'removes a model''s rows and gives what it was';


CREATE FUNCTION gpt2._drop_unused_tokenizers()
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    -- Tokenizer 1 is GPT-2's own and belongs to the extension.
    DELETE FROM gpt2.tokenizer AS t
    WHERE t.tokenizer > 1
      AND NOT EXISTS (SELECT FROM gpt2.model AS m WHERE m.tokenizer = t.tokenizer);
END;
COMMENT ON FUNCTION gpt2._drop_unused_tokenizers() IS 'removes the vocabularies of no model';


CREATE FUNCTION gpt2._drop_model(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (gpt2._delete_model(name)).is_default THEN
        UPDATE gpt2.model AS m SET is_default = true
        WHERE m.model = (SELECT min(o.model) FROM gpt2.model AS o);
    END IF;
    PERFORM gpt2._drop_unused_tokenizers();
END;
$$;
COMMENT ON FUNCTION gpt2._drop_model(text) IS
    'gpt2_drop_model''s work, under a name that does not depend on the public schema';


CREATE FUNCTION gpt2_drop_model(name text)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT gpt2._drop_model(gpt2_drop_model.name);
END;
COMMENT ON FUNCTION gpt2_drop_model(text) IS
    'removes a model and its weights; the oldest that is left becomes the default if it was that';


CREATE FUNCTION gpt2_prewarm(model text DEFAULT NULL)
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._read(ARRAY[(m.m).model, (m.m).base])
    FROM (SELECT gpt2._model(gpt2_prewarm.model) AS m OFFSET 0) AS m;
END;
COMMENT ON FUNCTION gpt2_prewarm(text) IS
    'reads a model''s weights, of a variant its base''s too, into the shared buffers; gives their '
    'bytes';


-- Importers' private functions

CREATE FUNCTION gpt2._add_tokenizer(sha256 text, n_token int)
RETURNS int
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO gpt2.tokenizer (sha256, n_token)
    VALUES (_add_tokenizer.sha256, _add_tokenizer.n_token)
    RETURNING tokenizer;
END;
COMMENT ON FUNCTION gpt2._add_tokenizer(text, int) IS
    'begins the import of a vocabulary: its tokens and merges follow by COPY';


CREATE FUNCTION gpt2._check_name(name text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(name <> '', 'invalid_parameter_value',
    'the name of a model may not be empty', 'It is what queries call it by.',
    'SELECT name FROM gpt2_models(); lists those that are taken.');
COMMENT ON FUNCTION gpt2._check_name(text) IS 'true, or an error where a name is empty or NULL';


CREATE FUNCTION gpt2._add_model(
    name text, properties jsonb, replace boolean DEFAULT false, make_default boolean DEFAULT false
) RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new gpt2.model;
BEGIN
    new := jsonb_populate_record(NULL::gpt2.model, properties);
    new.is_default := false;
    IF new.activation_function = 'gelu' THEN
        -- before PostgreSQL 16 this raises feature_not_supported
        PERFORM gpt2._erf(0);
    END IF;
    -- Two imports at once would both be the first, or both take the name.
    LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM gpt2.model AS m WHERE m.name = _add_model.name) THEN
        IF NOT coalesce(replace, false) THEN
            PERFORM gpt2._raise(NULL::boolean, 'duplicate_object',
                format('model "%s" already exists', name),
                'A model is not overwritten unless it is asked for.',
                format('Choose another name, drop it: SELECT gpt2_drop_model(%L); or replace it: '
                       'gpt2-loader load SOURCE --replace, or '
                       'gpt2_load_model(path, name, replace => true).', name));
        END IF;
        new.is_default := (gpt2._delete_model(_add_model.name)).is_default;
    END IF;
    IF make_default OR NOT EXISTS (SELECT FROM gpt2.model) THEN
        new.is_default := true;
    END IF;
    IF new.is_default THEN
        UPDATE gpt2.model AS m SET is_default = false WHERE m.is_default;
    END IF;
    INSERT INTO gpt2.model (
        name, is_default, base, tokenizer, n_token, eos_token, n_vocab, n_ctx, n_embd, n_head,
        n_layer, n_inner, activation_function, layer_norm_epsilon, scale_attn_weights,
        tie_word_embeddings, n_parameters, "precision", page_size, source, revision, sha256
    ) VALUES (
        _add_model.name, new.is_default, new.base, new.tokenizer, new.n_token, new.eos_token,
        new.n_vocab, new.n_ctx, new.n_embd, new.n_head, new.n_layer, new.n_inner,
        new.activation_function, new.layer_norm_epsilon, new.scale_attn_weights,
        new.tie_word_embeddings, new.n_parameters, new."precision",
        gpt2._page_size(new.n_embd, new."precision"), new.source, new.revision, new.sha256
    ) RETURNING model INTO new.model;
    PERFORM gpt2._drop_unused_tokenizers();  -- that of the model replaced
    RETURN new.model;
END;
$$;
COMMENT ON FUNCTION gpt2._add_model(text, jsonb, boolean, boolean) IS
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
    SELECT string_agg(format('%s has %s rows of %s', c.name, coalesce(c.rows, 0), c.expected), ', ')
    INTO missing
    FROM (VALUES
        ('wte', m.n_vocab::bigint,
         (SELECT count(*) FROM gpt2.wte AS w WHERE w.model = m.model)),
        ('wpe', m.n_ctx,
         (SELECT count(*) FROM gpt2.wpe_row AS w WHERE w.model = m.model)),
        ('layer_norm', 2 * m.n_layer + 1,
         (SELECT count(*) FROM gpt2.layer_norm_row AS w WHERE w.model = m.model)),
        ('bias', 4 * m.n_layer,
         (SELECT count(*) FROM gpt2.bias_row AS w WHERE w.model = m.model)),
        ('linear', m.n_layer * (4 * m.n_embd + m.n_inner
                                + m.n_embd * ceil(m.n_inner / m.n_embd::numeric)::int),
         (SELECT sum(coalesce(cardinality(w.weight), cardinality(w.half)))
          FROM gpt2.linear_page AS w WHERE w.model = m.model)),
        ('lm_head', CASE WHEN m.tie_word_embeddings THEN 0 ELSE m.n_vocab END,
         (SELECT count(*) FROM gpt2.lm_head AS w WHERE w.model = m.model))
    ) AS c (name, expected, rows)
    WHERE c.rows IS DISTINCT FROM c.expected;
    PERFORM gpt2._assert(missing IS NULL, 'data_exception',
        format('the weights of model "%s" are incomplete', m.name), missing || '.');
    -- The order of an index is the planner's choice only where it knows the table's size.
    ANALYZE gpt2.token_page, gpt2.wpe_row, gpt2.layer_norm_row, gpt2.bias_row, gpt2.linear_page,
        gpt2.model;
END;
$$;
COMMENT ON FUNCTION gpt2._finish_model(int) IS
    'ends the import of a model: counts its rows against its shape';
