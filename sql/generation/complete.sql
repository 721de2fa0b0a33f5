-- Completions as rows: several of one prompt, which is read once, and how each came about.


CREATE FUNCTION gpt2._check_n(n int, seed bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(n BETWEEN 1 AND 1000, 'invalid_parameter_value',
           'n must be between 1 and 1000',
           format('It is %s; all completions are kept until the last is made.',
                  coalesce(n::text, 'NULL')),
           'Leave it out for one; for more than 1000 call again: completion i has the seed '
           'seed + i - 1.')
       -- numeric: PostgreSQL 18 computes it of an n that was refused above too, as it plans
       AND gpt2._assert(coalesce(seed, 0) + (n - 1)::numeric <= 9223372036854775807,
           'invalid_parameter_value',
           format('seed %s is too large for %s completions', seed, n),
           'Completion i has the seed seed + i - 1.', 'Use a smaller seed.');
COMMENT ON FUNCTION gpt2._check_n IS
    'true, or an error where there cannot be so many completions from this seed on';


CREATE FUNCTION gpt2._choices(
    prompt gpt2._prompt, max_tokens int, n int, o gpt2._options, random_seed bigint,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], model text
) RETURNS TABLE (
    choice int, m gpt2.model, start gpt2._context, n_prompt int, bounds gpt2._bounds,
    context gpt2._context, finish_reason text
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH request AS (
        SELECT r.*
        FROM gpt2._request(
            prompt, max_tokens, o, coalesce((o).seed, random_seed), prefix, _choices.steer,
            _choices.patch, _choices.model, true) AS r
        WHERE gpt2._check_n(n, (o).seed)
    ), read AS MATERIALIZED (
        SELECT gpt2._run(r.start, r.m, r.n_prompt, steer => r.steer) AS context
        FROM request AS r
        WHERE r.n_stop > r.n_prompt
    ), completion AS MATERIALIZED (
        -- choice i draws with seed + i - 1
        SELECT i AS choice,
               (SELECT gpt2._run(c.context, r.m, r.n_stop,
                                 gpt2._reseed(r.sampler, (r.sampler).seed + (i - 1)),
                                 r.bounds, r.steer, keep => false)
                FROM read AS c) AS context
        FROM request AS r
        CROSS JOIN generate_series(1, n) AS i
    )
    SELECT c.choice, r.m, r.start, r.n_prompt, r.bounds, c.context, f.finish_reason
    FROM request AS r
    CROSS JOIN completion AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f;
END;
COMMENT ON FUNCTION gpt2._choices IS
    'n ways in which a prompt, read once, goes on; context is NULL where there is no room for a '
    'token; random_seed is the first seed where the options have none';


CREATE FUNCTION gpt2._complete(
    prompt gpt2._prompt, max_tokens int, n int, o gpt2._options, random_seed bigint,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], echo boolean, model text
) RETURNS TABLE (
    choice int, text text, tokens int[], logprobs float8[], finish_reason text, prompt_tokens int,
    completion_tokens int
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 1
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT c.choice, t.text,
           CASE WHEN t.text IS NOT NULL
                THEN coalesce((c.context).tokens[c.n_prompt + 1:], '{}') END,
           CASE WHEN t.text IS NOT NULL THEN coalesce((c.context).logprobs, '{}') END,
           c.finish_reason, c.n_prompt,
           coalesce(cardinality((c.context).tokens) - c.n_prompt, 0)
    FROM gpt2._choices(prompt, max_tokens, n, o, random_seed, prefix, _complete.steer,
                       _complete.patch, _complete.model) AS c
    CROSS JOIN LATERAL (
        SELECT gpt2._completion(gpt2._echo(prompt, c.m, echo), coalesce((c.context).bytes, ''),
                                (c.bounds).stop, c.finish_reason) AS text
        OFFSET 0
    ) AS t
    ORDER BY c.choice;
END;
COMMENT ON FUNCTION gpt2._complete IS
    'gpt2_complete''s work; random_seed is the first seed where the options have none';


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
-- STABLE, or it would see another model at each row; the seed that it draws is not (generate.sql)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 1
BEGIN ATOMIC
    SELECT c.*
    FROM gpt2._complete(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens, n,
        ROW(
--@names ../arguments/filters.sql
--@names ../arguments/draw.sql
--@names ../arguments/processors.sql
--@names ../arguments/ends.sql
            temperature, top_k)::gpt2._options,
        gpt2._random_seed(), prefix, steer, patch, echo, model) AS c
    -- true, and volatile, against Memoize (stream.sql)
    WHERE coalesce(c.choice >= 1, clock_timestamp() IS NULL);
END;
COMMENT ON FUNCTION gpt2_complete IS
    'n completions of a prompt, a row each: text, tokens, log probabilities, and why it ended';
