-- Where generation begins: a prompt that is still to be read, but for what a stored prefix or a
-- patch has read; and how it is read to its end.


CREATE FUNCTION gpt2._read_patched(
    prompt int[], m gpt2.model, patch gpt2._patch, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A patch may replace any activation, so the prompt is read by the forward pass, which has them
    -- all: its keys and values are the cache with which generation goes on.
    WITH activation AS (
        SELECT a.*
        FROM gpt2._forward(prompt, m, gpt2._wanted('{k, v, ln_final_out}', NULL, m), patch, steer)
            AS a
    )
    SELECT ROW(
        prompt, cardinality(prompt),
        (SELECT array_agg(ROW(h.k, v.y)::gpt2._past ORDER BY h.block, h.head)
         FROM (
             SELECT a.block, a.head,
                    array_agg(a.value ORDER BY a."position") FILTER (WHERE a.hook = 'attn.hook_k')
                        AS k,
                    array_agg(a.value ORDER BY a."position") FILTER (WHERE a.hook = 'attn.hook_v')
                        AS v
             FROM activation AS a
             WHERE a.head IS NOT NULL
             GROUP BY a.block, a.head
         ) AS h
         CROSS JOIN LATERAL gpt2._transpose(h.v) AS v),
        NULL,
        (SELECT array_agg(y.value ORDER BY y."position")
         FROM activation AS y WHERE y.hook = 'ln_final.hook_out'),
        0, '', '{}', NULL)::gpt2._context;
END;
COMMENT ON FUNCTION gpt2._read_patched IS
    'the context after a prompt some of whose activations are replaced';


CREATE FUNCTION gpt2._begin(
    tokens int[], m gpt2.model, steer gpt2.steering[] DEFAULT NULL,
    patch gpt2._patch DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
-- By way of an array a prefix is in memory: from its table, where it is compressed and out of line,
-- it would be fetched for each field that is read.
RETURN CASE
    WHEN prefix IS DISTINCT FROM NULL AND gpt2._assert(
        steer IS NULL AND patch IS NULL, 'feature_not_supported',
        'a prefix cannot be steered or patched', 'It was read without.',
        'Leave out prefix, or steer and patch.')
    THEN gpt2._resume_from((ARRAY[prefix])[1], tokens, m)
    WHEN patch IS NOT NULL THEN gpt2._read_patched(tokens, m, patch, steer)
    ELSE ROW(tokens, 0, NULL, NULL, NULL, 0, '', '{}', NULL)::gpt2._context END;
COMMENT ON FUNCTION gpt2._begin IS
    'the context of a prompt that is still to be read, but for what a prefix or a patch has read';


CREATE FUNCTION gpt2._run(
    start gpt2._context, m gpt2.model, n_stop int, sampler gpt2._sampler DEFAULT NULL,
    bounds gpt2._bounds DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL,
    keep boolean DEFAULT true
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN keep AND (a.context).past IS NULL AND r.past IS NOT NULL
                THEN ROW((a.context).tokens, (a.context).n_past, r.past, (a.context).recent,
                         (a.context).y, (a.context).steps, (a.context).bytes,
                         (a.context).logprobs, (a.context).finish_reason)::gpt2._context
                ELSE a.context END
    FROM (
        SELECT _run.start, (_run.start).past WHERE NOT gpt2._is_long(_run.start, m)
    UNION ALL
        SELECT ROW((_run.start).tokens, l.n_past, NULL, NULL, l.y, (_run.start).steps,
                   (_run.start).bytes, (_run.start).logprobs,
                   (_run.start).finish_reason)::gpt2._context,
               l.past
        FROM gpt2._read_long(_run.start, m, _run.steer) AS l
        WHERE gpt2._is_long(_run.start, m)
    ) AS r (start, past)
    CROSS JOIN LATERAL (
        -- the prompt, and the chosen tokens but for the last, which need not be read
        SELECT gpt2._advance_all(i.start, i.past, m, n_stop, n_stop, sampler, bounds, _run.steer)
                   AS context
        FROM (SELECT r.start, r.past) AS i
        CROSS JOIN LATERAL generate_series(
            1, greatest(1, ceil((greatest(cardinality((i.start).tokens), n_stop - 1)
                                 - (i.start).n_past) / gpt2._chunk()::numeric)::int))
    ) AS a;
END;
COMMENT ON FUNCTION gpt2._run IS
    'a prompt, read and continued until it has n_stop tokens; n_stop = its own length: only read; '
    'keep: with its past, from which it can be gone on with';
