-- Tokens that were added to a vocabulary, as <|endoftext|> was: they are found in a text before it
-- is split into words, and no merge makes or crosses one. A special one is text like any other
-- unless it is asked for.
-- Source: AddedVocabulary of the tokenizers library, with encode_special_tokens.


CREATE FUNCTION gpt2._segments(
    text text, tokenizer int, n_token int, special_tokens boolean
) RETURNS TABLE (segment int, text text, added int)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    WITH added AS (
        SELECT t.token, t.special, convert_from(t.bytes, 'UTF8') COLLATE "C" AS text
        FROM gpt2.token AS t
        WHERE t.tokenizer = _segments.tokenizer AND t.special IS NOT NULL
          AND t.token < _segments.n_token
          -- NUL is in no text
          AND position('\x00'::bytea IN t.bytes) = 0
    ), pattern AS (
        -- of several that begin at one place the longest
        SELECT string_agg(regexp_replace(a.text, '[][\\.*+?(){}|^$#-]', '\\\&', 'g'), '|')
                   COLLATE "C" AS pattern
        FROM added AS a
    ), part AS (
        -- what lies before the n-th match, and what the match is
        SELECT r.n, r.text, m.match[1] AS match, a.token
        FROM pattern AS p
        CROSS JOIN LATERAL regexp_split_to_table(
            _segments.text COLLATE "C", p.pattern) WITH ORDINALITY AS r (text, n)
        LEFT JOIN LATERAL regexp_matches(
            _segments.text COLLATE "C", p.pattern, 'g') WITH ORDINALITY AS m (match, n)
            ON m.n = r.n
        LEFT JOIN added AS a
            ON a.text = m.match[1] AND (special_tokens OR NOT a.special)
    )
    -- a match that is not asked for is text: it joins what lies before and behind it
    SELECT s.segment::int,
           string_agg(s.text || CASE WHEN s.token IS NULL THEN coalesce(s.match, '') ELSE '' END,
                      '' ORDER BY s.n),
           max(s.token)
    FROM (
        SELECT p.*, count(p.token) OVER (ORDER BY p.n) - (p.token IS NOT NULL)::int AS segment
        FROM part AS p
    ) AS s
    GROUP BY s.segment;
END;
COMMENT ON FUNCTION gpt2._segments IS
    'a text in segments, each with the added token at its end; NULL for none';
