-- Generation: choose a token, put it at the end, and ask again.
-- Source: sample_sequence() in openai/gpt-2, src/sample.py.


CREATE FUNCTION gpt2._random_seed()
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
-- random() is not allowed in a parallel worker; the first 48 bits of a UUID are random too
RETURN ('x' || left(translate(gen_random_uuid()::text, '-', ''), 12))::bit(48)::bigint;
COMMENT ON FUNCTION gpt2._random_seed() IS 'a fresh seed';


CREATE FUNCTION gpt2_generate(
    prompt text, max_tokens int DEFAULT 32, temperature float8 DEFAULT 0, top_k int DEFAULT NULL,
    seed bigint DEFAULT NULL, echo boolean DEFAULT true, model text DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL, patch gpt2.activation[] DEFAULT NULL
) RETURNS text
LANGUAGE sql VOLATILE PARALLEL SAFE COST 1000000
SET jit = off
SET enable_bitmapscan = off
SET enable_seqscan = off
SET enable_memoize = off
SET work_mem = '1GB'
BEGIN ATOMIC
    WITH input AS MATERIALIZED (
        SELECT i.*
        FROM gpt2._input(prompt, gpt2_generate.model, gpt2_generate.steer, gpt2_generate.patch)
            AS i
        WHERE gpt2._check_sampling(temperature, top_k)
          AND gpt2._assert(max_tokens >= 0, 'invalid_parameter_value',
                  'max_tokens must be 0 or more',
                  format('It is %s.', coalesce(max_tokens::text, 'NULL')),
                  'Use 0 to add nothing, or leave it out for 32.')
    ), span AS MATERIALIZED (
        SELECT i.*, cardinality(i.tokens) AS n_prompt,
               least(cardinality(i.tokens) + max_tokens::bigint, (i.m).n_ctx)::int AS n_stop,
               coalesce(gpt2_generate.seed, gpt2._random_seed()) AS seed
        FROM input AS i
    )
    SELECT CASE WHEN echo THEN prompt ELSE '' END
        || gpt2_detokenize(
               coalesce(array_remove((c.context).tokens[s.n_prompt + 1:], (s.m).eos_token), '{}'),
               (s.m).name)
    FROM span AS s
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.n_stop > s.n_prompt
                    THEN gpt2._run(gpt2._start(s.tokens, s.m, s.steer, s.patch), s.m, s.n_stop,
                                   ROW(temperature, top_k, s.seed)::gpt2._sampling,
                                   steer => s.steer)
               END AS context
    ) AS c;
END;
COMMENT ON FUNCTION gpt2_generate(
    text, int, float8, int, bigint, boolean, text, gpt2.steering[], gpt2.activation[]
) IS
    'continues a text by up to max_tokens tokens; temperature 0 is greedy; NULL for NULL';
