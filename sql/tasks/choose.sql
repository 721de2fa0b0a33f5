-- Which of some texts best continues a prompt: log P(choice | prompt), the sum over its tokens. So
-- a language model classifies without having been trained to.
-- Source: Radford et al. 2019, section 3; Brown et al. 2020 (arXiv:2005.14165), section 2.4.


CREATE FUNCTION gpt2._continue(context gpt2._context, tokens int[])
RETURNS gpt2._context
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW((context).tokens || tokens, (context).n_past, (context).past, (context).recent,
           (context).y, 0, '', '{}', NULL)::gpt2._context;
COMMENT ON FUNCTION gpt2._continue IS
    'a context that was read, with tokens at its end that are still to be read';


CREATE FUNCTION gpt2_choose(
    prompt text, choices text[], model text DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL,
--@include ../arguments/prompt.sql
    truncate text DEFAULT NULL
) RETURNS TABLE (choice text, logprob float8, probability float8, rank int)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 10
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH text AS MATERIALIZED (
        -- each choice once, in the order of the array
        SELECT d.choice, d.n,
               gpt2._tokenize(d.choice, m.tokenizer, m.n_token, special_tokens) AS tokens
        FROM gpt2._chosen_model(gpt2_choose.model) AS m
        CROSS JOIN (
            SELECT u.choice COLLATE "C" AS choice, min(u.n) AS n
            FROM unnest(choices) WITH ORDINALITY AS u (choice, n)
            WHERE u.choice IS NOT NULL
            GROUP BY u.choice COLLATE "C"
        ) AS d
    ), input AS (
        -- a prompt that is cut leaves room for the longest of them
        SELECT i.m, i.tokens, cardinality(i.tokens) AS n
        FROM (SELECT max(cardinality(t.tokens)) AS room FROM text AS t) AS t
        CROSS JOIN LATERAL gpt2._input(
            gpt2._prompt(prompt, input_ids, special_tokens, truncate), gpt2_choose.model,
            room => coalesce(t.room, 0)) AS i
    ), choice AS (
        SELECT c.choice, c.n, c.tokens, cardinality(c.tokens) AS n_token
        FROM input AS i
        CROSS JOIN text AS c
        WHERE gpt2._assert(cardinality(c.tokens) > 0, 'invalid_parameter_value',
                  format('choice %s is empty', c.n),
                  'The empty text has no token, hence no probability.',
                  'Leave it out: array_remove(choices, '''').')
          AND gpt2._assert(i.n + cardinality(c.tokens) <= (i.m).n_ctx,
                  'program_limit_exceeded',
                  format('the prompt with choice %s is too long for model "%s"', c.n, (i.m).name),
                  format('They have %s and %s tokens, the context is %s.', i.n,
                         cardinality(c.tokens), (i.m).n_ctx),
                  'Shorten the prompt; SELECT count(*) FROM gpt2_tokens(prompt); counts its '
                  'tokens.')
    ), context AS (
        -- the prompt, once; count(*), as EXISTS would leave the other choices unchecked
        SELECT i.m, i.n,
               gpt2._run(gpt2._begin(i.tokens, i.m, prefix => gpt2_choose.prefix), i.m, i.n)
                   AS context
        FROM input AS i
        WHERE (SELECT count(*) FROM choice) > 0
    ), "first" AS MATERIALIZED (
        -- [n_vocab]: the first token of every choice is in there
        SELECT u.logits, s.log_total
        FROM context AS c
        CROSS JOIN LATERAL (SELECT (c.context).y[c.n] AS y OFFSET 0) AS last
        CROSS JOIN LATERAL gpt2._unembed(last.y, c.m) AS u
        CROSS JOIN LATERAL gpt2._score(u.logits, NULL) AS s
    ), score AS (
        SELECT o.choice, o.n,
               f.logits[o.tokens[1] + 1] - f.log_total + coalesce(rest.logprob, 0) AS logprob
        FROM choice AS o
        CROSS JOIN "first" AS f
        CROSS JOIN context AS c
        CROSS JOIN LATERAL (
            -- the tokens after it, read from where the prompt ends; the last need not be read
            SELECT sum(s.logprob) AS logprob
            FROM (
                SELECT (gpt2._run(gpt2._continue(c.context, o.tokens[:o.n_token - 1]), c.m,
                                  c.n + o.n_token - 1, keep => false)).y[c.n + 1:] AS y
                WHERE o.n_token > 1
                OFFSET 0
            ) AS a
            CROSS JOIN LATERAL unnest(a.y) WITH ORDINALITY AS p (y, n)
            CROSS JOIN LATERAL (SELECT o.tokens[p.n + 1] AS token OFFSET 0) AS next
            CROSS JOIN LATERAL gpt2._unembed(p.y, c.m) AS u
            CROSS JOIN LATERAL gpt2._score(u.logits, next.token) AS s
        ) AS rest
    )
    SELECT w.choice, w.logprob, w.weight / sum(w.weight) OVER (),
           row_number() OVER (ORDER BY w.logprob DESC, w.n)::int
    FROM (
        SELECT s.*, gpt2._exp(s.logprob - max(s.logprob) OVER ()) AS weight
        FROM score AS s
    ) AS w
    ORDER BY 4;
END;
COMMENT ON FUNCTION gpt2_choose IS
    'how likely each of some texts is to continue a prompt, likeliest first; probabilities are '
    'among the choices';


CREATE FUNCTION gpt2_classify(
    prompt text, choices text[], model text DEFAULT NULL, prefix gpt2.prefix DEFAULT NULL,
--@include ../arguments/prompt.sql
    truncate text DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
SET jit = off
BEGIN ATOMIC
    SELECT c.choice
    FROM gpt2_choose(prompt, choices, gpt2_classify.model, gpt2_classify.prefix, input_ids,
                     special_tokens, truncate) AS c
    WHERE c.rank = 1;
END;
COMMENT ON FUNCTION gpt2_classify IS
    'which of some texts best continues a prompt; NULL for no choices';
