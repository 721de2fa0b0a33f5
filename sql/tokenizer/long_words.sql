-- Byte-pair encoding of long words. Every step of it goes over the whole word, and a long word has
-- many: its time grows with the square of its length. So it is cut into pieces that overlap by
-- half, each piece is merged by itself, and they are put together where neighbours have a token in
-- common, at the same place:
--
--     one piece       |ab|cde|f|gh|
--     the next one            |f|ghi|jk|       f is common
--     together        |ab|cde|f|ghi|jk|
--
-- This is exact. Let y be what they have in common, x what is before it and z what comes after: xy
-- is merged to the tokens X Y, yz to Y Z, and xyz is to be merged to X Y Z. A step merges, of all
-- pairs, the one of lowest rank, the leftmost of several. In xyz a pair lies in xy or in yz, as y
-- is a token at least. If the lowest lies in xy, then it is the lowest there too, so it is the next
-- step of xy by itself; hence it does not cross from x to y, as no token of X Y does. The same goes
-- for yz. So xyz takes the steps of xy and of yz, in y those of both, and no other, to the end.
-- For the same reason what is cut off at the edge of a token leaves the other tokens as they are.
-- All this is true of any list of merges.
--
-- Merging all pairs at once whose neighbours have higher ranks would not do: of A B C D with the
-- merges AB, AB C, C D, B C, in this order, it makes AB CD, and one after the other ABC D.
--
-- Where neighbours have nothing in common, as in a run of one letter that begins within a token,
-- pieces of four times the length are made: each of seven of these where they agree, else from the
-- bytes. At last a piece is the word.
--
-- While it is put together, a word has a character for each byte: the symbol of a token for its
-- last byte, and a dot for those before it.


CREATE FUNCTION gpt2._word_pieces(words bytea[], size int)
RETURNS TABLE (n bigint, i int, piece bytea)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT w.n, p.i, substring(w.word FROM p.i * size + 1 FOR 2 * size)
    FROM unnest(words) WITH ORDINALITY AS w (word, n)
    CROSS JOIN LATERAL
        generate_series(0, greatest((length(w.word) - 1) / size - 1, 0)) AS p (i)
    -- cut here, or what sorts the pieces would carry the whole word with each of them
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._word_pieces IS
    'the pieces of each word: 2 * size bytes, or what is left, at every multiple of size; word and '
    'piece are numbered';


