-- Generation: choose a token, put it at the end, and ask again.
-- Source: sample_sequence() in openai/gpt-2, src/sample.py.


CREATE FUNCTION gpt2_generate(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, temperature float8 DEFAULT 0,
    top_k int DEFAULT NULL,
--@include ../arguments/filters.sql
--@include ../arguments/draw.sql
--@include ../arguments/processors.sql
--@include ../arguments/ends.sql
--@include ../arguments/prompt.sql
--@include ../arguments/reading.sql
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH asked AS (
        SELECT coalesce(gpt2_generate.seed, gpt2._random_seed()) AS seed, ROW(
--@names ../arguments/filters.sql
--@names ../arguments/draw.sql
--@names ../arguments/processors.sql
--@names ../arguments/ends.sql
            temperature, top_k)::gpt2._options AS options,
            gpt2._prompt(gpt2_generate.prompt, input_ids, special_tokens, truncate) AS prompt
    ), request AS MATERIALIZED (
        SELECT a.prompt, r.*
        FROM asked AS a
        CROSS JOIN LATERAL gpt2._request(
            a.prompt, max_tokens, a.options, a.seed, prefix, gpt2_generate.steer,
            gpt2_generate.patch, gpt2_generate.model, false) AS r
    )
    SELECT gpt2._completion(gpt2._echo(r.prompt, r.m, echo), coalesce((c.context).bytes, ''),
                            (r.bounds).stop, f.finish_reason)
    FROM request AS r
    CROSS JOIN LATERAL (
        SELECT CASE WHEN r.n_stop > r.n_prompt
                    THEN gpt2._run(r.start, r.m, r.n_stop, r.sampler, r.bounds, r.steer)
                    END AS context
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f;
END;
COMMENT ON FUNCTION gpt2_generate IS
    'continues a text by up to max_tokens tokens; temperature 0 is greedy; NULL for NULL, and '
    'where the completion cannot be what it must be';
