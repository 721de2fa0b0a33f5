-- What was made must call nothing of somebody else's: see sql/install/dependencies.sql.

SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
BEGIN
    PERFORM gpt2._check_dependencies(nullif(current_setting('gpt2.known'), '')::text[]);
END;
$$;
