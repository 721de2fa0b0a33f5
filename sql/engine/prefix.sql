-- The prompt cache as a value: what a model made of the beginning that many prompts share.


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


CREATE FUNCTION gpt2._is_matrix(x vector[], n int, width int)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- By its size: a header of 24 bytes, or of 21 where it is small, and 8 for each vector. To look at
-- each would take a tenth of the time to a first token.
RETURN CASE
    WHEN n = 0 THEN coalesce(cardinality(x), 0) = 0
    ELSE array_dims(x) = '[1:' || n::text || ']'
         AND pg_column_size(x) - n * (8 + 4 * width) BETWEEN 21 AND 24 END;
COMMENT ON FUNCTION gpt2._is_matrix IS
    'whether these are as large as n vectors, counted from 1, of a width';


CREATE FUNCTION gpt2._fits(prefix gpt2.prefix, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT s.n_past BETWEEN 0 AND s.n AND s.n <= (m).n_ctx
       AND gpt2._is_matrix((prefix).y, s.n, (m).n_embd)
       AND gpt2._is_matrix((prefix).recent, (s.n - s.n_past) * (m).n_layer, 2 * (m).n_embd)
       AND (SELECT coalesce(bool_and(gpt2._is_moderate(u.x)), true)
            FROM unnest((prefix).y || (prefix).recent) AS u (x))
       AND CASE
           WHEN s.n_past = 0 THEN coalesce(cardinality((prefix).past), 0) = 0
           ELSE array_dims((prefix).past) = '[1:' || ((m).n_layer * (m).n_head)::text || ']'
                -- in the list of a SELECT unnest hands on what is there; in FROM it copies it all
                AND (SELECT bool_and(coalesce(gpt2._is_matrix((u.p).k, s.n_past, s.d)
                                              AND gpt2._is_matrix((u.p).v, s.d, s.n_past), false))
                     FROM (SELECT unnest((prefix).past) AS p) AS u) END
    FROM (SELECT cardinality((prefix).tokens) AS n, (prefix).n_past,
                 (m).n_embd / (m).n_head AS d) AS s;
END;
COMMENT ON FUNCTION gpt2._fits IS
    'whether a prefix has the form of what a model computes; NULL where a part of it is';


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
               format('Make it again: SELECT gpt2_prefix(prompt, %s);', quote_literal((m).name)))
       -- as a value of a type that anybody may write, it may hold anything
       AND gpt2._assert(gpt2._fits(prefix, m), 'invalid_parameter_value',
               format('the prefix does not fit model "%s"', (m).name),
               'Its lists and vectors are not of the form in which gpt2_prefix makes them.',
               format('Make one: SELECT gpt2_prefix(prompt, %s);', quote_literal((m).name)));
END;
COMMENT ON FUNCTION gpt2._check_prefix IS 'true, or an error where a model did not compute this';


CREATE FUNCTION gpt2._resume_from(prefix gpt2.prefix, tokens int[], m gpt2.model)
RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- As much of the prefix as the tokens begin with. A chunk begins where it would without one, so
    -- that the result is the same to the last bit: of the past, whole chunks are kept.
    SELECT ROW(
        tokens, c.n_past,
        CASE WHEN c.n_past = (prefix).n_past THEN (prefix).past
             ELSE (SELECT p.past FROM gpt2._cut_past((prefix).past, c.n_past) AS p) END,
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
COMMENT ON FUNCTION gpt2._resume_from IS 'the context of a prompt, as far as a prefix has it read';
