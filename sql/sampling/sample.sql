-- Choosing the next token: the softmax of the logits is a distribution over the vocabulary.
--     probability(token) = exp(logit / temperature) / sum of the same over the kept tokens
-- Temperature 0 is its limit, all on the largest logit (the lower id of equal ones).
-- Source: sample_sequence() and top_k_logits() in openai/gpt-2, src/sample.py.


CREATE FUNCTION gpt2._uniform(seed bigint, n int)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 52 bits of a hash, not random(): a seed means the same on every server and in every worker
RETURN ('x' || left(encode(sha256(int8send(seed) || int4send(n)), 'hex'), 13))::bit(52)::bigint
       / 4503599627370496::float8;
COMMENT ON FUNCTION gpt2._uniform(bigint, int) IS 'number n of a seed, uniform in [0, 1)';


CREATE FUNCTION gpt2._distribution(y vector, m gpt2.model, temperature float8, top_k int)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT w.rank::int, w.token, w.logit, w.weight / sum(w.weight) OVER ()
    FROM (
        SELECT k.*,
               CASE WHEN temperature = 0 THEN (k.rank = 1)::int
                    -- exp() raises an error below -745, and so does a quotient above 1e308
                    ELSE exp(greatest(k.logit - max(k.logit) OVER (), -700 * temperature)
                             / temperature) END AS weight
        FROM (
            SELECT row_number() OVER (ORDER BY l.logit DESC, l.token) AS rank, l.token, l.logit
            FROM gpt2._logits(y, m) AS l
            ORDER BY l.logit DESC, l.token
            LIMIT top_k
        ) AS k
    ) AS w;
END;
COMMENT ON FUNCTION gpt2._distribution(vector, gpt2.model, float8, int) IS
    'the top_k most likely tokens after a position, all of them if NULL: logit and probability';


CREATE FUNCTION gpt2._likeliest(y vector, m gpt2.model, top_k int)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT row_number() OVER (ORDER BY k.logit DESC, k.token)::int, k.token, k.logit,
           exp(greatest(k.logit - s.largest, -700)) / s.total
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL (SELECT max(l.logit) AS largest
                        FROM (SELECT unnest(u.logits) AS logit) AS l OFFSET 0) AS x
    CROSS JOIN LATERAL (SELECT x.largest, sum(exp(greatest(l.logit - x.largest, -700))) AS total
                        FROM (SELECT unnest(u.logits) AS logit) AS l OFFSET 0) AS s
    CROSS JOIN LATERAL (
        SELECT *
        FROM (SELECT generate_subscripts(u.logits, 1) - 1 AS token, unnest(u.logits) AS logit) AS l
        WHERE l.logit > '-Infinity'
        ORDER BY l.logit DESC, l.token
        LIMIT top_k
    ) AS k;
END;
COMMENT ON FUNCTION gpt2._likeliest(vector, gpt2.model, int) IS
    'the top_k most likely tokens after a position; probabilities are of the whole vocabulary';


CREATE TYPE gpt2._sampling AS (temperature float8, top_k int, seed bigint);
COMMENT ON TYPE gpt2._sampling IS 'how the next token is chosen';


CREATE FUNCTION gpt2._sampling(
    m gpt2.model, temperature float8 DEFAULT 0, top_k int DEFAULT NULL, seed bigint DEFAULT NULL
) RETURNS gpt2._sampling
LANGUAGE sql STABLE PARALLEL SAFE
RETURN ROW(temperature, top_k, seed)::gpt2._sampling;
COMMENT ON FUNCTION gpt2._sampling(gpt2.model, float8, int, bigint) IS 'x';


CREATE FUNCTION gpt2._sample(
    y vector, m gpt2.model, o gpt2._sampling, tokens int[], n_prompt int, "only" int[]
) RETURNS TABLE (token int, logprob float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- greedy: the first of the largest logits; no need of a distribution
    SELECT array_position(
               u.logits, (SELECT max(l.logit) FROM (SELECT unnest(u.logits) AS logit) AS l)) - 1,
           NULL::float8
    FROM gpt2._unembed(y, m) AS u
    WHERE (o).temperature = 0
    UNION ALL
    -- else the token in whose share of [0, 1) the seed's number falls
    (SELECT c.token, NULL
     FROM (
         SELECT d.rank, d.token, sum(d.probability) OVER (ORDER BY d.rank) AS cumulative
         FROM gpt2._distribution(y, m, (o).temperature, (o).top_k) AS d
     ) AS c
     WHERE (o).temperature > 0
     ORDER BY c.cumulative <= gpt2._uniform((o).seed, cardinality(tokens)),
              CASE WHEN c.cumulative <= gpt2._uniform((o).seed, cardinality(tokens))
                   THEN -c.rank ELSE c.rank END
     LIMIT 1);
END;
COMMENT ON FUNCTION gpt2._sample(
    vector, gpt2.model, gpt2._sampling, int[], int, int[]
) IS
    'the token that follows a position: the likeliest, or drawn with the number n of a seed';
