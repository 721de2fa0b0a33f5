-- Generation: choose a token, put it at the end, and ask again.
-- Source: sample_sequence() in openai/gpt-2, src/sample.py.
--
-- A statement sees one model, whoever edits it meanwhile: what reads the model is STABLE, and reads
-- with the snapshot of the query that calls it; a VOLATILE function would take a new one each time.
-- Chance comes in as an argument that is VOLATILE. It makes the call so: nothing is folded, kept
-- for the next row (Memoize), or run by the planner for an estimate.


CREATE FUNCTION gpt2._generate(
    prompt gpt2._prompt, max_tokens int, o gpt2._options, random_seed bigint, prefix gpt2.prefix,
    steer gpt2.steering[], patch gpt2.activation[], echo boolean, model text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH request AS MATERIALIZED (
        SELECT r.*
        FROM gpt2._request(
            prompt, max_tokens, o, coalesce((o).seed, random_seed), prefix, _generate.steer,
            _generate.patch, _generate.model, false) AS r
    )
    SELECT gpt2._completion(gpt2._echo(prompt, r.m, echo), coalesce((c.context).bytes, ''),
                            (r.bounds).stop, f.finish_reason)
    FROM request AS r
    CROSS JOIN LATERAL (
        SELECT CASE WHEN r.n_stop > r.n_prompt
                    THEN gpt2._run(r.start, r.m, r.n_stop, r.sampler, r.bounds, r.steer,
                                   keep => false) END AS context
        OFFSET 0
    ) AS c
    CROSS JOIN LATERAL gpt2._finish_reason(c.context, r.cut_short, r.bounds) AS f;
END;
COMMENT ON FUNCTION gpt2._generate IS
    'gpt2_generate''s work; random_seed is the seed where the options have none';


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
-- One expression without settings: the planner puts it into the query, after VOLATILE has kept it
-- from putting the call to two places. The volatile argument is there with a seed too.
LANGUAGE sql VOLATILE PARALLEL SAFE COST 1000000
RETURN gpt2._generate(
    gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens,
    ROW(
--@names ../arguments/filters.sql
--@names ../arguments/draw.sql
--@names ../arguments/processors.sql
--@names ../arguments/ends.sql
        temperature, top_k)::gpt2._options,
    gpt2._random_seed(), prefix, steer, patch, echo, model);
COMMENT ON FUNCTION gpt2_generate IS
    'continues a text by up to max_tokens tokens; temperature 0 is greedy; NULL for NULL, and '
    'where the completion cannot be what it must be';
