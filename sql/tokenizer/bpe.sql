-- Byte-pair encoding: a word begins as its bytes' tokens; at each step the adjacent pair with the
-- lowest rank is merged, the leftmost of several, until no pair is left that has a rank.
-- Source: Sennrich, Haddow, Birch 2016 (arXiv:1508.07909); bpe() in openai/gpt-2, src/encoder.py;
-- Word::merge_all in the tokenizers library.
--
-- A merge of training comes after those that made its two tokens. So what a step makes waits for
-- the steps of higher rank, and the pair can be merged wherever it occurs, in one step. Where the
-- merges are in another order (in_order in gpt2.tokenizer) it is merged once a step.
--
-- While it is being merged, a word is a string in which a token is the character
-- chr(65536 + token). So "merge this pair wherever it occurs, from the left, without overlap"
-- is replace(), in one pass.


CREATE FUNCTION gpt2._symbol(token int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 65536 is past the surrogates, which are not characters
RETURN chr(65536 + token);
COMMENT ON FUNCTION gpt2._symbol IS 'the character that stands for a token in a word';


CREATE FUNCTION gpt2._symbols_to_tokens(symbols text)
RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT ascii(symbol) - 65536 FROM string_to_table(symbols, NULL) AS symbol);
COMMENT ON FUNCTION gpt2._symbols_to_tokens IS 'the tokens that characters stand for';


CREATE FUNCTION gpt2._rule(merge gpt2.merge)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._symbol(merge.rank) || gpt2._symbol(merge."left") || gpt2._symbol(merge."right")
    || gpt2._symbol(merge.token);
COMMENT ON FUNCTION gpt2._rule IS
    'a merge as four characters: its rank, the pair, and the token the pair becomes';


