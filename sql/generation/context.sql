-- A text on its way through a model: what is read, what is chosen. gpt2._advance takes it up to a
-- chunk of positions further, a recursion over positions, and in each a recursion over blocks; an
-- aggregate of it goes all the way.
--
-- It begins as a prompt that is still to be read (gpt2._start), all of it, or what a stored prefix
-- leaves of it.


CREATE TYPE gpt2._context AS (
    tokens int[],         -- prompt and completion
    n_past int,           -- positions that are in past
    past gpt2._past[],    -- [n_layer * n_head], block by block
    recent vector[],      -- [n_recent * n_layer]: keys and values of the positions after the past
    y vector[],           -- [n_past + n_recent, n_embd]: what was read, after ln_f
    steps int,            -- how often a next token was asked for
    bytes bytea,          -- of the completion
    logprobs float8[],    -- of the completion's tokens
    finish_reason text    -- why nothing more is chosen
);
COMMENT ON TYPE gpt2._context IS
    'a text on its way through a model: tokens, cache, activations, and how it ended';


CREATE FUNCTION gpt2._advance(
    context gpt2._context, start gpt2._context, m gpt2.model, n_stop int, burst int,
    o gpt2._sampling, bounds gpt2._bounds, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The unread positions together, for reading a weight takes as long as multiplying it; at the
    -- text's end the next token, which is then the one unread, until burst tokens are chosen.
    WITH RECURSIVE before AS MATERIALIZED (
        SELECT b.*, cardinality((start).tokens) AS n_prompt,
               (coalesce(context, start)).y[b.n_past + b.n_recent] AS y
        FROM (SELECT (coalesce(context, start)).tokens, (coalesce(context, start)).n_past,
                     (coalesce(context, start)).recent, (coalesce(context, start)).steps,
                     (coalesce(context, start)).bytes, (coalesce(context, start)).logprobs,
                     (coalesce(context, start)).finish_reason,
                     coalesce(cardinality((coalesce(context, start)).recent), 0) / (m).n_layer
                         AS n_recent
              OFFSET 0) AS b
    ), step AS (
        SELECT 0 AS n, b.n_recent, b.tokens, b.recent, NULL::vector[] AS y, b.steps, b.bytes,
               b.logprobs, b.finish_reason
        FROM before AS b
    UNION ALL
        SELECT s.n + 1, s.n_recent + new.n,
               CASE WHEN next.token IS NULL THEN s.tokens ELSE s.tokens || next.token END,
               s.recent || r.kv, s.y || r.y, s.steps + (next.bytes IS NOT NULL)::int,
               coalesce(next.bytes, s.bytes),
               CASE WHEN next.token IS NULL THEN s.logprobs ELSE s.logprobs || next.logprob END,
               next.finish_reason
        FROM before AS b
        CROSS JOIN step AS s
        CROSS JOIN LATERAL (
            SELECT least(u.unread, gpt2._chunk() - s.n_recent) AS n,
                   u.unread <= gpt2._chunk() - s.n_recent
                       AND cardinality(s.tokens) < n_stop AS at_end
            FROM (SELECT cardinality(s.tokens) - b.n_past - s.n_recent AS unread) AS u
            OFFSET 0
        ) AS new
        CROSS JOIN LATERAL (
            SELECT p.y, p.kv
            FROM gpt2._step(s.tokens, b.n_past, (coalesce(context, start)).past, s.recent, new.n,
                            m, steer) AS p
            WHERE new.n > 0
        UNION ALL
            SELECT NULL, NULL WHERE new.n = 0
        ) AS r
        LEFT JOIN LATERAL (
            SELECT c.*
            FROM (SELECT coalesce(r.y[new.n], b.y) AS y WHERE new.at_end OFFSET 0) AS last
            CROSS JOIN LATERAL
                gpt2._next(last.y, m, o, bounds, s.tokens, b.n_prompt, n_stop, s.bytes) AS c
        ) AS next ON true
        WHERE s.finish_reason IS NULL
          AND s.n_recent < gpt2._chunk()
          AND s.steps - b.steps < burst
          AND (cardinality(s.tokens) > b.n_past + s.n_recent OR cardinality(s.tokens) < n_stop)
    )
    SELECT ROW(
        s.tokens,
        CASE WHEN full_chunk THEN b.n_past + s.n_recent ELSE b.n_past END,
        CASE WHEN full_chunk
             THEN (SELECT r.past
                   FROM gpt2._remember((coalesce(context, start)).past, s.recent, m) AS r)
             ELSE (coalesce(context, start)).past END,
        CASE WHEN NOT full_chunk THEN s.recent END,
        (coalesce(context, start)).y || s.y, s.steps, s.bytes, s.logprobs, s.finish_reason
        )::gpt2._context
    FROM before AS b
    CROSS JOIN (SELECT * FROM step ORDER BY n DESC LIMIT 1) AS s
    CROSS JOIN LATERAL (
        SELECT s.n_recent = gpt2._chunk() AND s.finish_reason IS NULL OFFSET 0) AS c (full_chunk);
END;
COMMENT ON FUNCTION gpt2._advance(
    gpt2._context, gpt2._context, gpt2.model, int, int, gpt2._sampling, gpt2._bounds,
    gpt2.steering[]
) IS 'up to a chunk of positions: what is unread, then one for each token that is chosen';


-- An aggregate keeps one state, where a recursive query would keep them all.
CREATE AGGREGATE gpt2._advance_all(
    start gpt2._context, m gpt2.model, n_stop int, burst int, o gpt2._sampling,
    bounds gpt2._bounds, steer gpt2.steering[]
) (
    SFUNC = gpt2._advance, STYPE = gpt2._context, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._advance_all(
    gpt2._context, gpt2.model, int, int, gpt2._sampling, gpt2._bounds, gpt2.steering[]
) IS 'the context after as many chunks as there are rows';


CREATE FUNCTION gpt2._read_patched(
    prompt int[], m gpt2.model, patch gpt2._patch, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A patch may replace any activation, so the prompt is read by the forward pass, which has them
    -- all: its keys and values are the cache with which generation goes on.
    WITH activation AS MATERIALIZED (
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
COMMENT ON FUNCTION gpt2._read_patched(int[], gpt2.model, gpt2._patch, gpt2.steering[]) IS
    'the context after a prompt some of whose activations are replaced';


CREATE TYPE gpt2.prefix AS (
    model int,
    edition bigint[],   -- of the model's weights, when they were read
    tokens int[],
    n_past int,
    past gpt2._past[],  -- these four are as in gpt2._context
    recent vector[],
    y vector[]
);
COMMENT ON TYPE gpt2.prefix IS
    'the beginning of a prompt, read by a model: see gpt2_prefix; it can be stored in a column';


CREATE FUNCTION gpt2._check_prefix(prefix gpt2.prefix, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert((prefix).model = (m).model, 'invalid_parameter_value',
               format('the prefix was not made for model "%s"', (m).name),
               coalesce((SELECT format('It was made for model "%s".', o.name)
                         FROM gpt2.model AS o WHERE o.model = (prefix).model),
                        'The model that it was made for is gone.'),
               format('Make one: SELECT gpt2_prefix(prompt, %s);', quote_literal((m).name)))
       AND gpt2._assert((prefix).edition = gpt2._edition(m), 'object_not_in_prerequisite_state',
               format('the weights of model "%s" have changed since the prefix was made',
                      (m).name),
               'What it holds is not what the model computes now.',
               format('Make it again: SELECT gpt2_prefix(prompt, %s);', quote_literal((m).name)));
END;
COMMENT ON FUNCTION gpt2._check_prefix(gpt2.prefix, gpt2.model) IS
    'true, or an error where a model did not compute this';


CREATE FUNCTION gpt2._start_from(prefix gpt2.prefix, tokens int[], m gpt2.model)
RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- As much of the prefix as the tokens begin with. A chunk begins where it would without one, so
    -- that the result is the same to the last bit: of the past, whole chunks are kept.
    SELECT ROW(
        tokens, c.n_past,
        CASE WHEN c.n_past = (prefix).n_past THEN (prefix).past
             WHEN c.n_past > 0
             THEN (SELECT array_agg(
                              ROW(p.k[:c.n_past],
                                  ARRAY(SELECT subvector(u.v, 1, c.n_past)
                                        FROM unnest(p.v) AS u (v)))::gpt2._past
                              ORDER BY p.n)
                   FROM unnest((prefix).past) WITH ORDINALITY AS p (k, v, n)) END,
        CASE WHEN c.n_recent > 0 THEN (prefix).recent[:c.n_recent * (m).n_layer] END,
        (prefix).y[:c.n_past + c.n_recent], 0, '', '{}', NULL)::gpt2._context
    FROM (
        SELECT CASE WHEN s.n >= (prefix).n_past THEN (prefix).n_past
                    ELSE s.n / gpt2._chunk() * gpt2._chunk() END AS n_past,
               greatest(s.n - (prefix).n_past, 0) AS n_recent
        FROM (
            -- how many tokens are the same in both
            SELECT coalesce(min(t.n) FILTER (WHERE t.ours IS DISTINCT FROM t.theirs) - 1,
                            count(*))::int AS n
            FROM unnest((prefix).tokens, tokens) WITH ORDINALITY AS t (theirs, ours, n)
        ) AS s
        OFFSET 0
    ) AS c
    WHERE gpt2._check_prefix(prefix, m);
END;
COMMENT ON FUNCTION gpt2._start_from(gpt2.prefix, int[], gpt2.model) IS
    'the context of a prompt, as far as a prefix has it read';


CREATE FUNCTION gpt2._start(
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
    THEN gpt2._start_from((ARRAY[prefix])[1], tokens, m)
    WHEN patch IS NOT NULL THEN gpt2._read_patched(tokens, m, patch, steer)
    ELSE ROW(tokens, 0, NULL, NULL, NULL, 0, '', '{}', NULL)::gpt2._context END;
COMMENT ON FUNCTION gpt2._start(
    int[], gpt2.model, gpt2.steering[], gpt2._patch, gpt2.prefix
) IS 'the context of a prompt that is still to be read, but for what a prefix or a patch has read';


CREATE FUNCTION gpt2._run(
    start gpt2._context, m gpt2.model, n_stop int, o gpt2._sampling DEFAULT NULL,
    bounds gpt2._bounds DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- the prompt, and the chosen tokens but for the last, which need not be read
    SELECT gpt2._advance_all(start, m, n_stop, n_stop, o, bounds, steer)
    FROM generate_series(
        1, greatest(1, ceil((greatest(cardinality((start).tokens), n_stop - 1) - (start).n_past)
                            / gpt2._chunk()::numeric)::int));
END;
COMMENT ON FUNCTION gpt2._run(
    gpt2._context, gpt2.model, int, gpt2._sampling, gpt2._bounds, gpt2.steering[]
) IS
    'a prompt, read and continued until it has n_stop tokens; n_stop = its own length: only read';
