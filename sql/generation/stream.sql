-- Generation as a stream: a row a token, handed over before the next is computed.
--
-- A window function keeps one state and gives a row at a time. A function in FROM hands nothing
-- over before it has ended, unless its query becomes part of the caller's: so gpt2_stream sets
-- nothing, and asks gpt2._stream for rows in a SELECT list, where they are fetched one by one.


CREATE TYPE gpt2._progress AS (
    steps int,
    token int,  -- the one of this step; NULL where the completion ended without
    logprob float8,
    bytes bytea,
    finish_reason text
);
COMMENT ON TYPE gpt2._progress IS 'what a step of generation did';


CREATE FUNCTION gpt2._progress(context gpt2._context)
RETURNS gpt2._progress
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(
    (context).steps,
    CASE WHEN cardinality((context).logprobs) = (context).steps
         THEN (context).tokens[cardinality((context).tokens)] END,
    CASE WHEN cardinality((context).logprobs) = (context).steps
         THEN (context).logprobs[(context).steps] END,
    (context).bytes, (context).finish_reason)::gpt2._progress;
COMMENT ON FUNCTION gpt2._progress IS 'the last step of a context';


CREATE AGGREGATE gpt2._advance_each(
    start gpt2._context, past gpt2._past[], m gpt2.model, n_stop int, burst int,
    sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
) (
    SFUNC = gpt2._advance, STYPE = gpt2._context, FINALFUNC = gpt2._progress, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._advance_each(
    gpt2._context, gpt2._past[], gpt2.model, int, int, gpt2._sampler, gpt2._bounds, gpt2.steering[]
) IS 'what the last of as many steps did as there are rows';


CREATE FUNCTION gpt2._stream(
    prompt gpt2._prompt, max_tokens int, o gpt2._options, random_seed bigint,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], echo boolean, model text
) RETURNS TABLE (
    step int, token int, piece text, text text, logprob float8, finish_reason text
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 32
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH request AS (
        SELECT r.*, gpt2._echo(prompt, r.m, echo) AS echo
        FROM gpt2._request(
            prompt, max_tokens, o, coalesce((o).seed, random_seed), prefix, _stream.steer,
            _stream.patch, _stream.model, true) AS r
    ), read AS (
        SELECT gpt2._run(r.start, r.m, r.n_prompt, steer => r.steer) AS context
        FROM request AS r
        WHERE r.n_stop > r.n_prompt
    ), step AS (
        -- subqueries, not columns of a join: a window function keeps copies of the rows it is given
        SELECT i AS n,
               gpt2._advance_each(
                   (SELECT context FROM read), NULL, (SELECT r.m FROM request AS r),
                   (SELECT r.n_stop FROM request AS r), 1, (SELECT r.sampler FROM request AS r),
                   (SELECT r.bounds FROM request AS r), (SELECT r.steer FROM request AS r)
               ) OVER (ROWS UNBOUNDED PRECEDING) AS p
        FROM generate_series(1, (SELECT r.n_stop - r.n_prompt FROM request AS r)) AS i
    )
    SELECT s.n, (s.p).token, t.piece,
           CASE WHEN f.finish_reason IS NULL
                THEN gpt2._stable_completion(r.echo, (s.p).bytes, (r.bounds).stop)
                ELSE gpt2._completion(r.echo, (s.p).bytes, (r.bounds).stop, f.finish_reason) END,
           (s.p).logprob, f.finish_reason
    FROM step AS s
    CROSS JOIN request AS r
    CROSS JOIN LATERAL (
        SELECT CASE WHEN (s.p).finish_reason = 'length' AND r.cut_short THEN 'context'
                    ELSE (s.p).finish_reason END AS finish_reason
    ) AS f
    LEFT JOIN LATERAL gpt2._pieces(ARRAY[(s.p).token], r.m) AS t ON true
    WHERE (s.p).steps = s.n
UNION ALL
    -- no room for a token
    SELECT 0, NULL, NULL, gpt2._completion(r.echo, '', (r.bounds).stop, f.finish_reason), NULL,
           f.finish_reason
    FROM request AS r
    CROSS JOIN LATERAL gpt2._finish_reason(NULL, r.cut_short, r.bounds) AS f
    WHERE r.n_stop = r.n_prompt;
END;
COMMENT ON FUNCTION gpt2._stream IS
    'a completion, a row a token; random_seed is the seed where the options have none';


CREATE FUNCTION gpt2_stream(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, temperature float8 DEFAULT 0,
    top_k int DEFAULT NULL,
--@include ../arguments/filters.sql
--@include ../arguments/draw.sql
--@include ../arguments/processors.sql
--@include ../arguments/ends.sql
--@include ../arguments/prompt.sql
--@include ../arguments/reading.sql
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS TABLE (
    step int, token int, piece text, text text, logprob float8, finish_reason text
)
-- STABLE, or it would not become part of the query; the seed that it draws is not (generate.sql)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 32
BEGIN ATOMIC
    SELECT (s.row).step, (s.row).token, (s.row).piece, (s.row).text, (s.row).logprob,
           (s.row).finish_reason
    FROM (SELECT gpt2._stream(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens,
        ROW(
--@names ../arguments/filters.sql
--@names ../arguments/draw.sql
--@names ../arguments/processors.sql
--@names ../arguments/ends.sql
            temperature, top_k)::gpt2._options,
        gpt2._random_seed(), prefix, steer, patch, echo, model
    ) AS "row") AS s
    -- True, and volatile: else the planner may keep the rows of a prompt for the next row with the
    -- same one (Memoize), which is to have another seed.
    WHERE coalesce((s.row).step >= 0, clock_timestamp() IS NULL);
END;
COMMENT ON FUNCTION gpt2_stream IS
    'a completion, a row a token, each handed over as it is made: the text so far, and in the last '
    'row why it ended';
