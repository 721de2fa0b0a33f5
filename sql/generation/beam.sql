-- Beam search: go on with the likeliest few texts at once, and take the one of the best mean.
--     score(text) = sum of its tokens' log-probabilities / (their number ^ length_penalty)
-- Source: GenerationMixin._beam_search() of transformers 5.24, generation/utils.py, with
-- do_sample=False and early_stopping=False; what it marks by -1e9 is left out here. Of equal sums
-- the lower beam goes first, then the lower token; of equal scores the earlier hypothesis.


CREATE TYPE gpt2._beam AS (
    candidate int,      -- its number among the candidates of the step before
    tokens int[],       -- prompt and completion
    recent vector[],    -- [n_recent * n_layer]: keys and values of the positions after the past
    y vector,           -- [n_embd], after ln_f, of the last position
    cumulative float8   -- sum of the log-probabilities of the completion's tokens
);
COMMENT ON TYPE gpt2._beam IS 'a text that beam search goes on with';

CREATE TYPE gpt2._candidate AS (
    beam int,           -- its number in the step, by cumulative
    parent int,         -- the candidate of the step before that it continues
    token int,
    logprob float8,
    cumulative float8,
    kept boolean,       -- is a beam of the next step
    finished boolean    -- is a hypothesis
);
COMMENT ON TYPE gpt2._candidate IS 'a continuation that a step of beam search looks at';

CREATE TYPE gpt2._hypothesis AS (tokens int[], score float8);
COMMENT ON TYPE gpt2._hypothesis IS 'a finished text, without its prompt, and its score';

CREATE TYPE gpt2._search AS (
    step int,
    beams gpt2._beam[],               -- NULL: the search is over
    n_past int,                       -- positions that are in past
    past gpt2._past[],                -- [n_layer * n_head], of all beams; NULL: the prompt's
    candidates gpt2._candidate[],     -- of this step
    hypotheses gpt2._hypothesis[]     -- the best of all steps, best first
);
COMMENT ON TYPE gpt2._search IS 'where a beam search stands';


CREATE FUNCTION gpt2._continuations(
    y vector, m gpt2.model, s gpt2._sampler, tokens int[], n_prompt int, n int
) RETURNS TABLE (token int, logprob float8)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- Processors work on log-probabilities here, as in transformers' beam search. Not the logarithm
    -- of each probability: it ends at -700 (gpt2._exp).
    SELECT t.token, t.logit - first_value(t.logit) OVER likeliest
                    + ln(first_value(t.probability) OVER likeliest)
    FROM gpt2._top_tokens(y, m, n) AS t
    WHERE (s).plain
    WINDOW likeliest AS (ORDER BY t.rank)
UNION ALL
    (SELECT l.token, l.logit
     FROM gpt2._unembed(y, m) AS u
     CROSS JOIN LATERAL gpt2._softmax_total(u.logits, 1) AS t
     CROSS JOIN LATERAL gpt2._process_logits(
         ARRAY(SELECT unnest(u.logits) - t.largest - ln(t.total)), tokens, n_prompt, m, s) AS p
     CROSS JOIN LATERAL gpt2._logit_rows(p.ids, p.logits) AS l
     WHERE NOT (s).plain
     ORDER BY l.logit DESC, l.token
     LIMIT n);
END;
COMMENT ON FUNCTION gpt2._continuations IS
    'the n likeliest tokens after a text, y at its end, with their log-probabilities as processed';


CREATE FUNCTION gpt2._search_step(
    search gpt2._search, start gpt2._context, m gpt2.model, width int, n_stop int,
    length_penalty float8, sampler gpt2._sampler, steer gpt2.steering[]
) RETURNS gpt2._search
LANGUAGE sql STABLE PARALLEL SAFE
-- The prompt's past is an argument, so that no beam copies it. A chunk that all beams have in
-- common moves into a past of the search's own: 200 tokens by 4 beams of the demo model take 8 to
-- 10 s, not 16.
RETURN CASE WHEN (search).step IS NOT NULL AND (search).beams IS NULL
            THEN ROW((search).step, NULL, NULL, NULL, NULL, (search).hypotheses)::gpt2._search