CREATE FUNCTION gpt2._byte_tokens(tokenizer int, n_token int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
-- scalar subqueries, as a join may hash the whole vocabulary
RETURN ARRAY(
    SELECT (SELECT t.token FROM gpt2.token AS t
            WHERE t.tokenizer = _byte_tokens.tokenizer AND t.mergeable
              AND t.bytes = set_byte('\x00', 0, value) AND t.token < _byte_tokens.n_token)
    FROM generate_series(0, 255) AS value);
COMMENT ON FUNCTION gpt2._byte_tokens IS
    'the tokens of the 256 bytes, NULL where the vocabulary lacks one';


CREATE FUNCTION gpt2._bpe(words bytea[], tokenizer int, n_token int)
RETURNS TABLE (word bytea, step int, rule text, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH RECURSIVE rules AS MATERIALIZED (
        -- For many words every rule, to be hashed: a step of a word takes 3 us, and 9 us with a
        -- look-up in the index for each pair. For a few words none, since 50,000 take 25 ms.
        -- unnest and the condition outside it keep the planner's estimate at 3 rules, fewer than
        -- the pairs of a word, so that it hashes them, once, and not the pairs at every step.
        SELECT r.rule
        FROM unnest(ARRAY(
            SELECT gpt2._rule(m) FROM gpt2.merge AS m
            WHERE m.tokenizer = _bpe.tokenizer AND pg_column_size(_bpe.words) > 20000
        )) AS r (rule)
        WHERE substr(r.rule, 4) < gpt2._symbol(_bpe.n_token) COLLATE "C"
    ), one_byte AS MATERIALIZED (
        -- read once
        SELECT gpt2._byte_tokens(_bpe.tokenizer, _bpe.n_token) AS tokens, t.in_order
        FROM gpt2.tokenizer AS t
        WHERE t.tokenizer = _bpe.tokenizer
    ), bpe AS (
        SELECT w.word, 0 AS step, '' COLLATE "C" AS rule, b.symbols
        FROM unnest(words) AS w (word)
        CROSS JOIN LATERAL (
            SELECT string_agg(gpt2._symbol(byte.token), '') COLLATE "C"
            FROM (SELECT (SELECT o.tokens FROM one_byte AS o)[
                             get_byte(w.word, generate_series(0, length(w.word) - 1)) + 1])
                AS byte (token)
            HAVING gpt2._assert(count(*) = count(byte.token), 'invalid_parameter_value',
                'the text has bytes that the vocabulary lacks',
                format('The bytes are in %s.', w.word))
        ) AS b (symbols)
    UNION ALL
        SELECT bpe.word, bpe.step + 1, best.rule,
               coalesce(CASE
                   WHEN (SELECT o.in_order FROM one_byte AS o)
                   THEN replace(bpe.symbols, substr(best.rule, 2, 2), substr(best.rule, 4))
                   ELSE overlay(bpe.symbols PLACING substr(best.rule, 4)
                                FROM position(substr(best.rule, 2, 2) IN bpe.symbols) FOR 2)
                   END, bpe.symbols)
        FROM bpe
        CROSS JOIN LATERAL (
            SELECT min(CASE
                WHEN pg_column_size(_bpe.words) > 20000 THEN rules.rule
                ELSE (SELECT gpt2._rule(m) FROM gpt2.merge AS m
                      WHERE m.tokenizer = _bpe.tokenizer AND m.token < _bpe.n_token
                        AND m."left" = ascii(pair.symbols) - 65536
                        AND m."right" = ascii(substr(pair.symbols, 2)) - 65536)
                END COLLATE "C")
            FROM (SELECT unnest(string_to_array(left(bpe.symbols, -1), NULL))
                         || unnest(string_to_array(substr(bpe.symbols, 2), NULL))) AS pair (symbols)
            LEFT JOIN rules ON substr(rules.rule, 2, 2) = pair.symbols
        ) AS best (rule)
        WHERE bpe.rule IS NOT NULL
    )
    SELECT bpe.word, bpe.step, bpe.rule, bpe.symbols FROM bpe;
END;
COMMENT ON FUNCTION gpt2._bpe IS
    'every step of the byte-pair encoding of every word: the rule applied, and the word after it; '
    'the rule of the last is NULL';


CREATE FUNCTION gpt2._encode(words bytea[], tokenizer int, n_token int)
RETURNS TABLE (word bytea, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
-- A function that sets anything is not inlined: a text whose words are all tokens is spared the
-- planning of this, 0.4 of 1.6 ms.
SET jit = off
-- The rules, 3 MB of GPT-2's, must be hashed in memory, or each step of a word hashes them again.
SET work_mem = '64MB'
BEGIN ATOMIC
    SELECT b.word, b.symbols
    FROM gpt2._bpe(_encode.words, _encode.tokenizer, _encode.n_token) AS b
    WHERE b.rule IS NULL;
END;
COMMENT ON FUNCTION gpt2._encode IS 'words, merged to the end';


CREATE FUNCTION gpt2._finish_tokenizer(tokenizer int)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- PostgreSQL 18 plans the queries below for this tokenizer. Where it has never counted its rows
    -- it expects one, and compares each with all others: hours for a vocabulary of GPT-2's size.
    ANALYZE gpt2.token, gpt2.merge;

    -- First the bytes, without which nothing can be merged, then what merges to itself.
    UPDATE gpt2.token AS t SET mergeable = true
    WHERE t.tokenizer = _finish_tokenizer.tokenizer AND length(t.bytes) = 1;

    UPDATE gpt2.tokenizer AS t
    SET in_order = NOT EXISTS (
        SELECT
        FROM gpt2.merge AS m
        JOIN (SELECT u.rank, unnest(ARRAY[u."left", u."right"]) AS token
              FROM gpt2.merge AS u
              WHERE u.tokenizer = _finish_tokenizer.tokenizer) AS used ON used.token = m.token
        WHERE m.tokenizer = _finish_tokenizer.tokenizer AND used.rank <= m.rank)
    WHERE t.tokenizer = _finish_tokenizer.tokenizer;

    WITH whole AS (
        SELECT b.word, ascii(b.symbols) - 65536 AS token
        FROM gpt2._encode(
            (SELECT array_agg(t.bytes) FROM gpt2.token AS t
             WHERE t.tokenizer = _finish_tokenizer.tokenizer AND length(t.bytes) > 1),
            _finish_tokenizer.tokenizer, 1000000) AS b
        WHERE length(b.symbols) = 1
    )
    UPDATE gpt2.token AS t SET mergeable = true
    FROM whole AS w
    WHERE t.tokenizer = _finish_tokenizer.tokenizer AND t.token = w.token AND t.bytes = w.word;
END;
$$;
COMMENT ON FUNCTION gpt2._finish_tokenizer IS
    'ends the import of a vocabulary: marks the tokens that byte-pair encoding arrives at';
