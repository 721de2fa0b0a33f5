-- How a token is chosen: all options, checked once for a call and resolved. NULL is off.
-- Source: GenerationConfig of transformers, whose names and ranges these are; the API of OpenAI for
-- frequency_penalty, presence_penalty and logit_bias.


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

CREATE TYPE gpt2._sampling AS (
    temperature float8,
    top_k int,
    top_p float8,
    min_p float8,
    typical_p float8,
    repetition_penalty float8,
    frequency_penalty float8,
    presence_penalty float8,
    no_repeat_ngram_size int,
    bias gpt2._token_bias[],
    min_tokens int,
    mask gpt2._token_mask,
    seed bigint,
    logprobs boolean,
    plain boolean   -- whether the model's logits stay as they are: all after typical_p is off
);
COMMENT ON TYPE gpt2._sampling IS 'how a token is chosen: see gpt2._process and gpt2._filter';


CREATE FUNCTION gpt2._check_sampling(temperature float8, top_k int)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(temperature BETWEEN 0 AND 1e6, 'invalid_parameter_value',
           'temperature must be 0 or more',
           format('It is %s; NaN, NULL and more than 1e6 are refused too.',
                  coalesce(temperature::text, 'NULL')),
           'Use 0 for the likeliest token, 1 for the model''s own distribution.')
       AND gpt2._assert(coalesce(top_k, 1) >= 1, 'invalid_parameter_value',
           'top_k must be 1 or more', format('It is %s.', top_k),
           'Use NULL for the whole vocabulary.');
COMMENT ON FUNCTION gpt2._check_sampling IS
    'true, or an error where the arguments make no distribution';


CREATE FUNCTION gpt2._check_penalty(name text, penalty float8)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(penalty, 0) BETWEEN -1e100 AND 1e100, 'invalid_parameter_value',
    format('%s must be finite', name),
    format('It is %s; more than 1e100 either way is refused too.', penalty),
    'Use 0 or NULL for none, more to repeat less.');
COMMENT ON FUNCTION gpt2._check_penalty IS 'true, or an error where a penalty is not a number';


CREATE FUNCTION gpt2._check_token(token text, argument text, m gpt2.model)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- text: a key of JSON may be any number
RETURN gpt2._assert(
    token::numeric BETWEEN 0 AND (m).n_token - 1 OR token::numeric = (m).eos_token,
    'invalid_parameter_value',
    format('token %s of %s is not in the vocabulary of model "%s"', token, argument, (m).name),
    CASE WHEN (m).eos_token <= (m).n_token
         THEN format('Its tokens are 0 to %s.', greatest((m).eos_token, (m).n_token - 1))
         ELSE format('Its tokens are 0 to %s and %s.', (m).n_token - 1, (m).eos_token) END,
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
            OFFSET 0
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
                                         SELECT generate_series(0, (m).n_token - 1)
                                         UNION SELECT (m).eos_token))) AS token
                              EXCEPT SELECT unnest(s.banned)) AS a
                        ORDER BY a.token) END,
        CASE WHEN s.allowed IS NULL AND cardinality(s.banned) <= 1000
             THEN nullif(s.banned, '{}') END)::gpt2._token_mask
    FROM (
        SELECT gpt2._token_set(allowed_tokens, 'allowed_tokens', m) AS allowed,
               coalesce(gpt2._token_set(banned_tokens, 'banned_tokens', m), '{}')
               || CASE WHEN ignore_eos THEN ARRAY[(m).eos_token] ELSE '{}' END AS banned
        OFFSET 0
    ) AS s;
END;
COMMENT ON FUNCTION gpt2._mask IS 'the tokens that alone are possible, or else those that are not';



