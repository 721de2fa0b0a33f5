-- Views ask for the rights of whoever reads them, as functions do, and not for their owner's: a
-- model that a policy on gpt2.model hides is hidden in them too. PostgreSQL 14 has no such views,
-- and pg_upgrade brings what an older server made.

DO $$
DECLARE
    view regclass;
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        FOR view IN SELECT c.oid FROM pg_class AS c
                    WHERE c.relnamespace = 'gpt2'::regnamespace AND c.relkind = 'v' LOOP
            EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', view);
        END LOOP;
    END IF;
END;
$$;
