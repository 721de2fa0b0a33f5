-- The output projection: a position's inner products with the output embeddings are the logits of
-- the token after it.  [n_embd] -> [n_vocab]
-- Source: model() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._edited_tokens(
    y vector, half halfvec, model int, base int, layer gpt2.embedding
) RETURNS float8[]
LANGUAGE sql STABLE PARALLEL SAFE
-- Both come from the index in the order of their pages: merging them costs next to nothing.
SET enable_nestloop = off
SET enable_hashjoin = off
BEGIN ATOMIC
    SELECT CASE WHEN _edited_tokens.y IS NOT NULL
        THEN ARRAY(
            SELECT -(unnest(coalesce(o.weight, p.weight)) <#> _edited_tokens.y)
            FROM gpt2.token_page AS p
            LEFT JOIN gpt2.token_page AS o
                ON o.model = _edited_tokens.model AND o.layer = _edited_tokens.layer
                AND o.page = p.page
            WHERE p.model = base AND p.layer = _edited_tokens.layer ORDER BY p.page)
        ELSE ARRAY(
            SELECT -(unnest(coalesce(o.half, p.half)) <#> _edited_tokens.half)
            FROM gpt2.token_page AS p
            LEFT JOIN gpt2.token_page AS o
                ON o.model = _edited_tokens.model AND o.layer = _edited_tokens.layer
                AND o.page = p.page
            WHERE p.model = base AND p.layer = _edited_tokens.layer ORDER BY p.page)
        END;
END;
COMMENT ON FUNCTION gpt2._edited_tokens IS
    'inner products with the pages of a variant, where it has none with those of its base';


CREATE FUNCTION gpt2._unembed(y vector, m gpt2.model)
RETURNS TABLE (logits float8[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Ids that only pad the vocabulary are left out: those from n_token on but for eos_token.
    SELECT CASE WHEN (m).n_token = (m).n_vocab THEN l.logits
                WHEN (m).eos_token < (m).n_token THEN l.logits[:(m).n_token]
                ELSE l.logits[:(m).n_token]
                     || array_fill('-Infinity'::float8, ARRAY[(m).eos_token - (m).n_token])
                     || l.logits[(m).eos_token + 1]
           END
    FROM (
        SELECT i.*, i.base IS NOT NULL AND EXISTS (
                   SELECT FROM gpt2.token_page AS o
                   WHERE o.model = i.model AND o.layer = i.layer) AS edited
        FROM (
            SELECT (m).model, (m).base, coalesce((m).base, (m).model) AS source,
                   CASE (m).precision WHEN 'float32' THEN _unembed.y END AS y,
                   CASE (m).precision WHEN 'float16' THEN _unembed.y::halfvec END AS half,
                   CASE WHEN (m).tie_word_embeddings THEN 'wte' ELSE 'lm_head' END::gpt2.embedding
                       AS layer
            OFFSET 0
        ) AS i
        OFFSET 0
    ) AS input
    CROSS JOIN LATERAL (
        SELECT CASE WHEN input.edited
            THEN gpt2._edited_tokens(input.y, input.half, input.model, input.base, input.layer)
            WHEN input.y IS NOT NULL
            THEN ARRAY(
                SELECT -(unnest(p.weight) <#> input.y) FROM gpt2.token_page AS p
                WHERE p.model = input.source AND p.layer = input.layer ORDER BY p.page)
            ELSE ARRAY(
                SELECT -(unnest(p.half) <#> input.half) FROM gpt2.token_page AS p
                WHERE p.model = input.source AND p.layer = input.layer ORDER BY p.page)
            END
        OFFSET 0
    ) AS l (logits);
END;
COMMENT ON FUNCTION gpt2._unembed IS
    'logits of tokens 0, 1, ... after a position: inner products with their output embeddings';
