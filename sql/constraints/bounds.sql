-- What a completion must be: where it ends, and which tokens may come next.


CREATE TYPE gpt2._bounds AS (
    stop bytea[],          -- texts before which the completion ends
    choices bytea[],       -- the texts of which it must be one
    longest int,           -- length of the longest token, in bytes; where there are choices
    pattern gpt2._pattern  -- what it must match; where there are no choices
);
COMMENT ON TYPE gpt2._bounds IS 'where a completion ends, and what it must be';


CREATE FUNCTION gpt2._bounds(o gpt2._options, m gpt2.model)
RETURNS gpt2._bounds
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- With both, the choices that match the pattern.
    SELECT ROW(
        (SELECT array_agg(convert_to(s.text, 'UTF8')) FROM unnest((o).stop) AS s (text)
         WHERE s.text IS NOT NULL),
        CASE WHEN (o).choices IS NOT NULL THEN ARRAY(
            SELECT DISTINCT convert_to(c.text, 'UTF8')
            FROM (SELECT gpt2._whole_pattern((o).pattern) AS whole
                  WHERE (o).pattern IS NULL OR gpt2._check_pattern((o).pattern)) AS p
            CROSS JOIN unnest((o).choices) AS c (text)
            WHERE c.text IS NOT NULL AND (p.whole IS NULL OR c.text ~ p.whole)) END,
        CASE WHEN (o).choices IS NOT NULL
             THEN (SELECT max(length(t.bytes)) FROM gpt2.token AS t
                   WHERE t.tokenizer = (m).tokenizer AND t.token < (m).n_token) END,
        CASE WHEN (o).choices IS NULL AND (o).pattern IS NOT NULL
             THEN gpt2._pattern((o).pattern, m) END)::gpt2._bounds
    WHERE gpt2._assert('' = ANY ((o).stop) IS NOT TRUE, 'invalid_parameter_value',
        'stop has an empty text', 'Every text contains it, and would end before it begins.',
        'Leave it out: array_remove(stop, '''').');
END;
COMMENT ON FUNCTION gpt2._bounds IS
    'what a completion must be, ready to be asked at each token; NULL elements count for nothing';


CREATE FUNCTION gpt2._choice_tokens(bytes bytea, bounds gpt2._bounds, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The trie of the choices, from where the completion stands: what each of those that begin so
    -- goes on with, of every length, as far as it is a token.
    SELECT ARRAY(
        SELECT t.token
        FROM (
            SELECT (SELECT min(t.token) FROM gpt2.token AS t
                    WHERE t.tokenizer = (m).tokenizer AND t.bytes = p.piece AND t.mergeable
                      AND t.token < (m).n_token AND t.token <> ALL ((m).eos_tokens)) AS token
            FROM (
                SELECT DISTINCT substring(c.choice FROM length(_choice_tokens.bytes) + 1 FOR n)
                FROM unnest((bounds).choices) AS c (choice)
                CROSS JOIN LATERAL generate_series(
                    1, least(length(c.choice) - length(_choice_tokens.bytes), (bounds).longest))
                    AS n
                WHERE substring(c.choice FOR length(_choice_tokens.bytes)) = _choice_tokens.bytes
            ) AS p (piece)
        ) AS t
        WHERE t.token IS NOT NULL);
END;
COMMENT ON FUNCTION gpt2._choice_tokens IS
    'tokens after which a completion can still become one of its choices';


CREATE FUNCTION gpt2._possible_tokens(bytes bytea, bounds gpt2._bounds, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN (bounds).choices IS NOT NULL THEN gpt2._choice_tokens(bytes, bounds, m)
    WHEN ((bounds).pattern).whole IS NOT NULL
    THEN coalesce(gpt2._pattern_tokens(bytes, (bounds).pattern, m), '{}') END;
COMMENT ON FUNCTION gpt2._possible_tokens IS
    'tokens after which a completion can still become what it must be; NULL: all';


CREATE TYPE gpt2._completion_state AS (
    complete boolean,  -- it is what it must be
    final boolean      -- and can become nothing else
);
COMMENT ON TYPE gpt2._completion_state IS 'how far a completion is';


CREATE FUNCTION gpt2._completion_state(bytes bytea, bounds gpt2._bounds)
RETURNS gpt2._completion_state
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT _completion_state.bytes = ANY ((bounds).choices),
           NOT EXISTS (
               SELECT FROM unnest((bounds).choices) AS c (choice)
               WHERE substring(c.choice FOR length(_completion_state.bytes))
                         = _completion_state.bytes
                 AND c.choice <> _completion_state.bytes)
    WHERE (bounds).choices IS NOT NULL
UNION ALL
    SELECT p.is_complete, NOT p.goes_on
    FROM gpt2._pattern_state(_completion_state.bytes, (bounds).pattern) AS p
    WHERE ((bounds).pattern).whole IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._completion_state IS
    'how far a completion is; NULL where it need not be anything';
