-- The logit lens: what the model would say if it stopped after a block. It turns activations into
-- distributions over the vocabulary.
-- Source: nostalgebraist 2020, interpreting GPT: the logit lens.


CREATE FUNCTION gpt2._lens(resid_post gpt2.activation[], m gpt2.model, top_k int)
RETURNS TABLE (
    block int, "position" int, rank int, token int, logit float8, probability float8
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- the end of the model, on what the residual stream is after each block
    SELECT r.block, r."position", l.rank, l.token, l.logit, l.probability
    FROM unnest(resid_post) AS r
    CROSS JOIN LATERAL gpt2._layer_norm(r.value, m, (m).n_layer, 'ln_f') AS n
    CROSS JOIN LATERAL gpt2._top_tokens(n.y, m, top_k) AS l;
END;
COMMENT ON FUNCTION gpt2._lens IS
    'the likeliest next tokens if the model stopped after a block, for each of its activations';


CREATE FUNCTION gpt2_logit_lens(
    text text DEFAULT NULL, top_k int DEFAULT 1, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS TABLE (
    block int, "position" int, piece text, rank int, token int, prediction text, logit float8,
    probability float8
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_logit_lens.text, input_ids, special_tokens),
                         gpt2_logit_lens.model) AS i
        WHERE gpt2._check_top_k(top_k)
    ), lens AS (
        SELECT l.*
        FROM input AS i
        CROSS JOIN LATERAL gpt2._lens(
            ARRAY(SELECT f FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
                '{hook_resid_post}', NULL, i.m)) AS f), i.m, top_k) AS l
    )
    SELECT b.block, b."position", p.piece, b.rank, b.token, t.piece, b.logit, b.probability
    FROM input AS i
    CROSS JOIN lens AS b
    JOIN LATERAL gpt2._pieces(i.tokens, i.m) AS p ON p."position" = b."position"
    CROSS JOIN LATERAL gpt2._pieces(ARRAY[b.token], i.m) AS t
    ORDER BY b.block, b."position", b.rank;
END;
COMMENT ON FUNCTION gpt2_logit_lens IS
    'the likeliest next tokens if the model stopped after a block, for each block and position';
