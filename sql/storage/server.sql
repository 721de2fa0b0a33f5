-- What depends on the version of the server. The planners differ too: docs/design.md; and the
-- views' rights, which are set when all is made: sql/install/views.sql.


-- erf() came with PostgreSQL 16; only models with the exact 'gelu' need it. IMMUTABLE in both
-- cases, or gpt2._gelu could not be inlined, and would take twenty times as long. pg_upgrade brings
-- the function that an older server made.
DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
        CREATE FUNCTION gpt2._erf(x float8) RETURNS float8
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        AS 'SELECT pg_catalog.erf(x)';
    ELSE
        CREATE FUNCTION gpt2._erf(x float8) RETURNS float8
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        AS $body$
            SELECT gpt2._raise(x, 'feature_not_supported',
                'activation function "gelu" needs erf(), which came with PostgreSQL 16',
                'The extension was installed by an older server.',
                'Upgrade it, then: CREATE OR REPLACE FUNCTION gpt2._erf(x float8) RETURNS float8 '
                'LANGUAGE sql IMMUTABLE PARALLEL SAFE AS ''SELECT pg_catalog.erf(x)'';')
        $body$;
    END IF;
END;
$$;
COMMENT ON FUNCTION gpt2._erf IS 'error function, where the server has it';
