-- Errors. A query cannot raise one by itself; a CASE that calls gpt2._raise can.


CREATE FUNCTION gpt2._raise(
    type anyelement, errcode text, message text, detail text, hint text DEFAULT NULL
) RETURNS anyelement
LANGUAGE plpgsql VOLATILE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- an option of RAISE may not be NULL, and an empty HINT would be shown
    IF hint IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = errcode, MESSAGE = message, DETAIL = detail;
    END IF;
    RAISE EXCEPTION USING ERRCODE = errcode, MESSAGE = message, DETAIL = detail, HINT = hint;
END;
$$;
COMMENT ON FUNCTION gpt2._raise IS 'raises an error, in the place of a value of any type';


CREATE FUNCTION gpt2._assert(
    condition boolean, errcode text, message text, detail text, hint text DEFAULT NULL
) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN CASE
    WHEN condition THEN true
    ELSE gpt2._raise(NULL::boolean, errcode, message, detail, hint)
END;
COMMENT ON FUNCTION gpt2._assert IS 'true, or an error where the condition is false or NULL';
