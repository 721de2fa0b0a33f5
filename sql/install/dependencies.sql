-- What the script has made must call nothing that it did not mean to.
--
-- A body is bound to what the names in it mean when the script runs, and of two functions of one
-- name an exact match wins over a polymorphic one, wherever they lie in the search_path. Whoever
-- may create functions in the schema of gpt2, or of vector, could make a cardinality(int[]) there
-- before: it would be bound in place of PostgreSQL's cardinality(anyarray), and do its maker's will
-- with the rights of each caller. So the script makes everything, runs this check, and only then
-- executes something of what it has made.


-- A dependency that is no one's: neither PostgreSQL's, nor an extension's, nor made here. A string
-- with its own search_path and not a parsed body, which could itself be bound to something else.
CREATE FUNCTION gpt2._foreign_dependencies()
RETURNS TABLE (object text, uses text, owner text, type text)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE
    home AS (
        SELECT n.oid, n.nspowner FROM pg_namespace AS n WHERE n.nspname = 'gpt2'
    ),
    member AS (
        SELECT d.classid, d.objid, e.extname
        FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    ),
    -- the schema gpt2, the public functions, and what goes with them: rules of views, triggers,
    -- constraints, array types
    own AS (
        SELECT d.classid, d.objid
        FROM home AS h
        JOIN pg_depend AS d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = h.oid
        UNION
        SELECT 'pg_proc'::regclass, p.oid
        FROM home AS h JOIN pg_proc AS p ON p.proname ^@ 'gpt2_'
        LEFT JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
        WHERE p.proowner = h.nspowner OR m.extname IN ('gpt2', 'gpt2_plpython3u')
        UNION
        SELECT d.classid, d.objid
        FROM own AS o
        JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid
        WHERE d.deptype IN ('a', 'i')
    ),
    of_an_extension AS (
        SELECT m.classid, m.objid FROM member AS m
        UNION
        SELECT d.classid, d.objid
        FROM of_an_extension AS o
        JOIN pg_depend AS d ON d.refclassid = o.classid AND d.refobjid = o.objid
        WHERE d.deptype = 'i'
    ),
    found AS (
        SELECT DISTINCT o.classid, o.objid, d.refclassid, d.refobjid
        FROM own AS o
        JOIN pg_depend AS d ON d.classid = o.classid AND d.objid = o.objid
        WHERE d.refobjid >= 16384 -- below it is what initdb made
          AND d.refclassid NOT IN ('pg_namespace'::regclass, 'pg_extension'::regclass)
          AND NOT EXISTS (SELECT FROM own AS w
                          WHERE w.classid = d.refclassid AND w.objid = d.refobjid)
          AND NOT EXISTS (SELECT FROM of_an_extension AS w
                          WHERE w.classid = d.refclassid AND w.objid = d.refobjid)
    )
    SELECT pg_describe_object(f.classid, f.objid, 0), u.identity,
           -- what the first superuser owns is not written down
           coalesce((SELECT s.refobjid
                     FROM pg_database AS b JOIN pg_shdepend AS s ON s.dbid = b.oid
                     WHERE b.datname = current_database()
                       AND s.classid = f.refclassid AND s.objid = f.refobjid
                       AND s.deptype = 'o'), 10)::regrole::text,
           u.type
    FROM found AS f
    CROSS JOIN LATERAL pg_identify_object(f.refclassid, f.refobjid, 0) AS u
    ORDER BY u.identity, 1
$$;
COMMENT ON FUNCTION gpt2._foreign_dependencies IS
    'what the extension''s objects use that is neither PostgreSQL''s nor an extension''s: no rows';


-- An update knows what was there before it: a trigger, say, that somebody has hung on a table.
CREATE FUNCTION gpt2._check_dependencies(known text[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
BEGIN
    SELECT string_agg(format('%s %s of role %s', f.type, f.uses, f.owner),
                      E'\n' ORDER BY f.uses) AS uses,
           string_agg(format('DROP %s %s;', upper(f.type), f.uses), ' ' ORDER BY f.uses) AS drops
    INTO found
    FROM (SELECT DISTINCT d.type, d.uses, d.owner FROM gpt2._foreign_dependencies() AS d
          WHERE d::text <> ALL (coalesce(known, '{}'))
          ORDER BY d.uses LIMIT 10) AS f;
    IF found.uses IS NOT NULL THEN
        RAISE EXCEPTION 'functions of others would be called by those of gpt2'
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = found.uses,
                  HINT = format('Whoever made them could act with the rights of each caller. Look '
                                'at them, remove them, and try again: %s', found.drops);
    END IF;
END;
$$;
COMMENT ON FUNCTION gpt2._check_dependencies IS
    'raises an error where a function, operator or type of somebody else''s is used; known: rows '
    'of gpt2._foreign_dependencies that may be';


DO $$ BEGIN PERFORM gpt2._check_dependencies(); END; $$;

-- From here on the script executes what it has made, with PostgreSQL's own names alone.
SET LOCAL search_path = pg_catalog, pg_temp;
