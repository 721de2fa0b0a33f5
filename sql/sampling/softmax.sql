-- Softmax: logits to probabilities. At a temperature t
--     weight(token) = exp((logit - largest) / t),  probability(token) = weight / total of weights
-- The largest weight is 1, so that no exponential overflows.
-- Logits are float8[n], of the tokens 0 to n - 1, or of the tokens in `ids` where that is not NULL.
-- Source: Bridle 1990; Ackley, Hinton, Sejnowski 1985 for the temperature.


CREATE FUNCTION gpt2._total(logits float8[], temperature float8)
RETURNS TABLE (largest float8, total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT t.largest, t.total
    FROM (
        SELECT x.largest,
               (SELECT sum(exp(greatest((l.logit - x.largest) / temperature, -700)))
                FROM (SELECT unnest(logits) AS logit) AS l) AS total
        FROM (SELECT max(l.logit) AS largest
              FROM (SELECT unnest(logits) AS logit) AS l OFFSET 0) AS x
        WHERE x.largest > '-Infinity'
        OFFSET 0
    ) AS t;
END;
COMMENT ON FUNCTION gpt2._total IS
    'the largest logit and the sum of weights; no row where no token is possible';


CREATE FUNCTION gpt2._possible(ids int[], logits float8[])
RETURNS TABLE (token int, logit float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 50000
BEGIN ATOMIC
    SELECT coalesce(l.id, l.i), l.logit
    FROM (SELECT unnest(ids) AS id, generate_subscripts(logits, 1) - 1 AS i,
                 unnest(logits) AS logit) AS l
    WHERE l.logit > '-Infinity';
END;
COMMENT ON FUNCTION gpt2._possible IS 'logits, a token a row';


CREATE FUNCTION gpt2._likely(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (token int, logit float8, weight float8, total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- What has a probability of p together, likeliest first, is among these; only they need be
    -- sorted: tokens less likely than (1 - p) / n have less than 1 - p together.
    SELECT l.token, l.logit, exp(greatest((l.logit - t.largest) / temperature, -700)), t.total
    FROM (
        SELECT t.largest, t.total,
               t.largest + temperature
                   * ln(0.999 * (1 - p) * t.total / cardinality(_likely.logits)) AS least
        FROM gpt2._total(_likely.logits, temperature) AS t
        OFFSET 0
    ) AS t
    CROSS JOIN LATERAL gpt2._possible(_likely.ids, _likely.logits) AS l
    WHERE l.logit >= t.least
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._likely IS
    'the tokens that may be among the likeliest with a probability of p together, with their '
    'weights and the total of all';
