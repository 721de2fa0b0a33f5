-- Embeddings: a token and its position become a vector.  [] -> [n_embd]
-- Source: model() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._token_weight(token int, layer gpt2.embedding, m gpt2.model)
RETURNS TABLE (weight vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Scalar subqueries, as the planner would make a hash table of all pages for a join. The second
    -- of two is run where the first finds nothing: in a variant.
    SELECT coalesce(
        (SELECT coalesce(p.weight[i.i], p.half[i.i]::vector)
         FROM gpt2.token_page AS p
         WHERE p.model = (m).model AND p.layer = _token_weight.layer
           AND p.page = _token_weight.token / (m).page_size),
        (SELECT coalesce(p.weight[i.i], p.half[i.i]::vector)
         FROM gpt2.token_page AS p
         WHERE p.model = (m).base AND p.layer = _token_weight.layer
           AND p.page = _token_weight.token / (m).page_size))
    FROM (SELECT _token_weight.token % (m).page_size + 1) AS i (i);
END;
COMMENT ON FUNCTION gpt2._token_weight IS
    'a row of wte or lm_head, found by its page: the views look at all of them';


CREATE FUNCTION gpt2._embedding(token int, "position" int, m gpt2.model)
RETURNS TABLE (embed vector, pos_embed vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT w.weight, coalesce(
        (SELECT p.weight FROM gpt2.wpe_row AS p
         WHERE p.model = (m).model AND p."position" = _embedding."position"),
        (SELECT p.weight FROM gpt2.wpe_row AS p
         WHERE p.model = (m).base AND p."position" = _embedding."position"))
    FROM gpt2._token_weight(_embedding.token, 'wte', m) AS w;
END;
COMMENT ON FUNCTION gpt2._embedding IS
    'the token''s embedding and the position''s; the first block reads their sum';
