-- The pictures for a terminal: tables with bars of block characters, which psql aligns.


CREATE FUNCTION gpt2._terminal_label(piece text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Only what terminals agree on: letters that stand for themselves, one column wide, and East Asian
-- characters, two wide. Marks that combine, emoji and right-to-left scripts are U+FFFD.
RETURN regexp_replace(gpt2._label(piece, 24) COLLATE "C",
    '[^\u0020-\u02FF\u0370-\u0482\u048A-\u058F\u1E00-\u1FFF\u2010-\u2027\u2030-\u205E\u20A0-\u20BF'
    '\u2100-\u22FF\u2400-\u2423\u2500-\u259F\u21E5\u3000-\u3029\u3030-\u303E\u3041-\u3096'
    '\u309B-\u30FF\u3400-\u4DBF\u4E00-\u9FFF\uAC00-\uD7A3\uFF01-\uFF60]', chr(65533), 'g');
COMMENT ON FUNCTION gpt2._terminal_label IS
    'a piece of text made visible, in characters whose width terminals agree on';


CREATE FUNCTION gpt2_attention_text(
    text text, block int, head int, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS TABLE ("position" int, piece text, attention text, most text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
SET jit = off
BEGIN ATOMIC
    WITH weight AS (
        SELECT a.*
        FROM gpt2_attention(gpt2_attention_text.text, gpt2_attention_text.block,
                            gpt2_attention_text.head, gpt2_attention_text.model, input_ids,
                            special_tokens) AS a
    ), cell AS (
        -- A character a key, its height by the root of the weight, as the pictures' colours; of a
        -- long prompt several keys share one: the largest.
        SELECT w.query_position, w.query_piece, w.key_position / s.size AS key,
               max(w.weight) AS weight
        FROM weight AS w
        CROSS JOIN (SELECT (max(w.key_position) + 64) / 64 AS size FROM weight AS w) AS s
        GROUP BY w.query_position, w.query_piece, w.key_position / s.size
    ), bar AS (
        SELECT c.query_position, c.query_piece,
               string_agg(
                   CASE WHEN c.weight < 0.01 THEN '·'
                        ELSE substr('▁▂▃▄▅▆▇█', ceil(8 * sqrt(least(c.weight, 1)))::int, 1) END,
                   '' ORDER BY c.key) AS bars
        FROM cell AS c
        GROUP BY c.query_position, c.query_piece
    ), most AS (
        SELECT DISTINCT ON (w.query_position) w.query_position, w.key_piece, w.weight
        FROM weight AS w
        ORDER BY w.query_position, w.weight DESC, w.key_position
    )
    SELECT b.query_position, gpt2._terminal_label(b.query_piece), b.bars,
           lpad(round(100 * m.weight)::int::text, 3) || '% ' || gpt2._terminal_label(m.key_piece)
    FROM bar AS b
    JOIN most AS m ON m.query_position = b.query_position
    ORDER BY b.query_position;
END;
COMMENT ON FUNCTION gpt2_attention_text IS
    'one head''s attention for a terminal: a row a query, a bar a key, and the key that gets most';


CREATE FUNCTION gpt2_surprisal_text(
    text text DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS TABLE ("position" int, piece text, bits numeric, surprisal text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- a character a bit, of a model that is far off the first 64
    SELECT s."position", gpt2._terminal_label(s.piece), round(s.bits::numeric, 1),
           repeat('█', e.eighths / 8) || substr('▏▎▍▌▋▊▉', e.eighths % 8, (e.eighths % 8 > 0)::int)
    FROM gpt2_score(gpt2_surprisal_text.text, gpt2_surprisal_text.model, NULL, input_ids,
                    special_tokens)
        AS s ("position", token, piece, logprob, rank, entropy, bits)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.bits > 64 THEN 512 ELSE round(8 * s.bits)::int END AS eighths) AS e
    ORDER BY s."position";
END;
COMMENT ON FUNCTION gpt2_surprisal_text IS
    'how little each token of a text was expected, for a terminal: bits, and a bar';
