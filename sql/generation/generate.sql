-- Generation: choose a token, put it at the end, and ask again.
-- Source: sample_sequence() in openai/gpt-2, src/sample.py.


CREATE FUNCTION gpt2_generate(
    prompt text, max_tokens int DEFAULT 32, temperature float8 DEFAULT 0, top_k int DEFAULT NULL,
    seed bigint DEFAULT NULL, echo boolean DEFAULT true, model text DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL, patch gpt2.activation[] DEFAULT NULL,
    top_p float8 DEFAULT NULL, min_p float8 DEFAULT NULL, typical_p float8 DEFAULT NULL,
    repetition_penalty float8 DEFAULT NULL, frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL, no_repeat_ngram_size int DEFAULT NULL,
    stop text[] DEFAULT NULL, logit_bias jsonb DEFAULT NULL, min_tokens int DEFAULT 0,
    ignore_eos boolean DEFAULT false, choices text[] DEFAULT NULL, pattern text DEFAULT NULL,
    allowed_tokens int[] DEFAULT NULL, banned_tokens int[] DEFAULT NULL,
    prefix gpt2.prefix DEFAULT NULL
) RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH request AS MATERIALIZED (
        SELECT r.*
        FROM (SELECT coalesce(gpt2_generate.seed, gpt2._random_seed()) AS seed OFFSET 0) AS s
        CROSS JOIN LATERAL gpt2._request(
            prompt, max_tokens, temperature, top_k, s.seed, gpt2_generate.model,
            gpt2_generate.steer, gpt2_generate.patch, top_p, min_p, typical_p, repetition_penalty,
            frequency_penalty, presence_penalty, no_repeat_ngram_size, stop, logit_bias,
            min_tokens, ignore_eos, choices, pattern, allowed_tokens, banned_tokens, prefix,
            false) AS r
    )
    SELECT CASE WHEN echo THEN prompt ELSE '' END
        || gpt2._completion(coalesce((c.context).bytes, ''), (r.bounds).stop, f.finish_reason)
    FROM request AS r
    CROSS JOIN LATERAL (
        SELECT CASE WHEN r.n_stop > r.n_prompt
                    THEN gpt2._run(r.start, r.m, r.n_stop, r.o, r.bounds, r.steer) END AS context
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f;
END;
COMMENT ON FUNCTION gpt2_generate IS
    'continues a text by up to max_tokens tokens; temperature 0 is greedy; NULL for NULL, and '
    'where the completion cannot be what it must be';
