-- The bytes of a completion as text: up to the first stop, and while it grows only what stays.


CREATE FUNCTION gpt2._until_stop(bytes bytea, stop bytea[])
RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- UTF-8 in UTF-8 is found byte by byte: no character begins inside another
RETURN CASE WHEN stop IS NULL THEN bytes
            ELSE (SELECT substring(bytes FOR coalesce(min(s.first) - 1, length(bytes))::int)
                  FROM (SELECT nullif(position(u.stop IN bytes), 0)
                        FROM unnest(_until_stop.stop) AS u (stop)) AS s (first)) END;
COMMENT ON FUNCTION gpt2._until_stop IS 'what is before the first of some texts';


CREATE FUNCTION gpt2._completion(
    echo bytea, bytes bytea, stop bytea[], finish_reason text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN finish_reason IS DISTINCT FROM 'constraint'
            THEN gpt2._utf8(echo || gpt2._until_stop(bytes, stop)) END;
COMMENT ON FUNCTION gpt2._completion IS
    'the text of a completion that has ended, after its prompt''s; NULL where it is not what it '
    'must be';


CREATE FUNCTION gpt2._stable_completion(echo bytea, bytes bytea, stop bytea[])
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Held back: what may become a stop, and a character that the next tokens may complete.
    SELECT gpt2._utf8(substring(h.bytes FOR length(h.bytes) - length(coalesce(substring(
        encode(substring(h.bytes FROM greatest(1, length(h.bytes) - 2)), 'hex')
        FROM '^(?:..)*?(c[2-9a-f]|d.|e.|f[0-4]'
             '|e0[ab].|e[1-9abcef][89ab].|ed[89].|f0[9ab].|f[1-3][89ab].|f48.'
             '|(?:f0[9ab].|f[1-3][89ab].|f48.)[89ab].)$'), '')) / 2))
    FROM (
        SELECT echo || substring(_stable_completion.bytes
                         FOR length(_stable_completion.bytes) - coalesce(max(n), 0)) AS bytes
        FROM unnest(stop) AS s (stop)
        CROSS JOIN LATERAL generate_series(
            1, least(length(s.stop) - 1, length(_stable_completion.bytes))) AS n
        WHERE substring(_stable_completion.bytes
                        FROM length(_stable_completion.bytes) - n + 1) = substring(s.stop FOR n)
    ) AS h;
END;
COMMENT ON FUNCTION gpt2._stable_completion IS
    'what of a growing completion will not change, after its prompt: whole characters, no '
    'beginning of a stop';
