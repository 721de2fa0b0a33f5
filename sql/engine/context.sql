-- A text on its way through a model: what is read, what is chosen. gpt2._advance takes it up to a
-- chunk of positions further, a recursion over positions, and in each a recursion over blocks; an
-- aggregate of it goes all the way.
--
-- It begins as a prompt that is still to be read (gpt2._begin), all of it, or what a stored prefix
-- leaves of it.


CREATE TYPE gpt2._context AS (
    tokens int[],         -- prompt and completion
    n_past int,           -- positions that are in past
    past gpt2._past[],    -- [n_layer * n_head], block by block; after the first _advance NULL for
                          -- that of the context where it started
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
    context gpt2._context, start gpt2._context, past gpt2._past[], m gpt2.model, n_stop int,
    burst int, sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The unread positions together, for reading a weight takes as long as multiplying it; at the
    -- text's end the next token, which is then the one unread, until burst tokens are chosen.
    -- past: in place of start's, as to put it there is to copy it.
    WITH RECURSIVE before AS (
        SELECT b.*, cardinality((start).tokens) AS n_prompt,
               (coalesce(context, start)).y[b.n_past + b.n_recent] AS y
        FROM (SELECT (coalesce(context, start)).tokens, (coalesce(context, start)).n_past,
                     (coalesce(context, start)).recent, (coalesce(context, start)).steps,
                     (coalesce(context, start)).bytes, (coalesce(context, start)).logprobs,
                     (coalesce(context, start)).finish_reason,
                     coalesce(cardinality((coalesce(context, start)).recent), 0) / (m).n_layer
                         AS n_recent) AS b
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
            FROM gpt2._extend(s.tokens, b.n_past,
                              coalesce((context).past, _advance.past, (start).past), s.recent,
                              new.n, m, steer) AS p
            WHERE new.n > 0
        UNION ALL
            SELECT NULL, NULL WHERE new.n = 0
        ) AS r
        LEFT JOIN LATERAL (
            SELECT c.*
            FROM (SELECT coalesce(r.y[new.n], b.y) AS y WHERE new.at_end OFFSET 0) AS last
            CROSS JOIN LATERAL
                gpt2._next_token(last.y, m, sampler, bounds, s.tokens, b.n_prompt, n_stop, s.bytes)
                    AS c
        ) AS next ON true
        WHERE s.finish_reason IS NULL
          AND s.n_recent < gpt2._chunk()
          AND s.steps - b.steps < burst
          AND (cardinality(s.tokens) > b.n_past + s.n_recent OR cardinality(s.tokens) < n_stop)
    )
    SELECT ROW(
        s.tokens,
        CASE WHEN full_chunk THEN b.n_past + s.n_recent ELSE b.n_past END,
        p.past,
        CASE WHEN NOT full_chunk THEN s.recent END,
        (coalesce(context, start)).y || s.y, s.steps, s.bytes, s.logprobs, s.finish_reason
        )::gpt2._context
    FROM before AS b
    CROSS JOIN (SELECT * FROM step ORDER BY n DESC LIMIT 1) AS s
    CROSS JOIN LATERAL (
        SELECT s.n_recent = gpt2._chunk() AND s.finish_reason IS NULL OFFSET 0) AS c (full_chunk)
    CROSS JOIN LATERAL (
        -- rows of a join and no subquery, whose result is copied
        SELECT r.past
        FROM gpt2._remember(coalesce((context).past, _advance.past, (start).past), s.recent,
                            m) AS r
        WHERE full_chunk
    UNION ALL
        SELECT (context).past WHERE NOT full_chunk
    ) AS p;
END;
COMMENT ON FUNCTION gpt2._advance IS
    'up to a chunk of positions: what is unread, then one for each token that is chosen';


-- An aggregate keeps one state, where a recursive query would keep them all.
CREATE AGGREGATE gpt2._advance_all(
    start gpt2._context, past gpt2._past[], m gpt2.model, n_stop int, burst int,
    sampler gpt2._sampler, bounds gpt2._bounds, steer gpt2.steering[]
) (
    SFUNC = gpt2._advance, STYPE = gpt2._context, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._advance_all(
    gpt2._context, gpt2._past[], gpt2.model, int, int, gpt2._sampler, gpt2._bounds, gpt2.steering[]
) IS 'the context after as many chunks as there are rows';
