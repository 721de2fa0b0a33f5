-- Completions that match a regular expression: which tokens may come next.
--
-- A token may come if, after it, the text so far is the beginning of a match. PostgreSQL's regular
-- expressions cannot say so, but for an expression R there is another one, Pre(R), that matches
-- exactly the beginnings of R's matches. c is one character, A and B are any expressions:
--     Pre(c) = c?           Pre(A|B) = Pre(A)|Pre(B)      Pre(AB) = Pre(A)|A Pre(B)
--     Pre(A{m,n}) = A{0,n-1}Pre(A), and A*, A+ and A? are A{0,}, A{1,} and A{0,1}
-- It is at most twice as long for each level of parentheses.
--
-- Characters that no part of R tells apart are interchangeable, and so are tokens made of such.
-- gpt2._pattern() finds one text for each kind of token, once; a step tries these, not each token.


CREATE TYPE gpt2._kind AS (
    text text,     -- of representative characters
    tokens int[],  -- tokens of this kind
    cut int[]      -- tokens that end inside a character, and could become of this kind
);
COMMENT ON TYPE gpt2._kind IS 'tokens that a pattern does not tell apart';

CREATE TYPE gpt2._kinds_by_first AS (
    "first" text,       -- a representative character
    kinds gpt2._kind[]  -- those whose text begins with it
);
COMMENT ON TYPE gpt2._kinds_by_first IS 'kinds of tokens by their first character';

CREATE TYPE gpt2._pattern AS (
    whole text,           -- matches the completions
    prefix text,          -- matches their beginnings
    code_points int[],    -- ranges of characters: each begins here and ends before the next
    examples text[],      -- for each range the representative of its characters, NULL for none
    starts gpt2._kinds_by_first[]  -- the vocabulary
);
COMMENT ON TYPE gpt2._pattern IS 'a pattern for completions, prepared for a vocabulary';


-- Beginnings of matches

CREATE FUNCTION gpt2._pattern_lexemes(pattern text)
RETURNS TABLE (n int, n_last int, kind text, lexeme text, "position" int)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Of a valid pattern, without comments and without options that change nothing here.
    -- Source: PostgreSQL, src/backend/regex/regc_lex.c
    SELECT row_number() OVER (ORDER BY k.n)::int, count(*) OVER ()::int,
           k.kind, k.lexeme, k."position"
    FROM (
        SELECT l.n, l.lexeme,
               (sum(length(l.lexeme)) OVER (ORDER BY l.n) - length(l.lexeme))::int + 1
                   AS "position",
               CASE
                   WHEN l.lexeme ~ '^\*\*\*' THEN 'a director'
                   WHEN l.lexeme ~ '^\(\?[cist]+\)$' THEN 'letter case'
                   WHEN l.lexeme ~ '^\(\?[a-z]' THEN 'such options'
                   WHEN l.lexeme ~ '^\(\?#' THEN 'a comment'
                   WHEN l.lexeme ~ '^\(\?[=!]' THEN 'a lookahead'
                   WHEN l.lexeme ~ '^\(\?<' THEN 'a lookbehind'
                   WHEN l.lexeme ~ '^\\[1-9]' THEN 'a back reference'
                   WHEN l.lexeme ~ '^(?:[$^]|\\[AZmMyY]|\[\[:[<>]:]])$' THEN 'a constraint'
                   WHEN l.lexeme ~ '^\(' THEN '('
                   WHEN l.lexeme IN (')', '|') THEN l.lexeme
                   WHEN l.lexeme ~ '^(?:[*+?]|\{[0-9])' THEN 'a quantifier'
                   ELSE 'a character'
               END AS kind
        FROM (
            SELECT m.n, m.match[1] COLLATE "C" AS lexeme
            FROM regexp_matches(pattern COLLATE "C",
                -- only at the very beginning
                '^\*\*\*[:=]?|^\(\?[a-z]+\)'
                '|\(\?#[^)]*\)?|\(\?<?[=!]|\(\?:|\('
                '|(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??'
                -- A bracket expression: ']' does not close it as its first character, nor in
                -- '[.].]', '[=]=]' or '[:alpha:]', nor after a backslash.
                '|\[\^?\]?(?:\\c.|\\.|\[\.(?:[^.]|\.(?!\]))*\.\]|\[=(?:[^=]|=(?!\]))*=\]'
                    '|\[:(?:[^:]|:(?!\]))*:\]|\[(?![.=:])|[^]\\[])*\]'
                '|\[\[:[<>]:\]\]'
                '|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\x[0-9A-Fa-f]+'
                '|\\0[0-7]{0,2}|\\[1-9][0-9]*|\\c.|\\.|.', 'g') WITH ORDINALITY AS m (match, n)
        ) AS l
    ) AS k
    WHERE k.kind NOT IN ('a comment', 'letter case');
