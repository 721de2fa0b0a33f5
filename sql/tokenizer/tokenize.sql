-- Text to tokens: split into words, encode each distinct word once, put them back in order.
-- Source: encode() in openai/gpt-2, src/encoder.py.


CREATE FUNCTION gpt2._tokenize_words(text text, tokenizer int, n_token int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
-- the words of 1 MB stay in memory: 4 MB is the default
SET work_mem = '64MB'
BEGIN ATOMIC
    WITH word AS MATERIALIZED (
        SELECT w.n, w.match[1] AS word
        FROM regexp_matches(_tokenize_words.text COLLATE "C", gpt2._split_pattern(), 'g')
            WITH ORDINALITY AS w (match, n)
    ), whole AS MATERIALIZED (
        -- distinct words, with the token of those that are one
        SELECT w.bytes, t.token
        FROM (SELECT convert_to(d.word, 'UTF8')
              FROM (SELECT DISTINCT word.word FROM word) AS d) AS w (bytes)
        LEFT JOIN gpt2.token AS t
            ON t.tokenizer = _tokenize_words.tokenizer AND t.bytes = w.bytes AND t.mergeable
           AND t.token < _tokenize_words.n_token
    ), encoded (bytes, symbols) AS (
        SELECT bytes, gpt2._symbol(token) FROM whole WHERE token IS NOT NULL
        UNION ALL
        -- the others, merged to the end
        SELECT b.word, b.symbols
        FROM (SELECT array_agg(bytes) FROM whole WHERE token IS NULL AND length(bytes) <= 200
              HAVING count(*) > 0) AS o (words)
        CROSS JOIN LATERAL
            gpt2._encode(o.words, _tokenize_words.tokenizer, _tokenize_words.n_token) AS b
        UNION ALL
        SELECT b.word, b.symbols
        FROM (SELECT array_agg(bytes) FROM whole WHERE token IS NULL AND length(bytes) > 200
              HAVING count(*) > 0) AS o (words)
        CROSS JOIN LATERAL
            gpt2._encode_long(o.words, _tokenize_words.tokenizer, _tokenize_words.n_token) AS b
    )
    SELECT CASE
        WHEN _tokenize_words.text IS NOT NULL THEN gpt2._symbols_to_tokens((
            SELECT string_agg(e.symbols, '' ORDER BY w.n)
            -- Each word is encoded and the other way round. FULL says so to the planner, which
            -- expects ten words and would loop over a million: it cannot do a FULL JOIN so.
            FROM word AS w
            FULL JOIN encoded AS e ON convert_from(e.bytes, 'UTF8') = w.word))
    END;
END;
COMMENT ON FUNCTION gpt2._tokenize_words IS
    'token ids of a text, of those below n_token of a vocabulary, without added tokens';


CREATE FUNCTION gpt2._tokenize_segments(
    text text, tokenizer int, n_token int, special_tokens boolean
) RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN ARRAY(
    SELECT t.token
    FROM gpt2._segments(text, tokenizer, n_token, special_tokens) AS s
    CROSS JOIN LATERAL unnest(
        gpt2._tokenize_words(s.text, tokenizer, n_token) || s.added) WITH ORDINALITY
        AS t (token, n)
    WHERE t.token IS NOT NULL
    ORDER BY s.segment, t.n);
COMMENT ON FUNCTION gpt2._tokenize_segments IS
    'token ids of a text, of those below n_token of a vocabulary, with added tokens';


CREATE FUNCTION gpt2._tokenize(
    text text, tokenizer int, n_token int, special_tokens boolean DEFAULT false
) RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
-- Most vocabularies have no added token but special ones, and a function that is not called is not
-- planned.
RETURN CASE
    WHEN text IS NOT NULL AND EXISTS (
        SELECT FROM gpt2.token AS t
        WHERE t.tokenizer = _tokenize.tokenizer AND t.special IS NOT NULL
          AND (special_tokens OR NOT t.special) AND t.token < _tokenize.n_token)
    THEN gpt2._tokenize_segments(text, tokenizer, n_token, coalesce(special_tokens, false))
    ELSE gpt2._tokenize_words(text, tokenizer, n_token) END;
COMMENT ON FUNCTION gpt2._tokenize IS 'token ids of a text, of those below n_token of a vocabulary';


CREATE FUNCTION gpt2_tokenize(
    text text, model text DEFAULT NULL, special_tokens boolean DEFAULT false
) RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._tokenize(gpt2_tokenize.text, v.tokenizer, v.n_token, special_tokens)
    FROM gpt2._chosen_vocabulary(gpt2_tokenize.model) AS v;
END;
COMMENT ON FUNCTION gpt2_tokenize IS 'token ids of a text, exactly GPT-2''s; NULL for NULL';


CREATE FUNCTION gpt2_tokens(
    text text, model text DEFAULT NULL, special_tokens boolean DEFAULT false
) RETURNS TABLE ("position" int, token int, piece text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    SELECT t.n::int - 1, t.token, gpt2._utf8(b.bytes)
    FROM gpt2._chosen_vocabulary(gpt2_tokens.model) AS v
    CROSS JOIN LATERAL unnest(
        gpt2._tokenize(gpt2_tokens.text, v.tokenizer, v.n_token, special_tokens))
        WITH ORDINALITY AS t (token, n)
    LEFT JOIN gpt2.token AS b ON b.tokenizer = v.tokenizer AND b.token = t.token
    ORDER BY t.n;
END;
COMMENT ON FUNCTION gpt2_tokens IS
    'tokens of a text, a row each: position from 0, id, and the text it stands for';


CREATE FUNCTION gpt2_bpe(word text, model text DEFAULT NULL)
RETURNS TABLE (step int, token int, merged text, pieces text[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
BEGIN ATOMIC
    SELECT b.step, t.token, gpt2._utf8(t.bytes), p.pieces
    FROM gpt2._chosen_vocabulary(gpt2_bpe.model) AS v
    CROSS JOIN LATERAL gpt2._bpe(ARRAY[convert_to(word, 'UTF8')], v.tokenizer, v.n_token) AS b
    JOIN gpt2.token AS t
        ON t.tokenizer = v.tokenizer AND t.token = ascii(substr(b.rule, 4)) - 65536
    CROSS JOIN LATERAL (
        SELECT array_agg(gpt2._utf8(x.bytes) ORDER BY s.n)
        FROM unnest(gpt2._symbols_to_tokens(b.symbols)) WITH ORDINALITY AS s (token, n)
        JOIN gpt2.token AS x ON x.tokenizer = v.tokenizer AND x.token = s.token
    ) AS p (pieces)
    ORDER BY b.step;
END;
COMMENT ON FUNCTION gpt2_bpe IS
    'byte-pair encoding of one word, a row a merge: the token made, and the pieces after it';
