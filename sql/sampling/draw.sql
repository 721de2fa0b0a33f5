-- Drawing the next token: the model's logits, processed and filtered, are a distribution, of which
-- a number of the seed draws a token.
-- Temperature 0 is its limit, all on the largest logit (the lower id of equal ones).
-- Source: sample_sequence() and top_k_logits() in openai/gpt-2, src/sample.py.


CREATE FUNCTION gpt2._ranked(ids int[], logits float8[], temperature float8)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH ranked AS (
        SELECT row_number() OVER (ORDER BY l.logit DESC, l.token) AS rank, l.token, l.logit,
               max(l.logit) OVER () AS largest
        FROM gpt2._logit_rows(ids, logits) AS l
    ), weighted AS (
        SELECT r.*, CASE WHEN temperature = 0 THEN (r.rank = 1)::int
                         ELSE gpt2._exp((r.logit - r.largest) / temperature) END AS weight
        FROM ranked AS r
    )
    SELECT w.rank::int, w.token, w.logit, w.weight / sum(w.weight) OVER () FROM weighted AS w;
END;
COMMENT ON FUNCTION gpt2._ranked IS 'tokens likeliest first, with their probabilities';


CREATE FUNCTION gpt2._distribution(
    y vector, m gpt2.model, s gpt2._sampler, tokens int[], n_prompt int, among int[] DEFAULT NULL
) RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT r.rank, r.token, r.logit, r.probability
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._process_logits(u.logits, tokens, n_prompt, m, s, among) AS p
    CROSS JOIN LATERAL gpt2._filter(p.ids, p.logits, s, cardinality(tokens)) AS f
    CROSS JOIN LATERAL gpt2._ranked(f.ids, f.logits, (s).temperature) AS r;
END;
COMMENT ON FUNCTION gpt2._distribution IS
    'the tokens that may follow a position, likeliest first: logit as processed, probability';


CREATE FUNCTION gpt2._top_tokens(y vector, m gpt2.model, top_k int)
RETURNS TABLE (rank int, token int, logit float8, probability float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT row_number() OVER (ORDER BY k.logit DESC, k.token)::int, k.token, k.logit,
           gpt2._exp(k.logit - t.largest) / t.total
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._softmax_total(u.logits, 1) AS t
    CROSS JOIN LATERAL (
        SELECT l.token, l.logit
        FROM gpt2._logit_rows(NULL, u.logits) AS l
        ORDER BY l.logit DESC, l.token
        LIMIT top_k
    ) AS k;
END;
COMMENT ON FUNCTION gpt2._top_tokens IS
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
        FROM gpt2._top_p_rows(_draw.ids, _draw.logits, temperature, u) AS w
        WINDOW likeliest AS (ORDER BY w.logit DESC, w.token ROWS UNBOUNDED PRECEDING)
    ) AS c
    -- where rounding leaves no such token, the last
    ORDER BY c.cumulative <= c.share,
             CASE WHEN c.cumulative <= c.share THEN -c.rank ELSE c.rank END
    LIMIT 1;
END;
COMMENT ON FUNCTION gpt2._draw IS 'the token that a number in [0, 1) stands for';


CREATE FUNCTION gpt2._largest(logits float8[])
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_position(logits, nullif(max(l.logit), '-Infinity'))
    FROM (SELECT unnest(logits) AS logit) AS l;
END;
COMMENT ON FUNCTION gpt2._largest IS
    'where the largest logit is, the first of equal ones; NULL where no token is possible';


CREATE FUNCTION gpt2._draw_processed(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler, among int[]
) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT d.token
    FROM gpt2._process_logits(_draw_processed.logits, tokens, n_prompt, m, s, among) AS p
    CROSS JOIN LATERAL (
        SELECT coalesce(p.ids[i], i - 1) AS token
        FROM gpt2._largest(p.logits) AS i
        WHERE (s).temperature = 0
    UNION ALL
        SELECT d.token
        FROM gpt2._filter(p.ids, p.logits, s, cardinality(tokens)) AS f
        CROSS JOIN LATERAL gpt2._draw(
            f.ids, f.logits, (s).temperature, gpt2._uniform((s).seed, cardinality(tokens))) AS d
        WHERE (s).temperature > 0
    ) AS d;
END;
COMMENT ON FUNCTION gpt2._draw_processed IS
    'the token that is drawn by its processed logits; NULL where none is possible';


CREATE FUNCTION gpt2._log_probability(token int, logits float8[])
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT logits[token + 1] - t.largest - ln(t.total)
    FROM gpt2._softmax_total(logits, 1) AS t;
END;
COMMENT ON FUNCTION gpt2._log_probability IS 'log softmax of the logits at a token';


CREATE FUNCTION gpt2._sample(
    y vector, m gpt2.model, s gpt2._sampler, tokens int[], n_prompt int, among int[]
) RETURNS TABLE (token int, logprob float8)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- Greedy, and s NULL is that too: the first of the largest logits, with no need of the rest,
    -- which is planned where it is used.
    SELECT c.token,
           CASE WHEN (s).logprobs THEN gpt2._log_probability(c.token, c.logits) END
    FROM (
        SELECT u.logits,
               CASE WHEN coalesce((s).plain AND (s).temperature = 0, true) AND among IS NULL
                    THEN gpt2._largest(u.logits) - 1
                    ELSE gpt2._draw_processed(u.logits, tokens, n_prompt, m, s, among)
                    END AS token
        FROM gpt2._unembed(y, m) AS u
        OFFSET 0
    ) AS c
    WHERE c.token IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._sample IS
    'the token that follows a text, y at its end: the likeliest, or drawn; and its logarithm of '
    'probability; no row where no token is possible';