END;
COMMENT ON FUNCTION gpt2._pattern_lexemes IS
    'what a regular expression is made of: kind and text, and at which character it begins';


CREATE FUNCTION gpt2._whole_pattern(pattern text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- embedded options stand before all else
RETURN regexp_replace(pattern COLLATE "C", '^(\(\?[a-z]+\))?(.*)$', '\1^(?:\2)$');
COMMENT ON FUNCTION gpt2._whole_pattern IS
    'a regular expression for whole texts that match a pattern';


CREATE FUNCTION gpt2._check_pattern(pattern text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        -- the server's own error first, where it is none by itself or between '^(?:' and ')$'
        WHEN ('' ~ (pattern COLLATE "default")) IS NULL THEN NULL
        WHEN CASE WHEN left(pattern, 3) = '***' THEN false
                  ELSE ('' ~ (gpt2._whole_pattern(pattern) COLLATE "default")) IS NULL END THEN NULL
        ELSE (
            SELECT coalesce(bool_and(gpt2._assert(false, 'feature_not_supported',
                       format('a pattern with %s is not supported', l.kind),
                       format('Character %s of the pattern begins %s.', l."position", l.lexeme),
                       CASE l.kind
                           WHEN 'a director' THEN
                               'Write an advanced regular expression, without a director.'
                           WHEN 'such options' THEN
                               'Only (?i), for any letter case, may begin a pattern.'
                           WHEN 'a back reference' THEN
                               'Write what may be there, as in (?:aa|bb) for (a|b)\1; '
                               'a character by its number is \x and hexadecimal digits.'
                           WHEN 'a constraint' THEN
                               'Leave it out: the whole completion must match the pattern.'
                           ELSE 'Write what may be there, as in [^b] for (?!b).'
                       END)), true)
            FROM (
                SELECT *
                FROM gpt2._pattern_lexemes(pattern) AS a
                WHERE a.kind IN ('a director', 'such options', 'a lookahead', 'a lookbehind',
                                 'a back reference', 'a constraint')
                  AND NOT (a.lexeme = '^' AND a.n = 1)
                  AND NOT (a.lexeme = '$' AND a.n = a.n_last)
                ORDER BY a.n
                LIMIT 1
            ) AS l
        )
    END;
END;
COMMENT ON FUNCTION gpt2._check_pattern IS
    'true, NULL for NULL, or an error where completions cannot be held to a pattern';


CREATE FUNCTION gpt2._prefix_pattern(pattern text)
RETURNS TABLE (whole text, prefix text, options text, atoms text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH RECURSIVE lexeme AS MATERIALIZED (
        SELECT row_number() OVER (ORDER BY i.n)::int AS n, i.kind, i.lexeme,
               -- as a part of a longer expression: no digit or letter after it belongs to it
               CASE WHEN i.lexeme ~ '^(?:\\[x0]|\{)' THEN '(?:' || i.lexeme || ')'
                    ELSE i.lexeme END AS atom,
               coalesce(i.least, 1) AS least,
               -- NULL: any number of times
               CASE WHEN i.quantifier IS NULL THEN 1 ELSE i.most END AS most,
               CASE WHEN i.quantifier IS NULL THEN ''
                    ELSE format('{%s,%s}', i.least, i.most) END AS quantifier,
               coalesce(i.following IN (')', '|'), true) AS is_last
        FROM (
            SELECT q.*, b.bound[1]::int AS least,
                   -- one number is both bounds, and none after a comma is no bound
                   CASE WHEN b.bound[2] IS NULL THEN b.bound[1] ELSE nullif(b.bound[3], '') END::int
                       AS most
            FROM (
                SELECT l.*,
                       CASE WHEN lead(l.kind) OVER f = 'a quantifier' THEN lead(l.lexeme) OVER f
                            END AS quantifier,
                       CASE WHEN lead(l.kind) OVER f = 'a quantifier' THEN lead(l.kind, 2) OVER f
                            ELSE lead(l.kind) OVER f END AS following
                FROM gpt2._pattern_lexemes(pattern) AS l
                -- the whole completion must match anyway
                WHERE l.kind <> 'a constraint' AND gpt2._check_pattern(pattern)
                WINDOW f AS (ORDER BY l.n)
            ) AS q
            CROSS JOIN LATERAL (
                SELECT regexp_match(
                    CASE left(q.quantifier, 1) WHEN '*' THEN '{0,}' WHEN '+' THEN '{1,}'
                         WHEN '?' THEN '{0,1}' ELSE q.quantifier END,
                    '^\{([0-9]+)(,([0-9]*))?\}') AS bound
                OFFSET 0
            ) AS b
            WHERE q.kind <> 'a quantifier'
        ) AS i
    ), level AS (
        -- For each open parenthesis: the expression so far, the one of its beginnings, and what
        -- closes the latter.
        SELECT 0 AS n, '{""}'::text[] AS full, '{""}'::text[] AS prefix, '{""}'::text[] AS close
    UNION ALL
        SELECT l.n,
               CASE l.kind
                   WHEN '(' THEN s.full || ''::text
                   WHEN '|' THEN s.full[:d.depth - 1] || (s.full[d.depth] || '|')
                   ELSE s.full[:i.depth - 1]
                        || (s.full[i.depth] || i.atom || l.quantifier)
               END,
               CASE l.kind
                   WHEN '(' THEN s.prefix || ''::text
                   WHEN '|' THEN s.prefix[:d.depth - 1]
                                 || (s.prefix[d.depth] || s.close[d.depth] || '|')
                   ELSE s.prefix[:i.depth - 1] || (s.prefix[i.depth] || p.open)
               END,
               CASE l.kind
                   WHEN '(' THEN s.close || ''::text
                   WHEN '|' THEN s.close[:d.depth - 1] || ''::text
                   ELSE s.close[:i.depth - 1] || (p.close || s.close[i.depth])
               END
        FROM level AS s
        JOIN lexeme AS l ON l.n = s.n + 1
        CROSS JOIN LATERAL (SELECT cardinality(s.full) AS depth OFFSET 0) AS d
        CROSS JOIN LATERAL (
            SELECT CASE l.kind WHEN ')' THEN d.depth - 1 ELSE d.depth END AS depth,
                   CASE l.kind WHEN ')' THEN '(?:' || s.full[d.depth] || ')'
                        ELSE l.atom END AS atom,
                   -- repeated any number of times but the last
                   CASE WHEN l.most IS NULL THEN '*' ELSE format('{0,%s}', l.most - 1) END AS again
            OFFSET 0
        ) AS i
        CROSS JOIN LATERAL (
            -- what this one opens, before the beginnings of what follows, and closes after them
            SELECT CASE
                       WHEN l.most = 0 THEN ''
                       WHEN l.kind = 'a character' THEN CASE
                           -- c{m,n} is one of its own beginnings: the empty ones are what follows'
                           WHEN l.least = 0 THEN '(?:' || i.atom || l.quantifier || ')'
                           WHEN l.least = 1 THEN '(?:' || i.atom || l.quantifier
                           ELSE format('(?:%s{0,%s}|%s%s', i.atom, l.least - 1, i.atom,
                                       l.quantifier)
                       END
                       ELSE CASE WHEN l.is_last THEN '' ELSE '(?:' END
                            || CASE WHEN l.most = 1 THEN '' ELSE i.atom || i.again END
                            || '(?:' || s.prefix[d.depth] || s.close[d.depth] || ')'
                            || CASE WHEN l.is_last THEN '' ELSE '|' || i.atom || l.quantifier END
                   END AS open,
                   CASE
                       WHEN l.most = 0 THEN ''
                       WHEN l.kind = 'a character' THEN CASE l.least WHEN 0 THEN '' WHEN 1 THEN ')?'
                                                        ELSE ')' END
                       WHEN l.is_last THEN ''
                       ELSE ')'
                   END AS close
            OFFSET 0
        ) AS p
    )
    SELECT gpt2._whole_pattern(pattern),
           o.options || '^(?:' || e.prefix[1] || e.close[1] || ')$',
           o.options,
           ARRAY(SELECT DISTINCT a.lexeme FROM lexeme AS a WHERE a.kind = 'a character')
    FROM (SELECT * FROM level ORDER BY n DESC LIMIT 1) AS e
    CROSS JOIN (SELECT coalesce(substring(pattern FROM '^\(\?[a-z]+\)'), '') AS options) AS o
    WHERE gpt2._check_pattern(pattern);
END;
COMMENT ON FUNCTION gpt2._prefix_pattern IS
    'regular expressions for the whole matches of a pattern and for their beginnings, and the '
    'pattern''s options and expressions for one character';


-- Characters that a pattern does not tell apart

CREATE FUNCTION gpt2._pattern_characters(options text, atoms text[])
RETURNS TABLE (code_points int[], examples text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH atom AS MATERIALIZED (
        SELECT a.n, options || '(?:' || a.atom || ')' COLLATE "default" AS atom,
               -- of one that matches just itself
               CASE WHEN a.atom ~ '^(?:[^.[\\]|\\[^[:alnum:]])$' AND options !~ 'i'
                    THEN ascii(right(a.atom, 1)) END AS code_point
        FROM unnest(atoms) WITH ORDINALITY AS u (atom, n)
        CROSS JOIN LATERAL (SELECT u.atom COLLATE "C" AS atom, u.n) AS a
    ), everything AS MATERIALIZED (
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
    ), point AS MATERIALIZED (
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
        -- expression by expression: the server keeps 32 of them compiled
        SELECT a.n, c.code_point
        FROM (SELECT * FROM atom WHERE atom.code_point IS NULL OFFSET 0) AS a
        CROSS JOIN LATERAL (
            SELECT p.code_point FROM point AS p WHERE chr(p.code_point) ~ a.atom
            OFFSET 0
        ) AS c
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
                ELSE convert_from(convert_to(b.match[1], 'LATIN1'), 'UTF8') END,
           CASE WHEN b.is_ascii THEN '' ELSE convert_to(b.match[2], 'LATIN1') END
    FROM (
        SELECT a.is_ascii,
               CASE WHEN NOT a.is_ascii AND position('\x00'::bytea IN bytes) = 0
                    THEN regexp_match(convert_from(bytes, 'LATIN1') COLLATE "C",
                        '^((?:' || gpt2._utf8_character() || ')*)'
                        '(|' || gpt2._utf8_part() || '|[\u00C2-\u00F4])$') END AS match
        -- this writes NUL, a byte above 127 and a backslash with more than one character
        FROM (SELECT length(encode(bytes, 'escape')) = length(bytes) AS is_ascii OFFSET 0) AS a
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
        OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        -- get_byte() raises an error beyond the end
        SELECT (b.lead & ((64 >> (b.n - 1)) - 1)) << (6 * (b.n - 1))
             | CASE WHEN length(tail) < 2 THEN 0
                    ELSE (get_byte(tail, 1) & 63) << (6 * (b.n - 2)) END
             | CASE WHEN length(tail) < 3 THEN 0
                    ELSE (get_byte(tail, 2) & 63) << (6 * (b.n - 3)) END AS "first"
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL (
        -- no overlong forms, no surrogates, nothing above U+10FFFF
        SELECT greatest(c."first", CASE b.n WHEN 3 THEN 2048 WHEN 4 THEN 65536 ELSE 128 END)
                   AS "first",
               least(c."first" + (1 << (6 * (b.n - length(tail)))) - 1,
                     CASE b.lead WHEN 237 THEN 55295 ELSE 1114111 END) AS "last"
        OFFSET 0
    ) AS r
    CROSS JOIN LATERAL unnest(
        examples[width_bucket(r."first", code_points):width_bucket(r."last", code_points)]
    ) AS u (example)
    WHERE u.example IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._tail_characters IS
    'representatives of the characters that begin with these 1 to 3 bytes';


-- Tokens

CREATE FUNCTION gpt2._pattern(pattern text, m gpt2.model)
RETURNS gpt2._pattern
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH pattern AS MATERIALIZED (
        SELECT e.*, c.code_points, c.examples,
               e.options || '^(?:' || array_to_string(e.atoms, '|') || ')*$' AS alphabet
        FROM (SELECT * FROM gpt2._prefix_pattern(pattern) OFFSET 0) AS e
        CROSS JOIN LATERAL gpt2._pattern_characters(e.options, e.atoms) AS c
    ), token AS MATERIALIZED (
        -- those that consist of the pattern's characters
        SELECT t.token, u.text, u.tail
        FROM pattern AS p
        CROSS JOIN (
            SELECT * FROM gpt2.token AS a WHERE a.tokenizer = (m).tokenizer AND a.mergeable
            OFFSET 0
        ) AS t
        CROSS JOIN LATERAL gpt2._cut(t.bytes) AS u
        WHERE t.token < (m).n_token AND t.token <> (m).eos_token
          AND u.text ~ (p.alphabet COLLATE "default")
    ), letter AS MATERIALIZED (
        -- the vocabulary's characters and what stands for them
        SELECT coalesce(string_agg(l.letter, '' ORDER BY l.rank, l.letter), '') AS letters,
               coalesce(string_agg(l.example, '' ORDER BY l.rank, l.letter), '') AS examples
        FROM (
            -- translate() tries them one by one: the frequent ones first make it three times faster
            SELECT l.letter, p.examples[width_bucket(ascii(l.letter), p.code_points)]
                       AS example,
                   nullif(position(l.letter IN ' etaoinsrlcdumpghbyfvwkxzq'), 0) AS rank
            FROM pattern AS p
            CROSS JOIN (
                SELECT chr(generate_series(1, 127))
                UNION
                SELECT regexp_split_to_table(string_agg(t.text, ''), '')
                FROM token AS t WHERE octet_length(t.text) > length(t.text)
            ) AS l (letter)
        ) AS l
        WHERE l.letter <> l.example
    ), kind AS (
        SELECT k.text, array_agg(k.token) FILTER (WHERE NOT k.is_cut) AS tokens,
               array_agg(k.token) FILTER (WHERE k.is_cut) AS cut
        FROM (
            SELECT t.token, false AS is_cut,
                   translate(t.text, l.letters, l.examples) COLLATE "C" AS text
            FROM token AS t CROSS JOIN letter AS l
            WHERE t.tail = ''
        UNION ALL
            SELECT t.token, true, translate(t.text, l.letters, l.examples) || c.example
            FROM token AS t CROSS JOIN letter AS l CROSS JOIN pattern AS p
            CROSS JOIN LATERAL
                gpt2._tail_characters(t.tail, p.code_points, p.examples) AS c
            WHERE t.tail <> ''
        ) AS k
        GROUP BY k.text
    )
    SELECT ROW(p.whole, p.prefix, p.code_points, p.examples,
               (SELECT array_agg(ROW(s."first", s.kinds)::gpt2._kinds_by_first)
                FROM (
                    SELECT left(k.text, 1), array_agg(ROW(k.text, k.tokens, k.cut)::gpt2._kind)
                    FROM kind AS k
                    GROUP BY 1
                ) AS s ("first", kinds)))::gpt2._pattern
    FROM pattern AS p;
END;
COMMENT ON FUNCTION gpt2._pattern IS
    'a pattern for completions, prepared for a model''s vocabulary; an error where it is none; '
    'NULL for NULL';


CREATE FUNCTION gpt2._pattern_tokens(bytes bytea, p gpt2._pattern, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH so_far AS MATERIALIZED (
        SELECT c.text, c.tail, (p).prefix
        FROM gpt2._cut(bytes) AS c
    ), kind AS MATERIALIZED (
        SELECT k.tokens, k.cut
        FROM so_far AS f
        CROSS JOIN unnest((p).starts) AS s
        CROSS JOIN unnest(s.kinds) AS k
        WHERE f.tail = '' AND f.text || s."first" ~ f.prefix
          AND (k.text = s."first" OR f.text || k.text ~ f.prefix)
    )
    SELECT array_agg(a.token)
    FROM (
        SELECT unnest(k.tokens) FROM kind AS k
        UNION ALL
        SELECT DISTINCT unnest(k.cut) FROM kind AS k
        UNION ALL
        -- an incomplete character goes on
        SELECT t.token
        FROM so_far AS f
        CROSS JOIN gpt2.token AS t
        CROSS JOIN LATERAL gpt2._cut(f.tail || t.bytes) AS u
        WHERE f.tail <> '' AND t.tokenizer = (m).tokenizer AND t.mergeable
          AND t.bytes >= '\x80' AND t.bytes < '\xC0'
          AND t.token < (m).n_token AND t.token <> (m).eos_token
          AND CASE WHEN u.tail = '' THEN f.text || u.text ~ f.prefix
                   ELSE EXISTS (
                       SELECT
                       FROM gpt2._tail_characters(u.tail, (p).code_points, (p).examples) AS c
                       WHERE f.text || u.text || c.example ~ f.prefix
                   ) END
    ) AS a (token);
END;
COMMENT ON FUNCTION gpt2._pattern_tokens IS
    'tokens after which a completion that begins with these bytes can still match; NULL for none';


CREATE FUNCTION gpt2._pattern_state(bytes bytea, p gpt2._pattern)
RETURNS TABLE (is_complete boolean, goes_on boolean)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT f.tail = '' AND f.text ~ (p).whole,
           EXISTS (
               SELECT
               FROM (
                   SELECT DISTINCT unnest((p).examples) WHERE f.tail = ''
                   UNION ALL
                   SELECT c.example
                   FROM gpt2._tail_characters(f.tail, (p).code_points, (p).examples) AS c
                   WHERE f.tail <> ''
               ) AS c (example)
               WHERE f.text || c.example ~ f.prefix
           )
    FROM (
        SELECT c.text, c.tail, (p).prefix
        FROM gpt2._cut(bytes) AS c
        OFFSET 0
    ) AS f;
END;
COMMENT ON FUNCTION gpt2._pattern_state IS
    'whether a completion of these bytes matches, and whether a match is possible after more';
