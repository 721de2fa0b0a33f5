-- Softmax: logits to probabilities. At a temperature t
--     weight(token) = exp((logit - largest) / t),  probability(token) = weight / total of weights
-- The largest weight is 1, so that no exponential overflows.
-- Logits are float8[n], of the tokens 0 to n - 1, or of the tokens in `ids` where that is not NULL;
-- that of a token that is not possible is -Infinity.
-- Source: Bridle 1990; Ackley, Hinton, Sejnowski 1985 for the temperature.


CREATE FUNCTION gpt2._softmax_total(logits float8[], temperature float8)
RETURNS TABLE (largest float8, total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH top AS (
        SELECT max(l.logit) AS largest FROM (SELECT unnest(logits) AS logit) AS l
    )
    SELECT t.largest,
           (SELECT sum(gpt2._exp((l.logit - t.largest) / temperature))
            FROM (SELECT unnest(logits) AS logit) AS l)
    FROM top AS t
    WHERE t.largest > '-Infinity';
END;
COMMENT ON FUNCTION gpt2._softmax_total IS
    'the largest logit and the sum of weights; no row where no token is possible';


CREATE FUNCTION gpt2._logit_rows(ids int[], logits float8[])
RETURNS TABLE (token int, logit float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 50000
BEGIN ATOMIC
    SELECT coalesce(l.id, l.i), l.logit
    FROM (SELECT unnest(ids) AS id, generate_subscripts(logits, 1) - 1 AS i,
                 unnest(logits) AS logit) AS l
    WHERE l.logit > '-Infinity';
END;
COMMENT ON FUNCTION gpt2._logit_rows IS
    'the tokens that are possible, with their logits, a row each';


CREATE FUNCTION gpt2._top_p_rows(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (token int, logit float8, weight float8, total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- What has a probability of p together, likeliest first, is among these; only they need be
    -- sorted: tokens less likely than (1 - p) / n have less than 1 - p together.
    SELECT l.token, l.logit, gpt2._exp((l.logit - t.largest) / temperature), t.total
    FROM (
        SELECT t.largest, t.total,
               t.largest + temperature
                   * ln(0.999 * (1 - p) * t.total / cardinality(_top_p_rows.logits)) AS least
        FROM gpt2._softmax_total(_top_p_rows.logits, temperature) AS t
    ) AS t
    CROSS JOIN LATERAL gpt2._logit_rows(_top_p_rows.ids, _top_p_rows.logits) AS l
    WHERE l.logit >= t.least;
END;
COMMENT ON FUNCTION gpt2._top_p_rows IS
    'the tokens that may be among the likeliest with a probability of p together, with their '
    'weights and the total of all';