ELSE (
    WITH beam AS (
        -- [width]; at first the prompt alone
        SELECT b.*
        FROM unnest((search).beams) WITH ORDINALITY
            AS b (candidate, tokens, recent, y, cumulative, n)
    UNION ALL
        SELECT NULL, (start).tokens, (start).recent, (start).y[cardinality((start).y)], 0, 1
        WHERE (search).step IS NULL
    ), candidate AS (
        -- [2 * width]: each beam ends with at most one of them, so width are left to go on
        SELECT row_number() OVER best::int AS n, c.*
        FROM (
            SELECT b.n AS beam, b.candidate AS parent, l.token, l.logprob,
                   b.cumulative + l.logprob AS cumulative,
                   l.token = ANY ((m).eos_tokens) OR cardinality(b.tokens) + 1 >= n_stop AS ends
            FROM beam AS b
            CROSS JOIN LATERAL gpt2._continuations(
                b.y, m, sampler, b.tokens, cardinality((start).tokens), 2 * width) AS l
        ) AS c
        WINDOW best AS (ORDER BY c.cumulative DESC, c.beam, c.token)
        ORDER BY n
        LIMIT 2 * width
    ), hypothesis AS (
        -- [width] at most; of equal ones the first that was found
        SELECT row_number() OVER best AS n, h.tokens, h.score
        FROM (
            SELECT o.tokens, o.score, 0 AS new, o.n
            FROM unnest((search).hypotheses) WITH ORDINALITY AS o (tokens, score, n)
        UNION ALL
            SELECT t.tokens, c.cumulative / cardinality(t.tokens) ^ length_penalty, 1, c.n
            FROM candidate AS c
            JOIN beam AS b ON b.n = c.beam
            CROSS JOIN LATERAL (
                SELECT b.tokens[cardinality((start).tokens) + 1:] || c.token AS tokens
            ) AS t
            WHERE c.ends AND c.n <= width
        ) AS h
        WINDOW best AS (ORDER BY h.score DESC, h.new, h.n)
        ORDER BY n
        LIMIT width
    ), kept AS (
        -- None where the search is over: there are as many hypotheses as beams, and the best beam's
        -- score is no better than the worst of them.
        SELECT c.n, c.cumulative, b.recent, b.tokens || c.token AS tokens
        FROM candidate AS c
        JOIN beam AS b ON b.n = c.beam
        WHERE NOT c.ends
          AND NOT EXISTS (
              SELECT FROM hypothesis AS h
              WHERE h.n = width
                AND h.score >= (SELECT max(o.cumulative) FROM candidate AS o WHERE NOT o.ends)
                    / (coalesce((search).step, 0) + 1) ^ length_penalty)
        ORDER BY c.n
        LIMIT width
    ), read AS (
        SELECT k.n, k.tokens, k.recent || r.kv AS recent, r.y[1] AS y, k.cumulative
        FROM kept AS k
        CROSS JOIN LATERAL
            gpt2._extend(k.tokens, coalesce((search).n_past, (start).n_past),
                       coalesce((search).past, (start).past), k.recent, 1, m, steer) AS r
    ), common AS (
        -- how many positions move into the past: those of a chunk with the same tokens in all beams
        SELECT p.n_past,
               CASE WHEN count(DISTINCT r.tokens[:p.n_past + gpt2._chunk()]) = 1
                     AND min(cardinality(r.tokens)) >= p.n_past + gpt2._chunk()
                    THEN gpt2._chunk() ELSE 0 END AS n
        FROM (SELECT coalesce((search).n_past, (start).n_past)) AS p (n_past)
        LEFT JOIN read AS r ON true
        GROUP BY p.n_past
    )
    SELECT ROW(
        coalesce((search).step, 0) + 1,
        (SELECT array_agg(ROW(r.n, r.tokens, r.recent[common.n * (m).n_layer + 1:], r.y,
                              r.cumulative)::gpt2._beam ORDER BY r.n)
         FROM read AS r),
        common.n_past + common.n,
        CASE WHEN common.n = 0 THEN (search).past
             ELSE (SELECT p.past
                   FROM (SELECT r.recent[:common.n * (m).n_layer] AS recent
                         FROM read AS r LIMIT 1) AS r
                   CROSS JOIN LATERAL
                       gpt2._remember(coalesce((search).past, (start).past), r.recent, m) AS p)
        END,
        (SELECT array_agg(ROW(c.n, c.parent, c.token, c.logprob, c.cumulative,
                              c.n IN (SELECT k.n FROM kept AS k),
                              c.ends AND c.n <= width)::gpt2._candidate ORDER BY c.n)
         FROM candidate AS c),
        (SELECT array_agg(ROW(h.tokens, h.score)::gpt2._hypothesis ORDER BY h.n)
         FROM hypothesis AS h))::gpt2._search
    FROM common
) END;
COMMENT ON FUNCTION gpt2._search_step IS 'one token more for each beam of a search';


