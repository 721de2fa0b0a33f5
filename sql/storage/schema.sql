-- The schema that holds tables and internals. Public functions (gpt2_*) are created in the
-- schema the user installs into; what lies here under a leading underscore may change.

DO $$
BEGIN
    IF pg_catalog.current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'gpt2 needs a database with encoding UTF8'
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = pg_catalog.format('This database has encoding %s.',
                                             pg_catalog.current_setting('server_encoding')),
                  HINT = 'CREATE DATABASE name ENCODING ''UTF8'' TEMPLATE template0;';
    END IF;
END;
$$;

DO $$
DECLARE
    taken oid := pg_catalog.to_regnamespace('gpt2');
    -- those in PL/pgSQL do not depend on the schema, and would be left without it
    functions text;
    holds text;
BEGIN
    IF taken IS NULL THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', true);
    IF EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
               WHERE d.classid = 'pg_namespace'::regclass AND d.objid = taken
                 AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'gpt2') THEN
        RAISE EXCEPTION 'schema "gpt2" already exists'
            USING ERRCODE = 'duplicate_schema',
                  DETAIL = 'It belongs to the extension gpt2, which is installed here.',
                  HINT = 'Use it as it is, or drop it with its models: DROP EXTENSION gpt2;';
    ELSIF EXISTS (SELECT FROM pg_proc AS p
                  WHERE p.pronamespace = taken AND p.proname = '_chosen_model') THEN
        SELECT string_agg(p.oid::regprocedure::text, ', ' ORDER BY p.proname) INTO functions
        FROM pg_proc AS p
        WHERE p.proname IN ('gpt2_average', 'gpt2_completions', 'gpt2_create_variant',
                            'gpt2_default_model');
        RAISE EXCEPTION 'schema "gpt2" already exists'
            USING ERRCODE = 'duplicate_schema',
                  DETAIL = 'It holds what a plain script of gpt2 has made, models included.',
                  HINT = format('Use it as it is, or drop it with its models: DROP SCHEMA gpt2 '
                                'CASCADE; DROP FUNCTION %s;', functions);
    END IF;
    SELECT string_agg(o.name, ', ' ORDER BY o.name) INTO holds
    FROM (
        SELECT pg_describe_object(d.classid, d.objid, 0)
        FROM pg_depend AS d
        WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = taken
        ORDER BY 1 LIMIT 10
    ) AS o (name);
    RAISE EXCEPTION 'schema "gpt2" already exists'
        USING ERRCODE = 'duplicate_schema',
              DETAIL = CASE WHEN holds IS NULL THEN 'It is empty.'
                            ELSE format('It holds other things: %s.', holds) END,
              HINT = CASE WHEN holds IS NULL THEN 'DROP SCHEMA gpt2;'
                          ELSE 'Give it another name: ALTER SCHEMA gpt2 RENAME TO other;' END;
END;
$$;

CREATE SCHEMA gpt2;
COMMENT ON SCHEMA gpt2 IS 'tables and internals of the gpt2 extension';
GRANT USAGE ON SCHEMA gpt2 TO PUBLIC;
