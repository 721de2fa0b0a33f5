-- How well the model expected a text: log P(token | those before it), token by token, and over all
-- of it.  [n_seq, n_embd] -> [n_seq, n_vocab] -> a row a token
-- Source: Radford et al. 2019, table 3; Hugging Face, "Perplexity of fixed-length models"
-- (huggingface.co/docs/transformers/perplexity).


CREATE FUNCTION gpt2._score(logits float8[], token int)
RETURNS TABLE (log_total float8, logprob float8, rank int, entropy float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- log softmax(x) = x - log sum(exp(x)). Two scans over the logits, as the largest is taken off
    -- before exp: 8 ms for GPT-2's 50257; the logits themselves take 38.
    SELECT x.largest + ln(e.total), t.logit - x.largest - ln(e.total),
           -- of equal ones, those with a higher id stand behind
           (x.n - (SELECT count(*) FROM unnest(array_positions(_score.logits, t.logit)) AS p
                   WHERE p > _score.token + 1))::int,
           (ln(e.total) - e.weighted / e.total) / ln(2)
    FROM (SELECT _score.logits[_score.token + 1] AS logit OFFSET 0) AS t
    CROSS JOIN LATERAL (
        SELECT max(l.logit) AS largest, count(*) FILTER (WHERE l.logit >= t.logit) AS n
        FROM (SELECT unnest(_score.logits) AS logit) AS l
        OFFSET 0
    ) AS x
    CROSS JOIN LATERAL (
        -- tokens that only pad the ids have -Infinity
        SELECT sum(gpt2._exp(l.x)) AS total, sum(gpt2._exp(l.x) * greatest(l.x, -700)) AS weighted
        FROM (SELECT unnest(_score.logits) - x.largest AS x) AS l
    ) AS e;
END;
COMMENT ON FUNCTION gpt2._score IS
    'log of the sum of exp(logits); of a token its log probability and rank; entropy in bits';


CREATE TYPE gpt2._token_score AS (logprob float8, rank int, entropy float8);
COMMENT ON TYPE gpt2._token_score IS 'how well a token was expected; entropy in bits';


CREATE FUNCTION gpt2._score_token(y vector, token int, m gpt2.model)
RETURNS gpt2._token_score
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT ROW(s.logprob, s.rank, s.entropy)::gpt2._token_score
    FROM gpt2._unembed(y, m) AS u
    CROSS JOIN LATERAL gpt2._score(u.logits, token) AS s;
END;
COMMENT ON FUNCTION gpt2._score_token IS 'how well a token was expected after a position';


-- By itself and with settings, as gpt2._read_block is.
CREATE FUNCTION gpt2._score_together(y vector[], tokens int[], "first" int, m gpt2.model)
RETURNS TABLE (n int, score gpt2._token_score)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
SET enable_seqscan = on
SET plan_cache_mode = force_generic_plan
BEGIN ATOMIC
    SELECT n, gpt2._score_token(y[n], tokens[n + 1], m)
    FROM gpt2._share AS s
    CROSS JOIN LATERAL generate_series(
        "first" + s.share - 1, cardinality(tokens) - 1, gpt2._n_shares()) AS n;
END;
COMMENT ON FUNCTION gpt2._score_together IS
    'the same for all tokens that come after token first, by several processes, in no order';


CREATE FUNCTION gpt2._score_text(y vector[], tokens int[], "first" int, m gpt2.model)
RETURNS TABLE (n int, logprob float8, rank int, entropy float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- a position predicts the token after it; few logits are computed before workers are there
    SELECT n, s.logprob, s.rank, s.entropy
    FROM generate_series("first", cardinality(tokens) - 1) AS n
    CROSS JOIN LATERAL gpt2._unembed(y[n], m) AS u
    CROSS JOIN LATERAL gpt2._score(u.logits, tokens[n + 1]) AS s
    WHERE (cardinality(tokens) - "first") * (m).n_vocab < 250000
UNION ALL
    SELECT t.n, (t.score).logprob, (t.score).rank, (t.score).entropy
    FROM gpt2._score_together(y, tokens, "first", m) AS t
    WHERE (cardinality(tokens) - "first") * (m).n_vocab >= 250000;
END;
COMMENT ON FUNCTION gpt2._score_text IS
    'how well each token after token first was expected, by the activations [n_seq, n_embd] that a '
    'pass has given';


CREATE FUNCTION gpt2._score_tokens(y vector[], tokens int[], m gpt2.model)
RETURNS TABLE (
    "position" int, token int, piece text, logprob float8, rank int, entropy float8,
    surprisal_bits float8
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH score AS (
        SELECT s.* FROM gpt2._score_text(_score_tokens.y, _score_tokens.tokens, 1, m) AS s
    )
    -- -0 is written so, and would be what 0 is negated
    SELECT p.*, s.logprob, s.rank, s.entropy, (0 - s.logprob) / ln(2)
    FROM gpt2._pieces(tokens, m) AS p
    LEFT JOIN score AS s ON s.n = p."position";
END;
COMMENT ON FUNCTION gpt2._score_tokens IS
    'the tokens of a text, and how well each was expected; NULL for the first';


CREATE FUNCTION gpt2_score(
    text text DEFAULT NULL, model text DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL,
--@include ../arguments/prompt.sql
    truncate text DEFAULT NULL
) RETURNS TABLE (
    "position" int, token int, piece text, logprob float8, rank int, entropy float8,
    surprisal_bits float8
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 100
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH read AS MATERIALIZED (
        -- [n_seq, n_embd]: one pass, whatever the text's length
        SELECT i.m, i.tokens,
               (gpt2._run(gpt2._begin(i.tokens, i.m, prefix => gpt2_score.prefix), i.m,
                          cardinality(i.tokens), keep => false)).y
        FROM gpt2._input(
            gpt2._prompt(gpt2_score.text, input_ids, special_tokens, truncate), gpt2_score.model)
            AS i
    )
    SELECT s.*
    FROM read AS r
    CROSS JOIN LATERAL gpt2._score_tokens(r.y, r.tokens, r.m) AS s
    ORDER BY s."position";
END;
COMMENT ON FUNCTION gpt2_score IS
    'how well each token of a text was expected: log probability, rank, entropy and surprisal in '
    'bits; NULL for the first';


CREATE FUNCTION gpt2._perplexity(surprisal float8)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- exp() raises an error where its result is no float8
RETURN CASE WHEN surprisal > 709.782712893384 THEN 'Infinity' ELSE exp(surprisal) END;
COMMENT ON FUNCTION gpt2._perplexity IS 'exp of a mean surprisal in nats';


CREATE FUNCTION gpt2_perplexity(
    text text DEFAULT NULL, stride int DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS float8
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS MATERIALIZED (
        SELECT m, m.n_ctx,
               gpt2._prompt_ids(gpt2._prompt(gpt2_perplexity.text, input_ids, special_tokens), m)
                   AS tokens,
               coalesce(gpt2_perplexity.stride, greatest(m.n_ctx / 2, 1)) AS stride
        FROM gpt2._chosen_model(gpt2_perplexity.model) AS m
        WHERE num_nonnulls(gpt2_perplexity.text, input_ids) > 0
          AND gpt2._assert(coalesce(gpt2_perplexity.stride, 1) BETWEEN 1 AND m.n_ctx,
                  'invalid_parameter_value',
                  format('stride must be 1 to %s for model "%s"', m.n_ctx, m.name),
                  format('It is %s.', gpt2_perplexity.stride),
                  'Use NULL for half the context.')
    ), part AS MATERIALIZED (
        -- A window moves by stride until it reaches the end. What the one before has counted is
        -- context only; at least its first token is, as nothing comes before it.
        SELECT b, i.m, i.tokens[b + 1:b + i.n_ctx] AS tokens,
               CASE b WHEN 0 THEN 1 ELSE greatest(i.n_ctx - i.stride, 1) END AS "first"
        FROM input AS i
        CROSS JOIN LATERAL generate_series(
            0, greatest(cardinality(i.tokens) - i.n_ctx, 0) + i.stride - 1, i.stride) AS b
        WHERE cardinality(i.tokens) > 1
    )
    -- in one order always, as each of them rounds the sum
    SELECT gpt2._perplexity(-avg(s.logprob ORDER BY w.b, s.n))
    FROM part AS w
    CROSS JOIN LATERAL (
        SELECT (gpt2._run(gpt2._begin(w.tokens, w.m), w.m, cardinality(w.tokens), keep => false)).y
        OFFSET 0) AS a
    CROSS JOIN LATERAL gpt2._score_text(a.y, w.tokens, w."first", w.m) AS s;
END;
COMMENT ON FUNCTION gpt2_perplexity IS
    'exp of the mean surprisal of all tokens but the first, in nats; a text longer than the '
    'context in windows that move by stride; NULL for fewer than two tokens';
