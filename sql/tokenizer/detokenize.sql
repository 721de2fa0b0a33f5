-- Tokens to text. Tokens are bytes, and a list of tokens may end, or be cut, inside a character:
-- what is not UTF-8 becomes U+FFFD, a replacement for each maximal part of a character, as
-- `tokenizers` and the Unicode standard (section 3.9, table 3-7) have it. So does U+0000, which
-- PostgreSQL's text cannot hold.


-- The bytes are characters here: a regular expression reads text, and LATIN1 has one for each.
CREATE FUNCTION gpt2._utf8_character()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '[\u0001-\u007F]'
       '|[\u00C2-\u00DF][\u0080-\u00BF]'
       '|\u00E0[\u00A0-\u00BF][\u0080-\u00BF]'
       '|[\u00E1-\u00EC\u00EE\u00EF][\u0080-\u00BF]{2}'
       '|\u00ED[\u0080-\u009F][\u0080-\u00BF]'
       '|\u00F0[\u0090-\u00BF][\u0080-\u00BF]{2}'
       '|[\u00F1-\u00F3][\u0080-\u00BF]{3}'
       '|\u00F4[\u0080-\u008F][\u0080-\u00BF]{2}';
COMMENT ON FUNCTION gpt2._utf8_character IS
    'regular expression for the bytes of a character but NUL, read as LATIN1';


CREATE FUNCTION gpt2._utf8_part()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '\u00E0[\u00A0-\u00BF]'
       '|[\u00E1-\u00EC\u00EE\u00EF][\u0080-\u00BF]'
       '|\u00ED[\u0080-\u009F]'
       '|\u00F0[\u0090-\u00BF][\u0080-\u00BF]?'
       '|[\u00F1-\u00F3][\u0080-\u00BF]{1,2}'
       '|\u00F4[\u0080-\u008F][\u0080-\u00BF]?';
COMMENT ON FUNCTION gpt2._utf8_part IS
    'regular expression for two or three bytes of a character that is cut short, read as LATIN1';


CREATE FUNCTION gpt2._utf8(bytes bytea)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH holdable (bytes) AS (
        SELECT CASE
            WHEN position('\x00'::bytea IN _utf8.bytes) = 0 THEN _utf8.bytes
            ELSE (SELECT string_agg(
                             CASE get_byte(_utf8.bytes, i) WHEN 0 THEN '\xEFBFBD'::bytea
                                  ELSE substring(_utf8.bytes FROM i + 1 FOR 1) END, '' ORDER BY i)
                  FROM generate_series(0, length(_utf8.bytes) - 1) AS i)
        END
    ), latin1 (bytes) AS (
        -- a character a byte, so that a regular expression can read it
        SELECT convert_from(holdable.bytes, 'LATIN1') COLLATE "C" FROM holdable
    ), part AS (
        -- the matches cover all bytes; a part ends at byte "end"
        SELECT p.n, length(p.match[1]) AS well_formed,
               sum(length(coalesce(p.match[1], p.match[2]))) OVER (ORDER BY p.n)::int AS "end"
        FROM latin1, regexp_matches(latin1.bytes,
            '((?:' || gpt2._utf8_character() || ')+)'
            -- else a character cut short, or a byte that begins none
            '|(' || gpt2._utf8_part() ||
            '|[\u0080-\u00FF])', 'g') WITH ORDINALITY AS p (match, n)
    )
    SELECT CASE
        -- ASCII: this writes NUL, a byte above 127 and a backslash with more than one character
        WHEN length(encode(_utf8.bytes, 'escape')) = length(_utf8.bytes)
        THEN convert_from(_utf8.bytes, 'UTF8')
        ELSE (
            SELECT coalesce(
                string_agg(
                    coalesce(convert_from(
                                 substring(h.bytes FROM p."end" - p.well_formed + 1
                                           FOR p.well_formed), 'UTF8'),
                             chr(65533)), '' ORDER BY p.n),
                CASE WHEN _utf8.bytes IS NOT NULL THEN '' END)
            FROM part AS p CROSS JOIN holdable AS h)
    END;
END;
COMMENT ON FUNCTION gpt2._utf8 IS 'bytes as text, with U+FFFD for what is not UTF-8 and for U+0000';


CREATE FUNCTION gpt2._detokenize(tokens int[], tokenizer int, n_token int)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET jit = off
BEGIN ATOMIC
    SELECT CASE
        WHEN tokens IS NULL THEN NULL
        WHEN gpt2._assert(count(*) = count(i.bytes), 'invalid_parameter_value',
            format('token %s is not in the vocabulary',
                   coalesce((array_agg(coalesce(i.token::text, 'NULL') ORDER BY i.n)
                             FILTER (WHERE i.bytes IS NULL))[1], '')),
            format('Tokens are 0 to %s.', _detokenize.n_token - 1),
            'Tokens come from gpt2_tokenize(prompt, model), for the same model.')
        THEN gpt2._utf8(coalesce(string_agg(i.bytes, '' ORDER BY i.n), ''))
    END
    FROM (
        SELECT i.n, i.token, t.bytes
        FROM unnest(tokens) WITH ORDINALITY AS i (token, n)
        LEFT JOIN gpt2.token AS t
            ON t.tokenizer = _detokenize.tokenizer AND t.token = i.token
           AND t.token < _detokenize.n_token
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._detokenize IS
    'text of token ids; bytes that are not UTF-8 become U+FFFD; NULL for NULL';


CREATE FUNCTION gpt2_detokenize(tokens int[], model text DEFAULT NULL)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._detokenize(tokens, v.tokenizer, v.n_token)
    FROM gpt2._chosen_vocabulary(gpt2_detokenize.model) AS v;
END;
COMMENT ON FUNCTION gpt2_detokenize IS
    'text of token ids; bytes that are not UTF-8 become U+FFFD; NULL for NULL';
