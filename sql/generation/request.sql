-- What is asked of gpt2_generate, gpt2_stream and gpt2_complete: their arguments, checked and made
-- into what the functions below them take.


CREATE FUNCTION gpt2._request(
    prompt gpt2._prompt, max_tokens int, o gpt2._options, seed bigint, prefix gpt2.prefix,
    steer gpt2.steering[], patch gpt2.activation[], model text, logprobs boolean
) RETURNS TABLE (
    m gpt2.model, start gpt2._context, n_prompt int, n_stop int, cut_short boolean,
    sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT i.m, gpt2._begin(i.tokens, i.m, i.steer, i.patch, prefix), i.n_prompt,
           least(i.n_prompt + max_tokens::bigint, (i.m).n_ctx)::int,
           i.n_prompt + max_tokens::bigint > (i.m).n_ctx,
           gpt2._sampler(o, i.m, _request.seed, logprobs),
           CASE WHEN num_nonnulls((o).stop, (o).choices, (o).pattern) > 0
                THEN gpt2._bounds(o, i.m) END,
           i.steer
    FROM (
        SELECT i.*, cardinality(i.tokens) AS n_prompt
        FROM gpt2._input(prompt, _request.model, _request.steer, _request.patch,
                         greatest(max_tokens, 0)) AS i
        WHERE gpt2._assert(max_tokens >= 0, 'invalid_parameter_value',
            'max_tokens must be 0 or more',
            format('It is %s.', coalesce(max_tokens::text, 'NULL')),
            'Use 0 to add nothing, or leave it out for 32.')
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._request IS
    'the arguments of a generation, checked; n_stop is the length at which it ends at the latest';


CREATE FUNCTION gpt2._finish_reason(
    context gpt2._context, cut_short boolean, bounds gpt2._bounds
) RETURNS TABLE (finish_reason text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- where there was no room for a token, none was asked for: the completion is empty
    SELECT CASE WHEN f.reason = 'length' AND cut_short THEN 'context' ELSE f.reason END
    FROM (
        SELECT (context).finish_reason AS reason WHERE (context).finish_reason IS NOT NULL
    UNION ALL
        SELECT CASE WHEN coalesce((gpt2._completion_state('', bounds)).complete, true) THEN 'length'
                    ELSE 'constraint' END
        WHERE (context).finish_reason IS NULL
    ) AS f;
END;
COMMENT ON FUNCTION gpt2._finish_reason IS
    'why a completion ended: stop, length, eos, context or constraint';
