-- Completions that match a regular expression: which tokens may come next.
--
-- A token may come if, after it, the text so far is the beginning of a match. Tokens made of
-- characters that the expression does not tell apart are interchangeable: gpt2._pattern() finds one
-- text for each kind of token, once; a step tries these, not each token.


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


CREATE FUNCTION gpt2._pattern(pattern text, m gpt2.model)
RETURNS gpt2._pattern
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH pattern AS (
        SELECT e.*, c.code_points, c.examples,
               e.options || '^(?:' || array_to_string(e.atoms, '|') || ')*$' AS alphabet
        FROM gpt2._prefix_pattern(pattern) AS e
        CROSS JOIN LATERAL gpt2._pattern_characters(e.options, e.atoms) AS c
    ), token AS (
        -- those that consist of the pattern's characters
        SELECT t.token, u.text, u.tail
        FROM pattern AS p
        CROSS JOIN (
            SELECT * FROM gpt2.token AS a WHERE a.tokenizer = (m).tokenizer AND a.mergeable
            OFFSET 0
        ) AS t
        CROSS JOIN LATERAL gpt2._cut(t.bytes) AS u
        WHERE t.token < (m).n_token AND t.token <> ALL ((m).eos_tokens)
          AND u.text ~ (p.alphabet COLLATE "default")
    ), letter AS (
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
    WITH so_far AS (
        SELECT c.text, c.tail, (p).prefix
        FROM gpt2._cut(bytes) AS c
    ), kind AS (
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
          AND t.token < (m).n_token AND t.token <> ALL ((m).eos_tokens)
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
               WHERE f.text || c.example ~ (p).prefix
           )
    FROM gpt2._cut(bytes) AS f;
END;
COMMENT ON FUNCTION gpt2._pattern_state IS
    'whether a completion of these bytes matches, and whether a match is possible after more';
