-- Completions as rows: several of one prompt, which is read once, and how each came about.


CREATE FUNCTION gpt2_complete(
    prompt text, n int DEFAULT 1, max_tokens int DEFAULT 32, temperature float8 DEFAULT 0,
    top_k int DEFAULT NULL, seed bigint DEFAULT NULL, echo boolean DEFAULT false,
    model text DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL, top_p float8 DEFAULT NULL,
    min_p float8 DEFAULT NULL, typical_p float8 DEFAULT NULL,
    repetition_penalty float8 DEFAULT NULL, frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL, no_repeat_ngram_size int DEFAULT NULL,
    stop text[] DEFAULT NULL, logit_bias jsonb DEFAULT NULL, min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false, choices text[] DEFAULT NULL, pattern text DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL, banned_tokens int[] DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL
) RETURNS TABLE (
    choice int, text text, tokens int[], logprobs float8[], finish_reason text, prompt_tokens int,
    completion_tokens int
)
LANGUAGE sql VOLATILE PARALLEL SAFE COST 1000000 ROWS 1
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH request AS MATERIALIZED (
        SELECT r.*
        FROM (
            SELECT coalesce(gpt2_complete.seed, gpt2._random_seed()) AS seed
            WHERE gpt2._assert(n >= 1, 'invalid_parameter_value', 'n must be 1 or more',
                      format('It is %s.', coalesce(n::text, 'NULL')),
                      'Leave it out for one completion.')
              AND gpt2._assert(
                      coalesce(gpt2_complete.seed, 0) <= 9223372036854775807 - (greatest(n, 1) - 1),
                      'invalid_parameter_value',
                      format('seed %s is too large for %s completions', gpt2_complete.seed, n),
                      'Completion i has the seed seed + i - 1.', 'Use a smaller seed.')
            OFFSET 0
        ) AS s
        CROSS JOIN LATERAL gpt2._request(
            prompt, max_tokens, temperature, top_k, s.seed, gpt2_complete.model,
            gpt2_complete.steer, gpt2_complete.patch, top_p, min_p, typical_p, repetition_penalty,
            frequency_penalty, presence_penalty, no_repeat_ngram_size, stop, logit_bias,
            min_tokens, ignore_eos, choices, pattern, allowed_tokens, banned_tokens, prefix,
            true) AS r
    ), read AS MATERIALIZED (
        SELECT gpt2._run(r.start, r.m, r.n_prompt, steer => r.steer) AS context
        FROM request AS r
        WHERE r.n_stop > r.n_prompt
    ), completion AS MATERIALIZED (
        -- choice i draws with seed + i - 1
        SELECT i AS choice,
               (SELECT gpt2._run(c.context, r.m, r.n_stop,
                                 jsonb_populate_record(r.o, jsonb_build_object(
                                     'seed', (r.o).seed + (i - 1))),
                                 r.bounds, r.steer)
                FROM read AS c) AS context
        FROM request AS r
        CROSS JOIN generate_series(1, n) AS i
    )
    SELECT c.choice, CASE WHEN echo THEN prompt ELSE '' END || t.text,
           CASE WHEN t.text IS NOT NULL
                THEN coalesce((c.context).tokens[r.n_prompt + 1:], '{}') END,
           CASE WHEN t.text IS NOT NULL THEN coalesce((c.context).logprobs, '{}') END,
           f.finish_reason, r.n_prompt,
           coalesce(cardinality((c.context).tokens) - r.n_prompt, 0)
    FROM request AS r
    CROSS JOIN completion AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f
    CROSS JOIN LATERAL (
        SELECT gpt2._completion(coalesce((c.context).bytes, ''), (r.bounds).stop, f.finish_reason)
                   AS text
        OFFSET 0
    ) AS t
    ORDER BY c.choice;
END;
COMMENT ON FUNCTION gpt2_complete IS
    'n completions of a prompt, a row each: text, tokens, log probabilities, and why it ended';
