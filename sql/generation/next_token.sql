-- What comes next: the model's distribution over the vocabulary after a prompt.


CREATE FUNCTION gpt2_next_token(
    prompt text DEFAULT NULL, top_k int DEFAULT 10, temperature float8 DEFAULT 1,
--@include ../arguments/filters.sql
--@include ../arguments/processors.sql
--@include ../arguments/prompt.sql
--@include ../arguments/reading.sql
    model text DEFAULT NULL
) RETURNS TABLE (rank int, token int, piece text, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH asked AS MATERIALIZED (
        SELECT ROW(
--@names ../arguments/filters.sql
--@nulls ../arguments/draw.sql
--@names ../arguments/processors.sql
--@nulls ../arguments/ends.sql
            temperature, top_k)::gpt2._options AS options
    ), input AS MATERIALIZED (
        SELECT i.*, cardinality(i.tokens) AS n_prompt, gpt2._sampler(a.options, i.m) AS sampler
        FROM asked AS a
        CROSS JOIN LATERAL gpt2._input(
            gpt2._prompt(prompt, input_ids, special_tokens, truncate), gpt2_next_token.model,
            gpt2_next_token.steer, gpt2_next_token.patch) AS i
    ), read AS MATERIALIZED (
        -- no token is chosen: y is the prompt's last position
        SELECT i.m, i.sampler, i.tokens, i.n_prompt,
               (gpt2._run(gpt2._begin(i.tokens, i.m, i.steer, i.patch, prefix), i.m, i.n_prompt,
                          steer => i.steer, keep => false)).y[i.n_prompt] AS y
        FROM input AS i
    )
    -- looked up one by one: ten are cheap, a join might go through the whole vocabulary
    SELECT d.rank, d.token,
           (SELECT gpt2._utf8(t.bytes) FROM gpt2.token AS t
            WHERE t.tokenizer = (c.m).tokenizer AND t.token = d.token),
           d.logit, d.probability
    FROM read AS c
    CROSS JOIN LATERAL gpt2._distribution(c.y, c.m, c.sampler, c.tokens, c.n_prompt) AS d
    ORDER BY d.rank;
END;
COMMENT ON FUNCTION gpt2_next_token IS
    'the likeliest next tokens after a prompt, with logit and probability; top_k NULL: all of them';
