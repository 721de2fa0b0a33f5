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

CREATE SCHEMA gpt2;
COMMENT ON SCHEMA gpt2 IS 'tables and internals of the gpt2 extension';
GRANT USAGE ON SCHEMA gpt2 TO PUBLIC;
