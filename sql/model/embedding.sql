-- Embeddings: a token and its position become a vector.  [] -> [n_embd]
-- Source: model() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._embedding(token int, "position" int, m gpt2.model)
RETURNS TABLE (embed vector, pos_embed vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT w.weight, (SELECT p.weight FROM gpt2.wpe AS p
                      WHERE p.model = (m).model AND p."position" = _embedding."position")
    FROM gpt2._token_weight(_embedding.token, 'wte', m) AS w;
END;
COMMENT ON FUNCTION gpt2._embedding IS
    'the token''s embedding and the position''s; the first block reads their sum';
