-- The tokenizer's examples. No model is loaded: it has GPT-2's own vocabulary.
SELECT gpt2_tokenize('PostgreSQL is great');
SELECT * FROM gpt2_tokens('PostgreSQL is great!');
SELECT * FROM gpt2_bpe('Mississippilessly');
SELECT gpt2_detokenize('{6307,47701,318,1049}');
-- unaligned, as versions of psql differ in how wide characters are
\a
SELECT p, t, gpt2_detokenize(t) = p AS same
FROM unnest(ARRAY['', ' ', 'don''t WE''LL', E'a  b\n\n c', '1234 ٢٣', 'שלום', '👩‍💻',
                  '<|endoftext|>', NULL])
    WITH ORDINALITY AS u (p, n)
CROSS JOIN LATERAL (SELECT gpt2_tokenize(p) AS t) AS g
ORDER BY n;
\a
SELECT gpt2_detokenize('{15496,50256}'), gpt2_detokenize('{}'), gpt2_detokenize(NULL);
-- half of a character, a byte that is not UTF-8, and U+0000
SELECT ascii(gpt2_detokenize('{171}')), gpt2_detokenize('{64,100,64}') = U&'a\FFFDa' AS byte,
       gpt2_detokenize('{64,188,64}') = U&'a\FFFDa' AS nul;
SELECT count(*) AS tokens, count(*) FILTER (WHERE mergeable) AS mergeable FROM gpt2.token;
SELECT count(*) AS merges FROM gpt2.merge;
