-- Processors: what is done to logits because of the text so far: biases, penalties, and tokens that
-- are not possible (-Infinity). Logits are float8[n], of the tokens 0 to n - 1.
-- Source: transformers' logits processors, in the order of its _get_logits_processor(); the
-- frequency and presence penalties are llama.cpp's (llama_sampler_penalties).


CREATE FUNCTION gpt2._mentions(tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler)
RETURNS TABLE (token int, bias float8, n int, banned boolean)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- logit_bias: of the sequences whose last token may be next
    SELECT b.token, b.bias, NULL::int, false
    FROM unnest((s).bias) AS b
    WHERE tokens[cardinality(tokens) - cardinality(b.prefix) + 1:] = b.prefix
UNION ALL
    -- how often a token is in the text, prompt and completion
    SELECT u.token, NULL, 1, false
    FROM unnest(tokens) AS u (token)
    WHERE coalesce(((s).options).repetition_penalty, ((s).options).frequency_penalty,
                   ((s).options).presence_penalty) IS NOT NULL
UNION ALL
    -- no_repeat_ngram_size: what came after the last n - 1 tokens before
    SELECT tokens[i + g.n - 1], NULL, NULL, true
    FROM (SELECT o.n, tokens[cardinality(tokens) - o.n + 2:] AS ending
          FROM (SELECT ((s).options).no_repeat_ngram_size AS n) AS o) AS g
    CROSS JOIN generate_series(1, cardinality(tokens) - g.n + 1) AS i
    WHERE tokens[i:i + g.n - 2] = g.ending
UNION ALL
    SELECT unnest((m).eos_tokens), NULL, NULL, true
    WHERE cardinality(tokens) - n_prompt < ((s).options).min_tokens
UNION ALL
    SELECT unnest(((s).mask).banned), NULL, NULL, true;
END;
COMMENT ON FUNCTION gpt2._mentions IS
    'the tokens that a processor speaks of, and what it says: a bias, one time more in the text, '
    'or that it is not possible';


CREATE FUNCTION gpt2._changed_logits(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler
) RETURNS TABLE (token int, logit float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 100
BEGIN ATOMIC
    -- logit_bias comes first, then repetition_penalty, then the penalties by number
    WITH biased AS (
        SELECT t.token, sum(t.n) AS n, bool_or(t.banned) AS banned,
               logits[t.token + 1] + coalesce(sum(t.bias), 0) AS logit
        FROM gpt2._mentions(tokens, n_prompt, m, s) AS t
        WHERE t.token < cardinality(logits)
        GROUP BY t.token
    ), repeated AS (
        SELECT b.token, b.n, b.banned,
               CASE WHEN b.n > 0 AND b.logit < 0
                    THEN b.logit * coalesce(((s).options).repetition_penalty, 1)
                    WHEN b.n > 0
                    THEN b.logit / coalesce(((s).options).repetition_penalty, 1)
                    ELSE b.logit END AS logit
        FROM biased AS b
    )
    SELECT r.token,
           CASE WHEN r.banned THEN '-Infinity'
                ELSE r.logit - coalesce(r.n * ((s).options).frequency_penalty, 0)
                     - CASE WHEN r.n > 0
                            THEN coalesce(((s).options).presence_penalty, 0) ELSE 0 END END
    FROM repeated AS r;
END;
COMMENT ON FUNCTION gpt2._changed_logits IS
    'the tokens whose logits processors change, with the new ones';


CREATE FUNCTION gpt2._replace_logits(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler
) RETURNS float8[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The array is cut at the tokens that are changed; -1 stands for the beginning.
    -- Of 50,257 logits this takes 3 ms, and 5 to change 1,000.
    WITH changed AS (
        SELECT -1 AS token, '{}'::float8[] AS logit
    UNION ALL
        SELECT c.token, ARRAY[c.logit]
        FROM gpt2._changed_logits(logits, tokens, n_prompt, m, s) AS c
    ), piece AS (
        SELECT c.token,
               c.logit || logits[c.token + 2:lead(c.token, 1, cardinality(logits))
                                             OVER (ORDER BY c.token)] AS piece
        FROM changed AS c
    )
    SELECT ARRAY(
        SELECT unnest(p.piece) FROM (SELECT p.piece FROM piece AS p ORDER BY p.token) AS p);
END;
COMMENT ON FUNCTION gpt2._replace_logits IS 'logits after biases, penalties and bans';


CREATE FUNCTION gpt2._allowed(among int[], s gpt2._sampler, n int)
RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN among IS NULL THEN ((s).mask).allowed
    WHEN ((s).mask).allowed IS NULL
    THEN ARRAY(SELECT DISTINCT t.token FROM unnest(among) AS t (token)
               WHERE t.token BETWEEN 0 AND n - 1
               ORDER BY t.token)
    ELSE ARRAY(SELECT unnest(among) INTERSECT SELECT unnest(((s).mask).allowed) ORDER BY 1) END;
COMMENT ON FUNCTION gpt2._allowed IS
    'the tokens that both a constraint and allowed_tokens allow, in order; NULL: all n';


CREATE FUNCTION gpt2._process_logits(
    logits float8[], tokens int[], n_prompt int, m gpt2.model, s gpt2._sampler,
    among int[] DEFAULT NULL
) RETURNS TABLE (ids int[], logits float8[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- allowed_tokens, and what the caller's constraint allows, are a list (ids, in order), and not
    -- all others -Infinity: to read 25,000 logits takes 3 ms. What changes logits is planned where
    -- it is used, which spares other calls milliseconds.
    SELECT i.ids,
           CASE WHEN i.ids IS NULL THEN i.logits
                ELSE ARRAY(SELECT i.logits[t.token + 1]
                           FROM (SELECT unnest(i.ids) AS token) AS t) END
    FROM (
        SELECT CASE WHEN coalesce(among, ((s).mask).allowed) IS NOT NULL
                    THEN gpt2._allowed(among, s, cardinality(_process_logits.logits)) END AS ids,
               CASE WHEN (s).plain THEN _process_logits.logits
                    ELSE gpt2._replace_logits(_process_logits.logits, tokens, n_prompt, m, s)
                    END AS logits
        OFFSET 0
    ) AS i
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._process_logits IS
    'logits after biases, penalties and masks: of ids, or where that is NULL of all tokens';