CREATE FUNCTION gpt2._without_caches(search gpt2._search)
RETURNS gpt2._search
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW((search).step, NULL, NULL, NULL, (search).candidates, (search).hypotheses)::gpt2._search;
COMMENT ON FUNCTION gpt2._without_caches IS 'a search without its caches';


-- An aggregate keeps one state, where a recursive query would keep them all.
CREATE AGGREGATE gpt2._search_all(
    start gpt2._context, m gpt2.model, width int, n_stop int, length_penalty float8,
    sampler gpt2._sampler, steer gpt2.steering[]
) (
    SFUNC = gpt2._search_step, STYPE = gpt2._search, FINALFUNC = gpt2._without_caches,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._search_all(
    gpt2._context, gpt2.model, int, int, float8, gpt2._sampler, gpt2.steering[]
) IS
    'a beam search after as many steps as there are rows';


CREATE FUNCTION gpt2._search(
    start gpt2._context, m gpt2.model, width int, n_stop int, length_penalty float8,
    sampler gpt2._sampler, steer gpt2.steering[]
) RETURNS SETOF gpt2._search
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- as a window function the aggregate gives a row a step
    SELECT (s.search).*
    FROM (
        SELECT gpt2._search_all(start, m, width, n_stop, length_penalty, sampler,
                                _search.steer)
                   OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS search
        FROM generate_series(1, n_stop - cardinality((start).tokens)) AS n
    ) AS s
    WHERE (s.search).candidates IS NOT NULL;
END;
COMMENT ON FUNCTION gpt2._search IS
    'a beam search, a row a step; the best hypothesis of the last one is its result';


CREATE FUNCTION gpt2._check_beams(beams int, max_tokens int, length_penalty float8, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- half the vocabulary, as a step looks at twice as many candidates as it has beams
RETURN gpt2._assert(beams BETWEEN 1 AND least(1000, (m).n_token / 2), 'invalid_parameter_value',
           format('beams must be between 1 and %s', least(1000, (m).n_token / 2)),
           format('It is %s.', coalesce(beams::text, 'NULL')),
           'Use 1 for the greedy text, or leave it out for 4.')
       AND gpt2._assert(max_tokens >= 0, 'invalid_parameter_value',
           'max_tokens must be 0 or more',
           format('It is %s.', coalesce(max_tokens::text, 'NULL')),
           'Use 0 to add nothing, or leave it out for 32.')
       AND gpt2._assert(length_penalty BETWEEN -10 AND 10, 'invalid_parameter_value',
           'length_penalty must be between -10 and 10',
           format('It is %s.', coalesce(length_penalty::text, 'NULL')),
           'Use 1 to compare means of log-probabilities, 0 to compare their sums.');
COMMENT ON FUNCTION gpt2._check_beams IS
    'true, or an error where the arguments make no beam search';


CREATE FUNCTION gpt2._search_prompt(
    prompt gpt2._prompt, max_tokens int, beams int, length_penalty float8, o gpt2._options,
    prefix gpt2.prefix, steer gpt2.steering[], patch gpt2.activation[], model text
) RETURNS TABLE (
    m gpt2.model, step int, candidates gpt2._candidate[], hypotheses gpt2._hypothesis[]
)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH context AS MATERIALIZED (
        SELECT i.m, i.steer, gpt2._sampler(o, i.m) AS sampler,
               gpt2._run(gpt2._begin(i.tokens, i.m, i.steer, i.patch, prefix), i.m,
                         cardinality(i.tokens), steer => i.steer) AS start,
               least(cardinality(i.tokens) + max_tokens::bigint, (i.m).n_ctx)::int AS n_stop
        FROM gpt2._input(prompt, _search_prompt.model, _search_prompt.steer,
                         _search_prompt.patch, greatest(max_tokens, 0)) AS i
        WHERE gpt2._check_beams(beams, max_tokens, length_penalty, i.m)
    )
    SELECT c.m, s.step, s.candidates,
           CASE WHEN c.n_stop > cardinality((c.start).tokens) THEN s.hypotheses
                ELSE ARRAY[ROW('{}', 0)::gpt2._hypothesis] END
    FROM context AS c
    LEFT JOIN LATERAL
        gpt2._search(c.start, c.m, beams, c.n_stop, length_penalty, c.sampler, c.steer) AS s
        ON true;
END;
COMMENT ON FUNCTION gpt2._search_prompt IS
    'a beam search after a prompt, a row a step; one row without a step where there is no room, '
    'the empty text its result, or where no token is possible, without a result';


CREATE FUNCTION gpt2_beam(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, beams int DEFAULT 4,
    length_penalty float8 DEFAULT 1,
--@include ../arguments/processors.sql
--@include ../arguments/prompt.sql
--@include ../arguments/reading.sql
    model text DEFAULT NULL
) RETURNS TABLE (
    step int, beam int, parent int, token int, piece text, logprob float8, cumulative float8,
    kept boolean, finished boolean
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 256
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT s.step, c.beam, c.parent, c.token,
           (SELECT gpt2._utf8(t.bytes) FROM gpt2.token AS t
            WHERE t.tokenizer = (s.m).tokenizer AND t.token = c.token),
           c.logprob, c.cumulative, c.kept, c.finished
    FROM gpt2._search_prompt(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens, beams,
        length_penalty,
        ROW(
--@nulls ../arguments/filters.sql
--@nulls ../arguments/draw.sql
--@names ../arguments/processors.sql
--@nulls ../arguments/ends.sql
            0, NULL)::gpt2._options,
        prefix, gpt2_beam.steer, gpt2_beam.patch, gpt2_beam.model) AS s
    CROSS JOIN LATERAL unnest(s.candidates) AS c
    ORDER BY s.step, c.beam;
END;
COMMENT ON FUNCTION gpt2_beam IS 'all that a beam search looks at, step by step';


CREATE FUNCTION gpt2_beam_search(
    prompt text DEFAULT NULL, max_tokens int DEFAULT 32, beams int DEFAULT 4,
    length_penalty float8 DEFAULT 1,
--@include ../arguments/processors.sql
--@include ../arguments/prompt.sql
--@include ../arguments/reading.sql
    echo boolean DEFAULT true, model text DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT gpt2._utf8(
        gpt2._echo(gpt2._prompt(prompt, input_ids, special_tokens), s.m, echo)
        || CASE WHEN h.tokens IS NOT NULL
                THEN gpt2._bytes(CASE WHEN h.tokens[cardinality(h.tokens)] = ANY ((s.m).eos_tokens)
                                      THEN trim_array(h.tokens, 1) ELSE h.tokens END, s.m) END)
    FROM gpt2._search_prompt(
        gpt2._prompt(prompt, input_ids, special_tokens, truncate), max_tokens, beams,
        length_penalty,
        ROW(
--@nulls ../arguments/filters.sql
--@nulls ../arguments/draw.sql
--@names ../arguments/processors.sql
--@nulls ../arguments/ends.sql
            0, NULL)::gpt2._options,
        prefix, gpt2_beam_search.steer, gpt2_beam_search.patch, gpt2_beam_search.model) AS s
    CROSS JOIN LATERAL (SELECT (s.hypotheses[1]).tokens) AS h
    ORDER BY s.step DESC
    LIMIT 1;
END;
COMMENT ON FUNCTION gpt2_beam_search IS
    'continues a text by beam search, by up to max_tokens tokens; NULL for NULL, and where no text '
    'is possible';
