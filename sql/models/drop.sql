-- How a model goes, and which one becomes the default.


CREATE FUNCTION gpt2_default_model(name text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._lock_models();
    PERFORM gpt2._chosen_number(name);
    UPDATE gpt2.model AS m SET is_default = false
    WHERE m.is_default AND m.name <> gpt2_default_model.name;
    UPDATE gpt2.model AS m SET is_default = true
    WHERE NOT m.is_default AND m.name = gpt2_default_model.name;
END;
$$;
COMMENT ON FUNCTION gpt2_default_model IS
    'makes a model the one that calls without a model argument use';


CREATE FUNCTION gpt2._delete_model(name text)
RETURNS gpt2.model
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deleted gpt2.model;
    variants text;
    weights regclass;
BEGIN
    PERFORM gpt2._lock_models();
    DELETE FROM gpt2.model AS m WHERE m.name = _delete_model.name RETURNING m.* INTO deleted;
    IF NOT FOUND THEN
        PERFORM gpt2._raise(NULL::boolean, 'invalid_parameter_value',
            format('model "%s" does not exist', name), 'The argument name names it.',
            'SELECT name FROM gpt2_models(); lists the models.');
    END IF;
    SELECT string_agg(format('"%s"', m.name), ', ' ORDER BY m.name) INTO variants
    FROM gpt2.model AS m WHERE m.base = deleted.model;
    PERFORM gpt2._assert(variants IS NULL, 'dependent_objects_still_exist',
        format('model "%s" has variants', name),
        format('They store only what differs from it: %s.', variants),
        format('Drop them first: SELECT gpt2_drop_model(name) FROM gpt2_models() WHERE base = %L;',
               name));
    -- Its rows need not tell a model that is gone that it changed (editions.sql).
    PERFORM set_config('gpt2.dropped', deleted.model::text, true);
    FOR weights IN SELECT t FROM gpt2._weight_tables() AS t LOOP
        EXECUTE format('DELETE FROM %s WHERE model = $1', weights) USING deleted.model;
    END LOOP;
    RETURN deleted;
END;
$$;
COMMENT ON FUNCTION gpt2._delete_model IS 'removes a model''s rows and gives what it was';


CREATE FUNCTION gpt2._drop_unused_tokenizers()
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    -- Tokenizer 1 is GPT-2's own and belongs to the extension. No foreign key cascades: there are
    -- none, as CREATE EXTENSION would make them before pg_restore --jobs loads tables in any order.
    -- Each table that is written has an alias of its own: PostgreSQL 14.1 dumps others wrongly.
    WITH unused AS (
        DELETE FROM gpt2.tokenizer AS t
        WHERE t.tokenizer > 1
          AND NOT EXISTS (SELECT FROM gpt2.model AS m WHERE m.tokenizer = t.tokenizer)
        RETURNING t.tokenizer
    ), merge AS (
        DELETE FROM gpt2.merge AS g USING unused AS u WHERE g.tokenizer = u.tokenizer
    )
    DELETE FROM gpt2.token AS k USING unused AS u WHERE k.tokenizer = u.tokenizer;
END;
COMMENT ON FUNCTION gpt2._drop_unused_tokenizers IS 'removes the vocabularies of no model';


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
COMMENT ON FUNCTION gpt2._drop_model IS
    'gpt2_drop_model''s work, under a name that does not depend on the public schema';


CREATE FUNCTION gpt2_drop_model(name text)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT gpt2._drop_model(gpt2_drop_model.name);
END;
COMMENT ON FUNCTION gpt2_drop_model IS
    'removes a model and its weights; the oldest that is left becomes the default if it was that';
