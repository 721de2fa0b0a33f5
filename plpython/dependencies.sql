-- What is made here, too, must call nothing of somebody else's: see sql/install/dependencies.sql.

DO $$
BEGIN
    PERFORM gpt2._check_dependencies(nullif(current_setting('gpt2.known'), '')::text[]);
END;
$$;
