-- GPT-2's bytes: every text is a sequence of 256 byte tokens before the first merge. OpenAI's
-- files write a byte as a printable character; ids follow the order of those characters.
-- Source: bytes_to_unicode() in openai/gpt-2, src/encoder.py.


CREATE FUNCTION gpt2._byte_encoder()
RETURNS TABLE (byte int, symbol text, token int)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 256
BEGIN ATOMIC
    SELECT b.byte,
           -- a byte without a printable character of its own borrows the next from 256 on
           chr(CASE WHEN b.printable THEN b.byte
                    ELSE 255 + row_number() OVER (PARTITION BY b.printable ORDER BY b.byte)::int
               END),
           row_number() OVER (ORDER BY b.printable DESC, b.byte)::int - 1
    FROM (
        SELECT i, i BETWEEN 33 AND 126 OR i BETWEEN 161 AND 172 OR i BETWEEN 174 AND 255
        FROM generate_series(0, 255) AS i
    ) AS b (byte, printable);
END;
COMMENT ON FUNCTION gpt2._byte_encoder IS
    'the 256 bytes, the characters that stand for them in vocabulary files, and their token ids';
