-- Choosing the next token: the model's logits, processed and filtered, are a distribution, of which
-- a number of the seed picks a token.
-- Temperature 0 is its limit, all on the largest logit (the lower id of equal ones).
-- Source: sample_sequence() and top_k_logits() in openai/gpt-2, src/sample.py.


CREATE FUNCTION gpt2._uniform(seed bigint, n int)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 52 bits of a hash, not random(): a seed means the same on every server and in every worker
RETURN ('x' || left(encode(sha256(int8send(seed) || int4send(n)), 'hex'), 13))::bit(52)::bigint
       / 4503599627370496::float8;
COMMENT ON FUNCTION gpt2._uniform IS 'number n of a seed, uniform in [0, 1)';


CREATE FUNCTION gpt2._ranked(ids int[], logits float8[], temperature float8)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT w.rank::int, w.token, w.logit, w.weight / sum(w.weight) OVER ()
    FROM (
        SELECT k.*,
               CASE WHEN temperature = 0 THEN (k.rank = 1)::int
                    ELSE exp(greatest((k.logit - max(k.logit) OVER ()) / temperature, -700))
               END AS weight
        FROM (
            SELECT row_number() OVER (ORDER BY l.logit DESC, l.token) AS rank, l.token, l.logit
            FROM gpt2._possible(ids, logits) AS l
        ) AS k
    ) AS w;
END;
COMMENT ON FUNCTION gpt2._ranked IS 'tokens likeliest first, with their probabilities';


CREATE FUNCTION gpt2._distribution(
    y vector, m gpt2.model, o gpt2._sampling, tokens int[], n_prompt int, among int[] DEFAULT NULL
) RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT r.rank, r.token, r.logit, r.probability
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._process(u.logits, tokens, n_prompt, m, o, among) AS p
    CROSS JOIN LATERAL gpt2._filter(p.ids, p.logits, o) AS f
    CROSS JOIN LATERAL gpt2._ranked(f.ids, f.logits, (o).temperature) AS r;
END;
COMMENT ON FUNCTION gpt2._distribution IS
    'the tokens that may follow a position, likeliest first: logit as processed, probability';


CREATE FUNCTION gpt2._likeliest(y vector, m gpt2.model, top_k int)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT row_number() OVER (ORDER BY k.logit DESC, k.token)::int, k.token, k.logit,
           exp(greatest(k.logit - s.largest, -700)) / s.total
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._total(u.logits, 1) AS s
    CROSS JOIN LATERAL (
        SELECT l.token, l.logit
        FROM gpt2._possible(NULL, u.logits) AS l
        ORDER BY l.logit DESC, l.token
        LIMIT top_k
    ) AS k;
END;
COMMENT ON FUNCTION gpt2._likeliest IS
    'the top_k most likely tokens after a position; probabilities are of the whole vocabulary';


CREATE FUNCTION gpt2._draw(ids int[], logits float8[], temperature float8, u float8)
RETURNS TABLE (token int)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- the token in whose share of [0, 1), likeliest first, u falls
    SELECT c.token
    FROM (
        SELECT w.token, u * w.total AS share, row_number() OVER likeliest AS rank,
               sum(w.weight) OVER likeliest AS cumulative
        FROM gpt2._likely(_draw.ids, _draw.logits, temperature, u) AS w
        WINDOW likeliest AS (ORDER BY w.logit DESC, w.token ROWS UNBOUNDED PRECEDING)
    ) AS c
    -- where rounding leaves no such token, the last
    ORDER BY c.cumulative <= c.share,
             CASE WHEN c.cumulative <= c.share THEN -c.rank ELSE c.rank END
    LIMIT 1;
END;
COMMENT ON FUNCTION gpt2._draw IS 'the token that a number in [0, 1) stands for';


CREATE FUNCTION gpt2._choose(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, o gpt2._sampling, among int[]
) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN (o).temperature = 0 THEN (
            SELECT coalesce(p.ids[i.i], i.i - 1)
            FROM (SELECT array_position(p.logits, x.largest) AS i
                  FROM (SELECT max(l.logit) AS largest
                        FROM (SELECT unnest(p.logits) AS logit) AS l) AS x
                  WHERE x.largest > '-Infinity'
                  OFFSET 0) AS i)
        ELSE (
            SELECT d.token
            FROM gpt2._filter(p.ids, p.logits, o) AS f
            CROSS JOIN (SELECT gpt2._uniform((o).seed, cardinality(tokens)) OFFSET 0) AS u (u)
            CROSS JOIN LATERAL gpt2._draw(f.ids, f.logits, (o).temperature, u.u) AS d)
        END
    FROM gpt2._process(_choose.logits, tokens, n_prompt, m, o, among) AS p;
END;
COMMENT ON FUNCTION gpt2._choose IS
    'the token that is chosen by its logits; NULL where none is possible';


CREATE FUNCTION gpt2._log_probability(token int, logits float8[])
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT logits[token + 1] - t.largest - ln(t.total)
    FROM gpt2._total(logits, 1) AS t;
END;
COMMENT ON FUNCTION gpt2._log_probability IS 'log softmax of the logits at a token';


CREATE FUNCTION gpt2._sample(
    y vector, m gpt2.model, o gpt2._sampling, tokens int[], n_prompt int, among int[]
) RETURNS TABLE (token int, logprob float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Greedy, and o NULL is that too: the first of the largest logits, with no need of the rest,
    -- which is planned where it is used.
    SELECT c.token,
           CASE WHEN (o).logprobs THEN gpt2._log_probability(c.token, c.logits) END
    FROM (
        SELECT u.logits,
               CASE WHEN coalesce((o).plain AND (o).temperature = 0, true) AND among IS NULL
                    THEN array_position(u.logits, (
                             SELECT max(l.logit) FROM (SELECT unnest(u.logits) AS logit) AS l)) - 1
                    ELSE gpt2._choose(u.logits, tokens, n_prompt, m, o, among) END AS token
        FROM gpt2._unembed(y, m) AS u
        OFFSET 0
    ) AS c
    WHERE c.token IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._sample IS
    'the token that follows a text, y at its end: the likeliest, or drawn; and its logarithm of '
    'probability; no row where no token is possible';
