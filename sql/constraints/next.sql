-- The next token of a completion, and whether the completion ends with it. Where it must be one of
-- some choices, or match a pattern, only tokens are chosen after which that is still possible.


CREATE FUNCTION gpt2._next_token(
    y vector, m gpt2.model, sampler gpt2._sampler, bounds gpt2._bounds, tokens int[], n_prompt int,
    n_stop int, bytes bytea
) RETURNS TABLE (token int, logprob float8, bytes bytea, finish_reason text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- A completion that is what it must be may end. It does where the model would rather say
    -- something that the bounds exclude: a number ends at the space that the model wants.
    SELECT n.token, c.logprob, b.bytes,
           CASE WHEN n.token IS NULL
                THEN CASE WHEN (p.state).complete THEN 'stop' ELSE 'constraint' END
                WHEN n.token = ANY ((m).eos_tokens) THEN 'eos'
                WHEN length(e.bytes) < length(b.bytes)
                THEN CASE WHEN coalesce((e.state).complete, true) THEN 'stop'
                          ELSE 'constraint' END
                WHEN (e.state).complete AND (e.state).final THEN 'stop'
                WHEN cardinality(tokens) + 1 >= n_stop
                THEN CASE WHEN coalesce((e.state).complete, true) THEN 'length'
                          ELSE 'constraint' END END
    FROM (
        -- what is possible, and whether that is all that may be chosen
        SELECT s.*, CASE WHEN NOT (s.state).complete
                           OR cardinality(tokens) - n_prompt < ((sampler).options).min_tokens
                         THEN s.possible END AS among
        FROM (
            SELECT CASE WHEN bounds IS DISTINCT FROM NULL
                        THEN gpt2._possible_tokens(_next_token.bytes, bounds, m) END AS possible,
                   CASE WHEN bounds IS DISTINCT FROM NULL
                        THEN gpt2._completion_state(_next_token.bytes, bounds) END AS state
            OFFSET 0
        ) AS s
    ) AS p
    LEFT JOIN LATERAL gpt2._sample(y, m, sampler, tokens, n_prompt, p.among) AS c ON true
    CROSS JOIN LATERAL (
        SELECT CASE WHEN p.possible IS NULL OR c.token = ANY (p.possible) THEN c.token END AS token
    ) AS n
    CROSS JOIN LATERAL (
        SELECT CASE WHEN n.token = ANY ((m).eos_tokens) OR n.token IS NULL THEN _next_token.bytes
                    ELSE _next_token.bytes || (SELECT t.bytes FROM gpt2.token AS t
                                         WHERE t.tokenizer = (m).tokenizer AND t.token = n.token)
                    END AS bytes
        OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT s.bytes, CASE WHEN bounds IS DISTINCT FROM NULL
                             THEN gpt2._completion_state(s.bytes, bounds) END AS state
        FROM (SELECT CASE WHEN bounds IS DISTINCT FROM NULL
                          THEN gpt2._until_stop(b.bytes, (bounds).stop) END AS bytes
              OFFSET 0) AS s
        OFFSET 0
    ) AS e;
END;
COMMENT ON FUNCTION gpt2._next_token IS
    'the next token, the completion''s bytes with it, and why the completion ends, if it does';
