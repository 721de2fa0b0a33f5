-- The beginnings of what a regular expression matches.
--
-- PostgreSQL's regular expressions cannot say so, but for an expression R there is another one,
-- Pre(R), that matches exactly the beginnings of R's matches. c is one character, A and B are any
-- expressions:
--     Pre(c) = c?           Pre(A|B) = Pre(A)|Pre(B)      Pre(AB) = Pre(A)|A Pre(B)
--     Pre(A{m,n}) = A{0,n-1}Pre(A), and A*, A+ and A? are A{0,}, A{1,} and A{0,1}
-- It is at most twice as long for each level of parentheses.


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
    WITH RECURSIVE lexeme AS (
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
        CROSS JOIN LATERAL (SELECT cardinality(s.full) AS depth) AS d
        CROSS JOIN LATERAL (
            SELECT CASE l.kind WHEN ')' THEN d.depth - 1 ELSE d.depth END AS depth,
                   CASE l.kind WHEN ')' THEN '(?:' || s.full[d.depth] || ')'
                        ELSE l.atom END AS atom,
                   -- repeated any number of times but the last
                   CASE WHEN l.most IS NULL THEN '*' ELSE format('{0,%s}', l.most - 1) END AS again
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
