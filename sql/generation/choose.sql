-- The next token of a completion, and whether the completion ends with it.


CREATE TYPE gpt2._bounds AS (
    stop bytea[],     -- texts before which the completion ends
    choices bytea[],  -- the texts of which it must be one
    whole text,       -- the regular expression it must match,
    "prefix" text     -- and the one that all beginnings of a match match
);
COMMENT ON TYPE gpt2._bounds IS 'where a completion ends, and what it must be';


CREATE FUNCTION gpt2._choose(
    y vector, m gpt2.model, o gpt2._sampling, bounds gpt2._bounds, tokens int[], n_prompt int,
    n_stop int, bytes bytea
) RETURNS TABLE (token int, logprob float8, bytes bytea, finish_reason text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT t.token, t.logprob, _choose.bytes,
           CASE WHEN t.token = (m).eos_token THEN 'eos'
                WHEN cardinality(tokens) + 1 >= n_stop THEN 'length' END
    FROM gpt2._sample(y, m, o, tokens, n_prompt, NULL) AS t;
END;
COMMENT ON FUNCTION gpt2._choose(
    vector, gpt2.model, gpt2._sampling, gpt2._bounds, int[], int, int, bytea
) IS 'the next token, the completion''s bytes with it, and why the completion ends, if it does';
