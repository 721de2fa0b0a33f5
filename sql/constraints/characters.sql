-- Characters that no part of a regular expression tells apart: one may stand for all of its kind.


CREATE FUNCTION gpt2._pattern_characters(options text, atoms text[])
RETURNS TABLE (code_points int[], examples text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH atom AS (
        SELECT a.n, options || '(?:' || a.atom || ')' COLLATE "default" AS atom,
               -- of one that matches just itself
               CASE WHEN a.atom ~ '^(?:[^.[\\]|\\[^[:alnum:]])$' AND options !~ 'i'
                    THEN ascii(right(a.atom, 1)) END AS code_point
        FROM unnest(atoms) WITH ORDINALITY AS u (atom, n)
        CROSS JOIN LATERAL (SELECT u.atom COLLATE "C" AS atom, u.n) AS a
    ), everything AS (
        -- The characters beyond ASCII, in order: all of the planes 0 and 1 and of the tags. Planes
        -- 2 and 3 hold ideographs in blocks of a multiple of 16, filled from their beginnings, so
        -- that each 16th and the one before it will do; the others are empty or private. Those that
        -- the pattern names come along. 30 ms, against 250 for all of them.
        SELECT string_agg(chr(c.code_point), '') AS text
        FROM (
            SELECT generate_series(128, 55295) UNION ALL SELECT generate_series(57344, 131071)
            UNION ALL SELECT generate_series(131072, 262143, 16)
            UNION ALL SELECT generate_series(131087, 262143, 16)
            UNION ALL SELECT generate_series(262144, 1114111, 64)
            UNION ALL SELECT generate_series(262207, 1114111, 64)
            UNION ALL SELECT generate_series(917504, 921599)
            UNION ALL
            SELECT unnest(ARRAY[p.code_point, p.code_point + 1])
            FROM atom AS a
            CROSS JOIN regexp_matches(a.atom,
                '\\U([0-9A-Fa-f]{8})|\\x([0-9A-Fa-f]+)|([\U00020000-\U0010FFFF])', 'g') AS m (match)
            CROSS JOIN LATERAL (
                SELECT coalesce(('x' || lpad(coalesce(m.match[1], right(m.match[2], 8)), 8, '0'))
                                ::bit(32)::int, ascii(m.match[3]))) AS p (code_point)
            WHERE p.code_point BETWEEN 131072 AND 1114110
            ORDER BY 1
        ) AS c (code_point)
        WHERE EXISTS (SELECT FROM atom AS a WHERE a.code_point IS NULL)
    ), point AS (
        -- Where ranges begin: each of ASCII; a literal and the next; and for an expression, where
        -- a run of characters that it matches begins and ends.
        SELECT p.code_point
        FROM (
            SELECT generate_series(1, 128)
            UNION SELECT unnest(ARRAY[a.code_point, a.code_point + 1]) FROM atom AS a
            UNION
            SELECT ascii(r.run)
            FROM atom AS a
            CROSS JOIN everything AS e
            CROSS JOIN LATERAL (
                SELECT m.match[1] FROM regexp_matches(e.text, a.atom || '+', 'g') AS m (match)
                UNION ALL SELECT regexp_split_to_table(e.text, a.atom || '+')
            ) AS r (run)
            WHERE a.code_point IS NULL
        ) AS p (code_point)
        -- no surrogates
        WHERE p.code_point BETWEEN 1 AND 55295 OR p.code_point BETWEEN 57344 AND 1114111
    ), match AS (
        SELECT a.n, a.code_point FROM atom AS a
        UNION ALL
        SELECT a.n, p.code_point
        FROM atom AS a
        JOIN point AS p ON chr(p.code_point) ~ a.atom
        WHERE a.code_point IS NULL
    )
    SELECT array_agg(r.code_point ORDER BY r.code_point),
           array_agg(r.example ORDER BY r.code_point)
    FROM (
        SELECT p.code_point,
               CASE WHEN c.atoms IS NOT NULL
                    THEN chr(min(p.code_point) OVER (PARTITION BY c.atoms)) END AS example
        FROM point AS p
        LEFT JOIN (
            SELECT m.code_point, array_agg(m.n ORDER BY m.n) AS atoms
            FROM match AS m
            GROUP BY m.code_point
        ) AS c ON c.code_point = p.code_point
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._pattern_characters IS
    'ranges of characters that expressions for one character do not tell apart, with the first '
    'character of their kind, NULL where none matches';


CREATE FUNCTION gpt2._cut(bytes bytea)
RETURNS TABLE (text text, tail bytea)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE WHEN b.is_ascii THEN convert_from(bytes, 'UTF8')
                ELSE convert_from(substring(bytes FOR length(b.match[1])), 'UTF8') END,
           CASE WHEN b.is_ascii THEN '' ELSE substring(bytes FROM length(b.match[1]) + 1) END
    FROM (
        SELECT a.is_ascii,
               CASE WHEN NOT a.is_ascii AND position('\x00'::bytea IN bytes) = 0
                    THEN regexp_match(convert_from(bytes, 'LATIN1') COLLATE "C",
                        '^((?:' || gpt2._utf8_character() || ')*)'
                        '(|' || gpt2._utf8_part() || '|[\u00C2-\u00F4])$') END AS match
        -- this writes NUL, a byte above 127 and a backslash with more than one character
        FROM (SELECT length(encode(bytes, 'escape')) = length(bytes) AS is_ascii) AS a
        OFFSET 0
    ) AS b;
END;
COMMENT ON FUNCTION gpt2._cut IS
    'bytes as text and what is left of a last character that is incomplete; NULL where they are '
    'not UTF-8';


CREATE FUNCTION gpt2._tail_characters(tail bytea, code_points int[], examples text[])
RETURNS TABLE (example text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 5
BEGIN ATOMIC
    -- The first byte of two, three or four has 5, 4 or 3 bits of the code point, the others 6.
    SELECT DISTINCT u.example
    FROM (
        SELECT get_byte(tail, 0) AS lead, CASE WHEN get_byte(tail, 0) < 224 THEN 2
                    WHEN get_byte(tail, 0) < 240 THEN 3 ELSE 4 END AS n
    ) AS b
    CROSS JOIN LATERAL (
        -- get_byte() raises an error beyond the end
        SELECT (b.lead & ((64 >> (b.n - 1)) - 1)) << (6 * (b.n - 1))
             | CASE WHEN length(tail) < 2 THEN 0
                    ELSE (get_byte(tail, 1) & 63) << (6 * (b.n - 2)) END
             | CASE WHEN length(tail) < 3 THEN 0
                    ELSE (get_byte(tail, 2) & 63) << (6 * (b.n - 3)) END AS "first"
    ) AS c
    CROSS JOIN LATERAL (
        -- no overlong forms, no surrogates, nothing above U+10FFFF
        SELECT greatest(c."first", CASE b.n WHEN 3 THEN 2048 WHEN 4 THEN 65536 ELSE 128 END)
                   AS "first",
               least(c."first" + (1 << (6 * (b.n - length(tail)))) - 1,
                     CASE b.lead WHEN 237 THEN 55295 ELSE 1114111 END) AS "last"
    ) AS r
    CROSS JOIN LATERAL unnest(
        examples[width_bucket(r."first", code_points):width_bucket(r."last", code_points)]
    ) AS u (example)
    WHERE u.example IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._tail_characters IS
    'representatives of the characters that begin with these 1 to 3 bytes';
