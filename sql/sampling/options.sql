-- How a token is chosen: the options of a call, in one value. NULL is off. Each is a line in
-- sql/arguments, from where the build puts it into the public functions, into this type and into
-- the rows of it; a check here; and a filter (filters.sql) or a processor (processors.sql).
-- Source: GenerationConfig of transformers, whose names and ranges these are; the API of OpenAI for
-- frequency_penalty, presence_penalty and logit_bias; llama.cpp for top_n_sigma and xtc.


CREATE TYPE gpt2._options AS (
--@fields ../arguments/filters.sql
--@fields ../arguments/draw.sql
--@fields ../arguments/processors.sql
--@fields ../arguments/ends.sql
    temperature float8,
    top_k int
);
COMMENT ON TYPE gpt2._options IS 'how a token is chosen and where a completion ends, as asked for';

CREATE TYPE gpt2._sampler AS (
    options gpt2._options,
    temperature float8,
    seed bigint,
    bias gpt2._token_bias[],
    mask gpt2._token_mask,
    plain boolean,    -- whether the model's logits stay as they are: no processor is asked for
    logprobs boolean  -- whether the log probability of what is chosen is wanted
);
COMMENT ON TYPE gpt2._sampler IS
    'how a token is chosen, ready to be asked at each: options, checked and looked up';


CREATE FUNCTION gpt2._check_top_k(top_k int)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(top_k, 1) >= 1, 'invalid_parameter_value',
    'top_k must be 1 or more', format('It is %s.', top_k), 'Use NULL for the whole vocabulary.');
COMMENT ON FUNCTION gpt2._check_top_k IS 'true, or an error where top_k keeps no token';


CREATE FUNCTION gpt2._check_range(
    name text, value float8, low float8, high float8, range text, hint text
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(value BETWEEN low AND high, true), 'invalid_parameter_value',
    format('%s must be %s', name, range), format('It is %s.', value), hint);
COMMENT ON FUNCTION gpt2._check_range IS
    'true, or an error where an option is not NULL and not between two numbers';


CREATE FUNCTION gpt2._check_penalty(name text, penalty float8)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(coalesce(penalty, 0) BETWEEN -1e100 AND 1e100, 'invalid_parameter_value',
    format('%s must be finite', name),
    format('It is %s; more than 1e100 either way is refused too.', penalty),
    'Use 0 or NULL for none, more to repeat less.');
COMMENT ON FUNCTION gpt2._check_penalty IS 'true, or an error where a penalty is not a number';


CREATE FUNCTION gpt2._check_options(o gpt2._options)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert((o).temperature BETWEEN 0 AND 1e6, 'invalid_parameter_value',
        'temperature must be 0 or more',
        format('It is %s; NaN, NULL and more than 1e6 are refused too.',
               coalesce((o).temperature::text, 'NULL')),
        'Use 0 for the likeliest token, 1 for the model''s own distribution.')
    AND gpt2._check_top_k((o).top_k)
    AND gpt2._check_range('top_p', (o).top_p, 5e-324, 1, 'above 0 and at most 1',
        'Use 1 or NULL to keep all tokens.')
    AND gpt2._check_range('min_p', (o).min_p, 0, 1, 'between 0 and 1',
        'Use 0 or NULL to keep all tokens.')
    AND gpt2._check_range('typical_p', (o).typical_p, 5e-324, 1, 'above 0 and at most 1',
        'Use 1 or NULL to keep all tokens.')
    AND gpt2._check_range('top_n_sigma', (o).top_n_sigma, 0, 1e6, 'between 0 and 1e6',
        'Use 0 or NULL to keep all tokens.')
    AND gpt2._check_range('xtc_probability', (o).xtc_probability, 0, 1, 'between 0 and 1',
        'Use 0 or NULL to keep all tokens.')
    AND gpt2._check_range('xtc_threshold', (o).xtc_threshold, 0, 1, 'between 0 and 1',
        'Use NULL for 0.1; above 0.5 it excludes nothing.')
    AND gpt2._assert(coalesce((o).repetition_penalty BETWEEN 1e-100 AND 1e100, true),
        'invalid_parameter_value', 'repetition_penalty must be above 0',
        format('It is %s; NaN, less than 1e-100 and more than 1e100 are refused too.',
               (o).repetition_penalty),
        'Use 1 or NULL for none, more to repeat less.')
    AND gpt2._check_penalty('frequency_penalty', (o).frequency_penalty)
    AND gpt2._check_penalty('presence_penalty', (o).presence_penalty)
    AND gpt2._assert(coalesce((o).no_repeat_ngram_size >= 1, true),
        'invalid_parameter_value', 'no_repeat_ngram_size must be 1 or more',
        format('It is %s.', (o).no_repeat_ngram_size),
        'Use NULL to let any sequence of tokens repeat.')
    AND gpt2._assert(coalesce((o).min_tokens >= 0, true),
        'invalid_parameter_value', 'min_tokens must be 0 or more',
        format('It is %s.', (o).min_tokens), 'Use 0 to let a completion end at once.');
COMMENT ON FUNCTION gpt2._check_options IS
    'true, or an error where the options make no distribution';


CREATE FUNCTION gpt2._sampler(
    o gpt2._options, m gpt2.model, seed bigint DEFAULT NULL, logprobs boolean DEFAULT false
) RETURNS gpt2._sampler
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT ROW(
        -- a temperature below 1e-100 would overflow, and is no other
        o, CASE WHEN (o).temperature > 0 THEN greatest((o).temperature, 1e-100) ELSE 0 END,
        _sampler.seed, r.bias, r.mask,
        -- what changes nothing is off
        r.bias IS NULL AND coalesce((r.mask).allowed, (r.mask).banned) IS NULL
            AND coalesce(nullif((o).repetition_penalty, 1), nullif((o).frequency_penalty, 0),
                         nullif((o).presence_penalty, 0), (o).no_repeat_ngram_size,
                         nullif((o).min_tokens, 0)) IS NULL,
        logprobs)::gpt2._sampler
    FROM (
        -- to plan these takes milliseconds, which a call without them is spared
        SELECT CASE WHEN (o).logit_bias IS NOT NULL
                    THEN gpt2._biases((o).logit_bias, m) END AS bias,
               CASE WHEN (o).ignore_eos OR coalesce((o).allowed_tokens, (o).banned_tokens)
                         IS NOT NULL
                    THEN gpt2._mask((o).allowed_tokens, (o).banned_tokens, (o).ignore_eos, m)
                    END AS mask
        WHERE gpt2._check_options(o)
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._sampler IS
    'options, checked, and what they name looked up in a model''s vocabulary; the seed is not '
    'chosen here: without one only greedily';


CREATE FUNCTION gpt2._reseed(s gpt2._sampler, seed bigint)
RETURNS gpt2._sampler
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW((s).options, (s).temperature, seed, (s).bias, (s).mask, (s).plain, (s).logprobs)
    ::gpt2._sampler;
COMMENT ON FUNCTION gpt2._reseed IS 'a sampler with another seed';