CREATE FUNCTION gpt2._join_pieces(words bytea[], size int, pieces bytea[], symbols text[])
RETURNS TABLE (word bytea, joined text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET jit = off
SET work_mem = '64MB'
-- the planner expects ten pieces
SET enable_nestloop = off
BEGIN ATOMIC
    WITH piece AS (
        -- a token that was also added is longer where its bytes are not ASCII: not at its place
        SELECT p.n, p.i, e.symbols, length(e.symbols) = length(p.piece) AS fits,
               lead(e.symbols) OVER word AS next,
               lead(length(e.symbols) = length(p.piece)) OVER word AS next_fits,
               lead(p.i) OVER word IS NULL AS is_last
        FROM gpt2._word_pieces(words, size) AS p
        LEFT JOIN unnest(pieces, symbols) AS e (piece, symbols) ON e.piece = p.piece
        WINDOW word AS (PARTITION BY p.n ORDER BY p.i)
    ), meeting AS (
        -- the last byte of the last token that a piece has in common with the next
        SELECT p.*, CASE WHEN p.fits AND p.next_fits THEN (
            SELECT max(b.n)::int
            FROM unnest(string_to_array(substr(p.symbols, size + 1), NULL),
                        string_to_array(left(p.next, size), NULL))
                WITH ORDINALITY AS b (here, there, n)
            WHERE b.here = b.there AND b.here <> '.') END AS met
        FROM piece AS p
    ), part AS (
        SELECT m.*, coalesce(lag(m.met) OVER (PARTITION BY m.n ORDER BY m.i), 0) AS begun
        FROM meeting AS m
    ), whole AS (
        SELECT p.n, string_agg(substr(p.symbols, p.begun + 1,
                                      coalesce(size + p.met, length(p.symbols)) - p.begun),
                               '' ORDER BY p.i) AS joined
        FROM part AS p
        GROUP BY p.n
        HAVING bool_and(p.met IS NOT NULL OR p.is_last)
    )
    SELECT w.word, whole.joined
    FROM unnest(words) WITH ORDINALITY AS w (word, n)
    LEFT JOIN whole ON whole.n = w.n;
END;
COMMENT ON FUNCTION gpt2._join_pieces IS
    'words put together of their pieces, whose encodings are given; NULL where neighbours have no '
    'token in common';


CREATE FUNCTION gpt2._encode_pieces(pieces bytea[], tokenizer int, n_token int)
RETURNS TABLE (piece bytea, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    SELECT e.word, s.symbols
    FROM (
        -- 64 kB at a time, since every step of every piece of a call is kept
        SELECT array_agg(p.piece)
        FROM (SELECT u.piece, sum(length(u.piece)) OVER (ORDER BY u.n) / 65536 AS batch
              FROM unnest(pieces) WITH ORDINALITY AS u (piece, n)) AS p
        GROUP BY p.batch
    ) AS b (pieces)
    CROSS JOIN LATERAL gpt2._encode(b.pieces, _encode_pieces.tokenizer, _encode_pieces.n_token)
        AS e
    CROSS JOIN LATERAL (
        SELECT string_agg(lpad(u.symbol, (
                   SELECT length(t.bytes) FROM gpt2.token AS t
                   WHERE t.tokenizer = _encode_pieces.tokenizer
                     AND t.token = ascii(u.symbol) - 65536), '.'), '')
        FROM string_to_table(e.symbols, NULL) AS u (symbol)
    ) AS s (symbols);
END;
COMMENT ON FUNCTION gpt2._encode_pieces IS
    'pieces, merged to the end, with a character for each byte';


CREATE FUNCTION gpt2._longer_pieces(
    words bytea[], size int, pieces bytea[], symbols text[], tokenizer int, n_token int
) RETURNS TABLE (piece bytea, encoded text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    WITH joined AS MATERIALIZED (
        SELECT j.word, j.joined
        FROM (SELECT array_agg(DISTINCT p.piece)
              FROM gpt2._word_pieces(words, 4 * size) AS p) AS longer (pieces)
        CROSS JOIN LATERAL gpt2._join_pieces(longer.pieces, size, pieces, symbols) AS j
    )
    SELECT j.word, j.joined FROM joined AS j WHERE j.joined IS NOT NULL
    UNION ALL
    SELECT e.piece, e.symbols
    FROM (SELECT array_agg(j.word) FROM joined AS j WHERE j.joined IS NULL) AS apart (pieces)
    CROSS JOIN LATERAL gpt2._encode_pieces(
        apart.pieces, _longer_pieces.tokenizer, _longer_pieces.n_token) AS e;
END;
COMMENT ON FUNCTION gpt2._longer_pieces IS
    'pieces of four times the length, put together of those that are given, or merged anew';


CREATE FUNCTION gpt2._encode_long(words bytea[], tokenizer int, n_token int)
RETURNS TABLE (word bytea, symbols text)
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    WITH RECURSIVE level AS (
        -- none yet, so that the first are made of the bytes
        SELECT 4 AS size, words, NULL::text[] AS joined,
               NULL::bytea[] AS pieces, NULL::text[] AS symbols
    UNION ALL
        SELECT 4 * l.size, whole.words, whole.joined, longer.pieces, longer.symbols
        FROM level AS l
        CROSS JOIN LATERAL (
            SELECT array_agg(w.word)
            FROM unnest(l.words, l.joined) AS w (word, joined)
            WHERE w.joined IS NULL
            HAVING count(*) > 0
        ) AS rest (words)
        CROSS JOIN LATERAL (
            SELECT array_agg(p.piece), array_agg(p.encoded)
            FROM gpt2._longer_pieces(rest.words, l.size, l.pieces, l.symbols,
                                     _encode_long.tokenizer, _encode_long.n_token) AS p
        ) AS longer (pieces, symbols)
        CROSS JOIN LATERAL (
            SELECT array_agg(j.word), array_agg(j.joined)
            FROM gpt2._join_pieces(rest.words, 4 * l.size, longer.pieces, longer.symbols) AS j
        ) AS whole (words, joined)
    )
    SELECT w.word, replace(w.joined, '.', '')
    FROM level AS l
    CROSS JOIN LATERAL unnest(l.words, l.joined) AS w (word, joined)
    WHERE w.joined IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._encode_long IS 'long words, merged to the end';