CREATE FUNCTION gpt2._sampling(
    m gpt2.model, temperature float8 DEFAULT 0, top_k int DEFAULT NULL,
    top_p float8 DEFAULT NULL, min_p float8 DEFAULT NULL, typical_p float8 DEFAULT NULL,
    repetition_penalty float8 DEFAULT NULL, frequency_penalty float8 DEFAULT NULL,
    presence_penalty float8 DEFAULT NULL, no_repeat_ngram_size int DEFAULT NULL,
    logit_bias jsonb DEFAULT NULL, min_tokens int DEFAULT 0, ignore_eos boolean DEFAULT false,
    allowed_tokens int[] DEFAULT NULL, banned_tokens int[] DEFAULT NULL,
    seed bigint DEFAULT NULL, logprobs boolean DEFAULT false
) RETURNS gpt2._sampling
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT ROW(
        r.temperature, _sampling.top_k, r.top_p, r.min_p, r.typical_p, r.repetition_penalty,
        r.frequency_penalty, r.presence_penalty, _sampling.no_repeat_ngram_size, r.bias,
        r.min_tokens, r.mask, _sampling.seed,
        coalesce(_sampling.logprobs, false),
        coalesce(r.repetition_penalty, r.frequency_penalty, r.presence_penalty,
                 _sampling.no_repeat_ngram_size, r.min_tokens) IS NULL
            AND r.bias IS NULL AND coalesce((r.mask).allowed, (r.mask).banned) IS NULL
    )::gpt2._sampling
    FROM (
        -- what changes nothing is off; a temperature below 1e-100 would overflow, and is no other
        SELECT CASE WHEN _sampling.temperature = 0 THEN 0
                    ELSE greatest(_sampling.temperature, 1e-100) END AS temperature,
               nullif(_sampling.top_p, 1) AS top_p,
               nullif(_sampling.min_p, 0) AS min_p,
               nullif(_sampling.typical_p, 1) AS typical_p,
               nullif(_sampling.repetition_penalty, 1) AS repetition_penalty,
               nullif(_sampling.frequency_penalty, 0) AS frequency_penalty,
               nullif(_sampling.presence_penalty, 0) AS presence_penalty,
               nullif(_sampling.min_tokens, 0) AS min_tokens,
               -- to plan these takes milliseconds, which a call without them is spared
               CASE WHEN logit_bias IS NOT NULL THEN gpt2._biases(logit_bias, m) END AS bias,
               CASE WHEN ignore_eos OR allowed_tokens IS NOT NULL OR banned_tokens IS NOT NULL
                    THEN gpt2._mask(allowed_tokens, banned_tokens, ignore_eos, m) END AS mask
        WHERE gpt2._check_sampling(_sampling.temperature, _sampling.top_k)
          AND gpt2._assert(coalesce(_sampling.top_p > 0 AND _sampling.top_p <= 1, true),
                  'invalid_parameter_value', 'top_p must be above 0 and at most 1',
                  format('It is %s.', _sampling.top_p), 'Use 1 or NULL to keep all tokens.')
          AND gpt2._assert(coalesce(_sampling.min_p BETWEEN 0 AND 1, true),
                  'invalid_parameter_value', 'min_p must be between 0 and 1',
                  format('It is %s.', _sampling.min_p), 'Use 0 or NULL to keep all tokens.')
          AND gpt2._assert(coalesce(_sampling.typical_p > 0 AND _sampling.typical_p <= 1, true),
                  'invalid_parameter_value', 'typical_p must be above 0 and at most 1',
                  format('It is %s.', _sampling.typical_p), 'Use 1 or NULL to keep all tokens.')
          AND gpt2._assert(
                  coalesce(_sampling.repetition_penalty BETWEEN 1e-100 AND 1e100, true),
                  'invalid_parameter_value', 'repetition_penalty must be above 0',
                  format('It is %s; NaN, less than 1e-100 and more than 1e100 are refused too.',
                         _sampling.repetition_penalty),
                  'Use 1 or NULL for none, more to repeat less.')
          AND gpt2._check_penalty('frequency_penalty', _sampling.frequency_penalty)
          AND gpt2._check_penalty('presence_penalty', _sampling.presence_penalty)
          AND gpt2._assert(coalesce(_sampling.no_repeat_ngram_size >= 1, true),
                  'invalid_parameter_value', 'no_repeat_ngram_size must be 1 or more',
                  format('It is %s.', _sampling.no_repeat_ngram_size),
                  'Use NULL to let any sequence of tokens repeat.')
          AND gpt2._assert(coalesce(_sampling.min_tokens >= 0, true),
                  'invalid_parameter_value', 'min_tokens must be 0 or more',
                  format('It is %s.', _sampling.min_tokens),
                  'Use 0 to let a completion end at once.')
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._sampling IS
    'how a token is chosen, checked; the seed is not chosen here: without one only greedily';
