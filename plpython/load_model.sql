-- A model from a directory on the server, read by PL/Python.
--
-- With the rights of the role that calls. A function of the definer's rights could not tell who
-- that is: a view that is refreshed, an index, a trigger or another such function runs with its
-- owner's rights in a session of somebody else's. Python itself may read what the server's
-- operating system user may, so it asks for pg_read_server_files, as COPY does.


CREATE FUNCTION gpt2._check_may_read_files()
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT gpt2._assert(r.inherited, 'insufficient_privilege',
        'permission denied to read files on the server',
        CASE WHEN r.member
             THEN format('Role "%s" is a member of pg_read_server_files, but does not inherit its '
                         'privileges.', current_user)
             ELSE format('Role "%s" is not a member of pg_read_server_files.', current_user) END,
        CASE WHEN NOT r.member THEN format('GRANT pg_read_server_files TO %I;', current_user)
             WHEN current_setting('server_version_num')::int < 160000
             THEN format('ALTER ROLE %I INHERIT;', current_user)
             ELSE format('GRANT pg_read_server_files TO %I WITH INHERIT TRUE;', current_user) END
        || ' or load from the client: gpt2-loader load SOURCE')
    FROM (SELECT pg_has_role(current_user, 'pg_read_server_files', 'USAGE') AS inherited,
                 pg_has_role(current_user, 'pg_read_server_files', 'MEMBER') AS member) AS r;
END;
COMMENT ON FUNCTION gpt2._check_may_read_files IS
    'true, or an error where the role lacks the privileges of pg_read_server_files';


-- The error, if any, is returned and not raised: PL/Python would put its exception's class before
-- the message and a Python traceback after it.
CREATE FUNCTION gpt2._load_model(
    path text, name text, replace boolean, tokenizer text, dtype text,
    OUT sqlstate text, OUT message text, OUT detail text, OUT hint text
)
LANGUAGE plpython3u VOLATILE
SET search_path = pg_catalog, pg_temp
AS $python$
import sys
import types

try:
    import numpy
except ImportError as error:
    return (
        "55000",
        "numpy is not installed for the server's Python",
        f"{error} (Python {sys.version.split()[0]})",
        "Install it on the server: apt-get install python3-numpy",
    )

# The package, made anew at each call so that an update of the extension takes effect.
package = sys.modules["gpt2_loader"] = types.ModuleType("gpt2_loader")
for module in plpy.execute("SELECT name, source FROM gpt2._python_modules()"):
    full_name = f"gpt2_loader.{module['name']}"
    sys.modules[full_name] = types.ModuleType(full_name)
    exec(compile(module["source"], full_name, "exec"), sys.modules[full_name].__dict__)
    setattr(package, module["name"], sys.modules[full_name])

return package.server.load_model(plpy, path, name, replace, tokenizer, dtype)
$python$;
COMMENT ON FUNCTION gpt2._load_model IS
    'gpt2_load_model''s work; gives the error to raise, or NULLs';


CREATE FUNCTION gpt2_load_model(
    path text, name text DEFAULT NULL, replace boolean DEFAULT false, tokenizer text DEFAULT NULL,
    dtype text DEFAULT 'float32'
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model text := coalesce(name, substring(path FROM '([^/]+)/*$'));
    error record;
BEGIN
    PERFORM gpt2._check_may_read_files();
    IF path IS NULL OR path NOT LIKE '/%' THEN
        RAISE EXCEPTION 'path of a model is not absolute: %', quote_nullable(path)
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It is a directory on the server.',
                  HINT = 'SELECT gpt2_load_model(''/path/of/model'');';
    END IF;
    SELECT * INTO error
    FROM gpt2._load_model(path, coalesce(model, ''), coalesce(replace, false), tokenizer,
                          coalesce(dtype, ''));
    IF error.message IS NOT NULL THEN
        PERFORM gpt2._raise(NULL::boolean, error.sqlstate, error.message, error.detail, error.hint);
    END IF;
    RETURN model;
END;
$$;
COMMENT ON FUNCTION gpt2_load_model IS
    'loads the model in a directory on the server; gives its name';

REVOKE EXECUTE ON FUNCTION gpt2_load_model, gpt2._load_model FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gpt2_load_model, gpt2._load_model TO pg_read_server_files;
