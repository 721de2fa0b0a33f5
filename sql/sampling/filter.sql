-- Filters: of the tokens that are possible only the likeliest, or most typical, are kept. Each is
-- applied to the distribution that the one before left, and keeps at least one token.
-- Exactly top_k are kept, and no more of equal logits: by (logit DESC, token). transformers keeps
-- all that equal the last; top_p and typical_p cut equal ones there too, here in that order.
-- [n] -> [n_kept], twice: ids and their logits; ids NULL are the tokens 0, 1, ...
-- Source: transformers' TopK, TopP, MinP and TypicalLogitsWarper, in that order.


CREATE FUNCTION gpt2._top_k(ids int[], logits float8[], k int)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _top_k.ids, _top_k.logits
    WHERE k IS NULL
UNION ALL
    SELECT array_agg(t.token), array_agg(t.logit)
    FROM (SELECT p.token, p.logit
          FROM gpt2._possible(_top_k.ids, _top_k.logits) AS p
          ORDER BY p.logit DESC, p.token
          LIMIT k) AS t
    HAVING k IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._top_k IS 'the k likeliest tokens; k NULL: all';


CREATE FUNCTION gpt2._top_p(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _top_p.ids, _top_p.logits
    WHERE p IS NULL
UNION ALL
    -- up to where their probabilities add up to p
    SELECT array_agg(c.token), array_agg(c.logit)
    FROM (
        SELECT w.token, w.logit,
               sum(w.weight) OVER (ORDER BY w.logit DESC, w.token
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
               p * w.total AS enough
        FROM gpt2._likely(_top_p.ids, _top_p.logits, temperature, p) AS w
    ) AS c
    WHERE coalesce(c.before < c.enough, true)
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._top_p IS
    'the likeliest tokens that have a probability of p together; p NULL: all';


CREATE FUNCTION gpt2._min_p(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _min_p.ids, _min_p.logits
    WHERE p IS NULL
UNION ALL
    SELECT array_agg(l.token), array_agg(l.logit)
    FROM (SELECT max(l.logit) + temperature * ln(p) AS least
          FROM (SELECT unnest(_min_p.logits) AS logit) AS l
          OFFSET 0) AS t
    CROSS JOIN LATERAL gpt2._possible(_min_p.ids, _min_p.logits) AS l
    WHERE l.logit >= t.least
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._min_p IS
    'the tokens at least p times as likely as the likeliest; p NULL: all';


CREATE FUNCTION gpt2._typical(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- The tokens whose surprisal -ln(probability) is nearest to its mean, the entropy, up to where
    -- their probabilities add up to p. With x = (logit - largest) / temperature the distance is
    -- |x - mean of x|: the logarithm of the total falls out.
    -- Only what can be among them is sorted. No token is as far above the mean as one with x below
    -- twice the mean is under it; so beyond such a one there are only less likely ones, and if it
    -- is less likely than (1 - p) / n, it and they have less than 1 - p together.
    SELECT _typical.ids, _typical.logits
    WHERE p IS NULL
UNION ALL
    SELECT array_agg(c.token), array_agg(c.logit)
    FROM (
        SELECT d.token, d.logit,
               sum(d.weight) OVER (ORDER BY d.distance, d.token
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
               d.enough
        FROM (
            SELECT x.token, x.logit, abs(x.x - x.mean) AS distance, exp(x.x) AS weight, x.enough
            FROM (
                SELECT l.token, l.logit, t.mean, t.enough,
                       greatest((l.logit - t.largest) / temperature, -700) AS x
                FROM (
                    SELECT t.largest, t.mean, p * t.total AS enough,
                           t.largest + temperature * least(
                               2 * t.mean,
                               ln(0.999 * (1 - p) * t.total / cardinality(_typical.logits)))
                               AS least
                    FROM (
                        SELECT t.largest, t.total, m.mean
                        FROM gpt2._total(_typical.logits, temperature) AS t
                        CROSS JOIN LATERAL (
                            SELECT sum(exp(x.x) * x.x) / t.total AS mean
                            FROM (SELECT greatest((l.logit - t.largest) / temperature, -700) AS x
                                  FROM (SELECT unnest(_typical.logits) AS logit) AS l
                                  OFFSET 0) AS x
                        ) AS m
                        OFFSET 0
                    ) AS t
                    OFFSET 0
                ) AS t
                CROSS JOIN LATERAL gpt2._possible(_typical.ids, _typical.logits) AS l
                WHERE l.logit >= t.least
                OFFSET 0
            ) AS x
            OFFSET 0
        ) AS d
    ) AS c
    WHERE coalesce(c.before < c.enough, true)
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._typical IS
    'the most typical tokens that have a probability of p together; p NULL: all';


CREATE TYPE gpt2._kept AS (
    ids int[],
    logits float8[]
);
COMMENT ON TYPE gpt2._kept IS 'the tokens that a filter kept';


CREATE FUNCTION gpt2._kept(ids int[], logits float8[], o gpt2._sampling)
RETURNS gpt2._kept
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT ROW(c.ids, c.logits)::gpt2._kept
    FROM gpt2._top_p(_kept.ids, _kept.logits, (o).temperature, (o).top_p) AS a
    CROSS JOIN LATERAL gpt2._min_p(a.ids, a.logits, (o).temperature, (o).min_p) AS b
    CROSS JOIN LATERAL gpt2._typical(b.ids, b.logits, (o).temperature, (o).typical_p) AS c;
END;
COMMENT ON FUNCTION gpt2._kept IS 'the filters after top_k, which are planned where they are used';


CREATE FUNCTION gpt2._filter(ids int[], logits float8[], o gpt2._sampling)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT (r.kept).ids, (r.kept).logits
    FROM (
        SELECT f.temperature > 0 AND f.more AS more,
               -- at temperature 0 all is on one token, which the filters after top_k keep alone
               CASE WHEN f.temperature = 0 AND f.more THEN 1 ELSE f.top_k END AS top_k
        FROM (SELECT (o).temperature, (o).top_k,
                     coalesce((o).top_p, (o).min_p, (o).typical_p) IS NOT NULL AS more) AS f
        OFFSET 0
    ) AS f
    CROSS JOIN LATERAL gpt2._top_k(_filter.ids, _filter.logits, f.top_k) AS k
    CROSS JOIN LATERAL (
        SELECT CASE WHEN f.more THEN gpt2._kept(k.ids, k.logits, o)
                    ELSE ROW(k.ids, k.logits)::gpt2._kept END AS kept
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._filter IS 'the tokens that may be chosen, with their logits, in no order';
