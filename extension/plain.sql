-- gpt2 as one script, for a server where no extension files can be installed. Its functions go to
-- the first schema of the search_path:
--
--     psql -v ON_ERROR_STOP=1 -f gpt2.sql
--
-- It begins with what CREATE EXTENSION does for a script: the caller's settings change nothing.

BEGIN;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL client_min_messages = warning;
SET LOCAL check_function_bodies = off;

DO $$
DECLARE
    target name := pg_catalog.current_schema();
    vector name;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', true);
    IF target IS NULL THEN
        RAISE EXCEPTION 'no schema has been selected to create in'
            USING ERRCODE = 'invalid_schema_name',
                  DETAIL = 'No schema of the search_path exists.',
                  HINT = 'SET search_path = public;';
    END IF;
    SELECT n.nspname INTO vector
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector';
    IF vector IS NULL THEN
        RAISE EXCEPTION 'gpt2 needs the extension vector (pgvector)'
            USING ERRCODE = 'undefined_object',
                  DETAIL = 'It is not installed in this database.',
                  HINT = 'CREATE EXTENSION vector;';
    END IF;
    PERFORM set_config('search_path', format('%I, %I, pg_temp', target, vector), true);
END;
$$;
