-- Filters: of the tokens that are possible only the likeliest, or most typical, are kept. Each is
-- applied to the distribution that the one before left, and keeps at least one token.
-- Exactly top_k are kept, and no more of equal logits: by (logit DESC, token). transformers keeps
-- all that equal the last; top_p and typical_p cut equal ones there too, here in that order.
-- [n] -> [n_kept], twice: ids and their logits; ids NULL are the tokens 0, 1, ...
-- Source: llama.cpp's llama_sampler_top_n_sigma, transformers' TopK, TopP, MinP and
-- TypicalLogitsWarper, llama.cpp's llama_sampler_xtc, in that order.


CREATE FUNCTION gpt2._top_n_sigma(ids int[], logits float8[], n float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _top_n_sigma.ids, _top_n_sigma.logits
    WHERE n IS NULL
UNION ALL
    SELECT array_agg(l.token), array_agg(l.logit)
    -- scaled, and back: squares of logits that were multiplied by a penalty could overflow
    FROM (SELECT max(l.logit) - greatest(n, 1e-50) * 1e100 * stddev_pop(l.logit * 1e-100) AS least
          FROM gpt2._logit_rows(_top_n_sigma.ids, _top_n_sigma.logits) AS l) AS t
    CROSS JOIN LATERAL gpt2._logit_rows(_top_n_sigma.ids, _top_n_sigma.logits) AS l
    WHERE l.logit >= t.least
    HAVING n IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._top_n_sigma IS
    'the tokens whose logits are within n standard deviations of the largest; n NULL: all';


CREATE FUNCTION gpt2._top_k(ids int[], logits float8[], k int)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _top_k.ids, _top_k.logits
    WHERE k IS NULL
UNION ALL
    SELECT array_agg(t.token), array_agg(t.logit)
    FROM (SELECT p.token, p.logit
          FROM gpt2._logit_rows(_top_k.ids, _top_k.logits) AS p
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
        FROM gpt2._top_p_rows(_top_p.ids, _top_p.logits, temperature, p) AS w
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
          FROM (SELECT unnest(_min_p.logits) AS logit) AS l) AS t
    CROSS JOIN LATERAL gpt2._logit_rows(_min_p.ids, _min_p.logits) AS l
    WHERE l.logit >= t.least
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._min_p IS
    'the tokens at least p times as likely as the likeliest; p NULL: all';


CREATE FUNCTION gpt2._typical_p(ids int[], logits float8[], temperature float8, p float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- The tokens whose surprisal -ln(probability) is nearest to its mean, the entropy, up to where
    -- their probabilities add up to p. With x = (logit - largest) / temperature the distance is
    -- |x - mean of x|: the logarithm of the total falls out.
    -- Only what can be among them is sorted. No token is as far above the mean as one with x below
    -- twice the mean is under it; so beyond such a one there are only less likely ones, and if it
    -- is less likely than (1 - p) / n, it and they have less than 1 - p together.
    WITH softmax AS (
        SELECT t.largest, t.total,
               (SELECT sum(gpt2._exp(x.x) * greatest(x.x, -700))
                FROM (SELECT (unnest(_typical_p.logits) - t.largest) / temperature AS x) AS x)
                   / t.total AS mean
        FROM gpt2._softmax_total(_typical_p.logits, temperature) AS t
        WHERE p IS NOT NULL
    ), bound AS (
        SELECT s.largest, s.mean, p * s.total AS enough,
               s.largest + temperature * least(
                   2 * s.mean,
                   ln(0.999 * (1 - p) * s.total / cardinality(_typical_p.logits))) AS least
        FROM softmax AS s
    )
    SELECT _typical_p.ids, _typical_p.logits
    WHERE p IS NULL
UNION ALL
    SELECT array_agg(c.token), array_agg(c.logit)
    FROM (
        SELECT d.token, d.logit, b.enough,
               sum(gpt2._exp(d.x)) OVER (ORDER BY abs(d.x - b.mean), d.token
                                         ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                   AS before
        FROM bound AS b
        CROSS JOIN LATERAL (
            SELECT l.token, l.logit, greatest((l.logit - b.largest) / temperature, -700) AS x
            FROM gpt2._logit_rows(_typical_p.ids, _typical_p.logits) AS l
            WHERE l.logit >= b.least
        ) AS d
    ) AS c
    WHERE coalesce(c.before < c.enough, true)
    HAVING p IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._typical_p IS
    'the most typical tokens that have a probability of p together; p NULL: all';


CREATE FUNCTION gpt2._xtc(ids int[], logits float8[], temperature float8, threshold float8)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT _xtc.ids, _xtc.logits
    WHERE threshold IS NULL
UNION ALL
    -- Those that have this probability ("top choices") are excluded down to the least likely of
    -- them, of equal ones the last, with which the rest begins; where there is none, none.
    SELECT array_agg(l.token), array_agg(l.logit)
    FROM gpt2._softmax_total(_xtc.logits, temperature) AS t
    LEFT JOIN LATERAL (
        SELECT p.token, p.logit
        FROM gpt2._logit_rows(_xtc.ids, _xtc.logits) AS p
        WHERE gpt2._exp((p.logit - t.largest) / temperature) >= threshold * t.total
        ORDER BY p.logit, p.token DESC
        LIMIT 1
    ) AS first ON true
    CROSS JOIN LATERAL gpt2._logit_rows(_xtc.ids, _xtc.logits) AS l
    WHERE coalesce((l.logit, -l.token) <= (first.logit, -first.token), true)
    HAVING threshold IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._xtc IS
    'without the top choices: those of at least this probability but for the least likely of them; '
    'threshold NULL: all';


CREATE TYPE gpt2._candidates AS (
    ids int[],
    logits float8[]
);
COMMENT ON TYPE gpt2._candidates IS 'tokens that may be chosen, with their logits';


CREATE FUNCTION gpt2._filter_by_probability(
    ids int[], logits float8[], temperature float8, o gpt2._options, excludes_top boolean
) RETURNS gpt2._candidates
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT ROW(d.ids, d.logits)::gpt2._candidates
    FROM gpt2._top_p(_filter_by_probability.ids, _filter_by_probability.logits, temperature,
                     nullif((o).top_p, 1)) AS a
    CROSS JOIN LATERAL gpt2._min_p(a.ids, a.logits, temperature, nullif((o).min_p, 0)) AS b
    CROSS JOIN LATERAL
        gpt2._typical_p(b.ids, b.logits, temperature, nullif((o).typical_p, 1)) AS c
    CROSS JOIN LATERAL
        gpt2._xtc(c.ids, c.logits, temperature,
                  CASE WHEN excludes_top THEN coalesce((o).xtc_threshold, 0.1) END) AS d;
END;
COMMENT ON FUNCTION gpt2._filter_by_probability IS
    'the filters after top_k, which are planned where they are used';


CREATE FUNCTION gpt2._filter(ids int[], logits float8[], s gpt2._sampler, n int)
RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT (r.kept).ids, (r.kept).logits
    FROM (
        -- at temperature 0 all is on one token, which the other filters keep
        SELECT f.temperature, f.o, f.excludes_top,
               f.temperature > 0 AND (f.excludes_top OR coalesce(
                   nullif((f.o).top_p, 1), nullif((f.o).min_p, 0), nullif((f.o).typical_p, 1))
                   IS NOT NULL) AS by_probability,
               CASE WHEN f.temperature > 0 THEN nullif((f.o).top_n_sigma, 0) END AS top_n_sigma,
               CASE WHEN f.temperature = 0 AND coalesce((f.o).top_p, (f.o).min_p, (f.o).typical_p)
                         IS NOT NULL THEN 1 ELSE (f.o).top_k END AS top_k
        FROM (SELECT (s).temperature, (s).options AS o,
                     -- a number of its own: that of the choice itself says nothing about this one
                     coalesce(gpt2._uniform((s).seed, -n) < ((s).options).xtc_probability, false)
                         AS excludes_top
              OFFSET 0) AS f
    ) AS f
    CROSS JOIN LATERAL gpt2._top_n_sigma(_filter.ids, _filter.logits, f.top_n_sigma) AS g
    CROSS JOIN LATERAL gpt2._top_k(g.ids, g.logits, f.top_k) AS k
    CROSS JOIN LATERAL (
        SELECT CASE WHEN f.by_probability
                    THEN gpt2._filter_by_probability(k.ids, k.logits, f.temperature, f.o,
                                                     f.excludes_top)
                    ELSE ROW(k.ids, k.logits)::gpt2._candidates END AS kept
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._filter IS
    'the tokens that may be chosen after n others, with their logits, in no order';
