-- Byte-pair encoding: a word begins as its bytes' tokens; at each step the adjacent pair with the
-- lowest rank is merged wherever it occurs, until no pair is left that has a rank.
-- Source: Sennrich, Haddow, Birch 2016 (arXiv:1508.07909); bpe() in openai/gpt-2, src/encoder.py.
--
-- While it is being merged, a word is a string in which a token is the character
-- chr(65536 + token). So "merge this pair wherever it occurs, from the left, without overlap"
-- is replace(), in one pass.


CREATE FUNCTION gpt2._symbol(token int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 65536 is past the surrogates, which are not characters
RETURN chr(65536 + token);
COMMENT ON FUNCTION gpt2._symbol(int) IS 'the character that stands for a token in a word';


CREATE FUNCTION gpt2._symbols_to_tokens(symbols text)
RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT ascii(symbol) - 65536 FROM string_to_table(symbols, NULL) AS symbol);
COMMENT ON FUNCTION gpt2._symbols_to_tokens(text) IS 'the tokens of a word';


CREATE FUNCTION gpt2._bpe(words bytea[], tokenizer int, n_token int)
RETURNS TABLE (word bytea, step int, token int, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH RECURSIVE bpe AS (
        SELECT w.word, 0 AS step, NULL::int AS token, b.symbols
        FROM unnest(words) AS w (word)
        CROSS JOIN LATERAL (
            SELECT string_agg(gpt2._symbol(byte.token), '' ORDER BY byte.i)
            FROM (
                -- a scalar subquery, since a join here may hash the whole vocabulary
                SELECT i, (SELECT t.token FROM gpt2.token AS t
                           WHERE t.tokenizer = _bpe.tokenizer AND t.mergeable
                             AND t.bytes = substring(w.word FROM i FOR 1)
                             AND t.token < _bpe.n_token)
                FROM generate_series(1, length(w.word)) AS i
            ) AS byte (i, token)
            HAVING gpt2._assert(count(*) = count(byte.token), 'invalid_parameter_value',
                'the text has bytes that the vocabulary lacks',
                format('The bytes are in %s.', w.word))
        ) AS b (symbols)
    UNION ALL
        SELECT bpe.word, bpe.step + 1, best.token,
               replace(bpe.symbols, gpt2._symbol(best."left") || gpt2._symbol(best."right"),
                       gpt2._symbol(best.token))
        FROM bpe
        CROSS JOIN LATERAL (
            SELECT m."left", m."right", m.token
            FROM unnest(string_to_array(left(bpe.symbols, -1), NULL),
                        string_to_array(substr(bpe.symbols, 2), NULL)) AS pair ("left", "right")
            JOIN gpt2.merge AS m
                ON m.tokenizer = _bpe.tokenizer
               AND m."left" = ascii(pair."left") - 65536
               AND m."right" = ascii(pair."right") - 65536
            WHERE m.token < _bpe.n_token
            ORDER BY m.rank
            LIMIT 1
        ) AS best
    )
    SELECT bpe.word, bpe.step, bpe.token, bpe.symbols FROM bpe;
END;
COMMENT ON FUNCTION gpt2._bpe(bytea[], int, int) IS
    'every step of the byte-pair encoding of every word: the token merged, and the word after it';


CREATE FUNCTION gpt2._finish_tokenizer(tokenizer int)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    -- First the bytes, without which nothing can be merged, then what merges to itself.
    UPDATE gpt2.token AS t SET mergeable = true
    WHERE t.tokenizer = _finish_tokenizer.tokenizer AND length(t.bytes) = 1;

    WITH whole AS (
        SELECT b.word, max(b.token) AS token
        FROM gpt2._bpe(
            (SELECT array_agg(t.bytes) FROM gpt2.token AS t
             WHERE t.tokenizer = _finish_tokenizer.tokenizer AND length(t.bytes) > 1),
            _finish_tokenizer.tokenizer, 1000000) AS b
        WHERE length(b.symbols) = 1
        GROUP BY b.word
    )
    UPDATE gpt2.token AS t SET mergeable = true
    FROM whole AS w
    WHERE t.tokenizer = _finish_tokenizer.tokenizer AND t.token = w.token AND t.bytes = w.word;
END;
COMMENT ON FUNCTION gpt2._finish_tokenizer(int) IS
    'ends the import of a vocabulary: marks the tokens that byte-pair encoding arrives at';
