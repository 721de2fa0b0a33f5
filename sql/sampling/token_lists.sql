-- Options that name tokens: logit_bias, allowed_tokens and banned_tokens, looked up in a model's
-- vocabulary once for a call.


CREATE TYPE gpt2._token_bias AS (
    prefix int[],  -- the bias holds where the text so far ends in these
    token int,
    bias float8
);
COMMENT ON TYPE gpt2._token_bias IS 'what is added to a token''s logit';

CREATE TYPE gpt2._token_mask AS (
    allowed int[],  -- only these are possible, in order
    banned int[]    -- these are not
);
COMMENT ON TYPE gpt2._token_mask IS 'which tokens are possible; NULL: all; one list at most is set';


CREATE FUNCTION gpt2._check_token(token text, argument text, m gpt2.model)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- text: a key of JSON may be any number, longer than numeric is
RETURN gpt2._assert(
    CASE WHEN length(ltrim(token, '0')) <= 10
         THEN token::numeric BETWEEN 0 AND (m).n_token - 1 END,
    'invalid_parameter_value',
    format('token %s of %s is not in the vocabulary of model "%s"', token, argument, (m).name),
    format('Its tokens are 0 to %s.', (m).n_token - 1),
    'Tokens come from gpt2_tokenize(text, model), for the same model.');
COMMENT ON FUNCTION gpt2._check_token IS 'true, or an error where a model has no such token';


CREATE FUNCTION gpt2._biases(logit_bias jsonb, m gpt2.model)
RETURNS gpt2._token_bias[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A key of digits is a token id, any other is text. The bias of a text of several tokens is
    -- that of its last one where the others precede.
    SELECT array_agg(ROW(b.tokens[:cardinality(b.tokens) - 1], b.tokens[cardinality(b.tokens)],
                         b.bias)::gpt2._token_bias)
    FROM (
        SELECT CASE WHEN k.is_id AND gpt2._check_token(k.key, 'logit_bias', m)
                    THEN ARRAY[k.key::int]
                    ELSE gpt2._tokenize(k.key, (m).tokenizer, (m).n_token) END AS tokens,
               -- false: never; below 1e-100 a quotient could underflow
               CASE WHEN k.number IS NULL THEN '-Infinity'
                    WHEN abs(k.number) < 1e-100 THEN 0
                    ELSE k.number END::float8 AS bias
        FROM (
            SELECT j.key, j.key COLLATE "C" ~ '^[0-9]+$' AS is_id, j.value,
                   CASE jsonb_typeof(j.value) WHEN 'number' THEN j.value::numeric END AS number
            FROM jsonb_each(CASE WHEN gpt2._assert(jsonb_typeof(logit_bias) = 'object',
                     'invalid_parameter_value', 'logit_bias must be a JSON object',
                     format('It is of type %s.', jsonb_typeof(logit_bias)),
                     'Write {"token id or text": number}, or false in the place of a number for '
                     'never.')
                     THEN logit_bias END) AS j
        ) AS k
        WHERE gpt2._assert(k.key <> '', 'invalid_parameter_value', 'a key of logit_bias is empty',
                  'A key is a token id or a text.', 'Leave it out.')
          AND gpt2._assert(coalesce(abs(k.number) <= 1e100, k.value = 'false'),
                  'invalid_parameter_value',
                  format('the value of "%s" in logit_bias must be a number or false', k.key),
                  format('It is %s; more than 1e100 either way is refused too.', k.value),
                  'Use false for a token that is never chosen.')
        OFFSET 0
    ) AS b;
END;
COMMENT ON FUNCTION gpt2._biases IS 'logit_bias, its keys tokenized';


CREATE FUNCTION gpt2._token_set(tokens int[], argument text, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN tokens IS NOT NULL THEN ARRAY(
        SELECT DISTINCT t.token
        FROM unnest(tokens) AS t (token)
        WHERE t.token IS NOT NULL
          AND CASE WHEN t.token < (m).n_token AND t.token >= 0 THEN true
                   ELSE gpt2._check_token(t.token::text, argument, m) END
        ORDER BY t.token)
    END;
END;
COMMENT ON FUNCTION gpt2._token_set IS
    'tokens in order, each once; an error where one is not in the vocabulary';


CREATE FUNCTION gpt2._mask(
    allowed_tokens int[], banned_tokens int[], ignore_eos boolean, m gpt2.model
) RETURNS gpt2._token_mask
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- One list is enough. Of a long one of banned tokens, the others: it takes 3 ms a step to read
    -- 25,000 of the logits, 30 to cut as many out of them.
    SELECT ROW(
        CASE WHEN s.allowed IS NOT NULL OR cardinality(s.banned) > 1000
             THEN ARRAY(SELECT a.token
                        FROM (SELECT unnest(coalesce(s.allowed, ARRAY(
                                  SELECT generate_series(0, (m).n_token - 1)))) AS token
                              EXCEPT SELECT unnest(s.banned)) AS a
                        ORDER BY a.token) END,
        CASE WHEN s.allowed IS NULL AND cardinality(s.banned) <= 1000
             THEN nullif(s.banned, '{}') END)::gpt2._token_mask
    FROM (
        SELECT gpt2._token_set(allowed_tokens, 'allowed_tokens', m) AS allowed,
               coalesce(gpt2._token_set(banned_tokens, 'banned_tokens', m), '{}')
               || CASE WHEN ignore_eos THEN (m).eos_tokens ELSE '{}' END AS banned
        OFFSET 0
    ) AS s;
END;
COMMENT ON FUNCTION gpt2._mask IS 'the tokens that alone are possible, or else those that are not';
