-- The output projection: a position's inner products with the output embeddings are the logits of
-- the token after it.  [n_embd] -> [n_vocab]
-- Source: model() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._unembed(y vector, m gpt2.model)
RETURNS TABLE (logits float8[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Ids that only pad the vocabulary, from n_token on, are left out.
    SELECT CASE WHEN (m).n_token = (m).n_vocab THEN l.logits ELSE l.logits[:(m).n_token] END
    FROM (
        -- products are negated; that y is, once, negates them again
        SELECT p.products AS logits
        FROM (SELECT gpt2._fill(0, (m).n_embd) - _unembed.y AS y OFFSET 0) AS negated
        CROSS JOIN LATERAL gpt2._products(
            negated.y, m, -1,
            CASE WHEN (m).tie_word_embeddings THEN 'wte' ELSE 'lm_head' END::gpt2.layer) AS p
        OFFSET 0
    ) AS l;
END;
COMMENT ON FUNCTION gpt2._unembed IS
    'logits of tokens 0, 1, ... after a position: inner products with their output embeddings';
