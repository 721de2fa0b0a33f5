-- Completions as rows: several of one prompt, which is read once, and how each came about.


CREATE FUNCTION gpt2_complete(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, n int DEFAULT 1,
    temperature float8 DEFAULT 0, top_k int DEFAULT NULL,
--@include ../arguments/filters.sql
--@include ../arguments/draw.sql
--@include ../arguments/processors.sql
--@include ../arguments/ends.sql
--@include ../arguments/prompt.sql
--@include ../arguments/reading.sql
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS TABLE (
    choice int, text text, tokens int[], logprobs float8[], finish_reason text, prompt_tokens int,
    completion_tokens int
)
LANGUAGE sql VOLATILE PARALLEL SAFE COST 1000000 ROWS 1
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH asked AS (
        SELECT coalesce(gpt2_complete.seed, gpt2._random_seed()) AS seed, ROW(
--@names ../arguments/filters.sql
--@names ../arguments/draw.sql
--@names ../arguments/processors.sql
--@names ../arguments/ends.sql
            temperature, top_k)::gpt2._options AS options,
            gpt2._prompt(gpt2_complete.prompt, input_ids, special_tokens, truncate) AS prompt
        WHERE gpt2._assert(n >= 1, 'invalid_parameter_value', 'n must be 1 or more',
                  format('It is %s.', coalesce(n::text, 'NULL')),
                  'Leave it out for one completion.')
          AND gpt2._assert(
                  coalesce(gpt2_complete.seed, 0) <= 9223372036854775807 - (greatest(n, 1) - 1),
                  'invalid_parameter_value',
                  format('seed %s is too large for %s completions', gpt2_complete.seed, n),
                  'Completion i has the seed seed + i - 1.', 'Use a smaller seed.')
    ), request AS (
        SELECT a.prompt, r.*
        FROM asked AS a
        CROSS JOIN LATERAL gpt2._request(
            a.prompt, max_tokens, a.options, a.seed, prefix, gpt2_complete.steer,
            gpt2_complete.patch, gpt2_complete.model, true) AS r
    ), read AS MATERIALIZED (
        SELECT gpt2._run(r.start, r.m, r.n_prompt, steer => r.steer) AS context
        FROM request AS r
        WHERE r.n_stop > r.n_prompt
    ), completion AS MATERIALIZED (
        -- choice i draws with seed + i - 1
        SELECT i AS choice,
               (SELECT gpt2._run(c.context, r.m, r.n_stop,
                                 gpt2._reseed(r.sampler, (r.sampler).seed + (i - 1)),
                                 r.bounds, r.steer)
                FROM read AS c) AS context
        FROM request AS r
        CROSS JOIN generate_series(1, n) AS i
    )
    SELECT c.choice, t.text,
           CASE WHEN t.text IS NOT NULL
                THEN coalesce((c.context).tokens[r.n_prompt + 1:], '{}') END,
           CASE WHEN t.text IS NOT NULL THEN coalesce((c.context).logprobs, '{}') END,
           f.finish_reason, r.n_prompt,
           coalesce(cardinality((c.context).tokens) - r.n_prompt, 0)
    FROM request AS r
    CROSS JOIN completion AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f
    CROSS JOIN LATERAL (
        SELECT gpt2._completion(gpt2._echo(r.prompt, r.m, echo), coalesce((c.context).bytes, ''),
                                (r.bounds).stop, f.finish_reason) AS text
        OFFSET 0
    ) AS t
    ORDER BY c.choice;
END;
COMMENT ON FUNCTION gpt2_complete IS
    'n completions of a prompt, a row each: text, tokens, log probabilities, and why it ended';
