-- A model from a directory on the server, read by PL/Python.


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
REVOKE EXECUTE ON FUNCTION gpt2._load_model(text, text, boolean, text, text) FROM PUBLIC;
COMMENT ON FUNCTION gpt2._load_model IS
    'gpt2_load_model''s work; gives the error to raise, or NULLs';


-- SECURITY DEFINER: whoever may execute it needs no rights on the tables. The definer is a
-- superuser, whom COPY lets read any file, so that the caller has to be asked for the right.
CREATE FUNCTION gpt2_load_model(
    path text, name text DEFAULT NULL, replace boolean DEFAULT false, tokenizer text DEFAULT NULL,
    dtype text DEFAULT 'float32'
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- current_user is the definer here
    caller text := CASE current_setting('role')
                       WHEN 'none' THEN session_user
                       ELSE current_setting('role')
                   END;
    model text := coalesce(name, substring(path FROM '([^/]+)/*$'));
    error record;
BEGIN
    IF NOT pg_has_role(caller::name, 'pg_read_server_files', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied to read files on the server'
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('Role "%s" is not a member of pg_read_server_files.', caller),
                  HINT = format('GRANT pg_read_server_files TO %I; or load from the client: '
                                'gpt2-loader load SOURCE', caller);
    END IF;
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
REVOKE EXECUTE ON FUNCTION gpt2_load_model(text, text, boolean, text, text) FROM PUBLIC;
COMMENT ON FUNCTION gpt2_load_model IS
    'loads the model in a directory on the server; gives its name';
