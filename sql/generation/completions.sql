-- Completions by JSON: what programs send that speak OpenAI's API, and the answer in its form.
-- Source: OpenAI's reference of POST /v1/completions, "Create completion" and "The completion
-- object".


CREATE FUNCTION gpt2._request_fields()
RETURNS TABLE (name text, kind text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 40
BEGIN ATOMIC
    SELECT f.name, f.kind
    FROM (VALUES
        ('model', 'a string'), ('max_tokens', 'an integer'),
        ('prompt', 'a string, a list of integers, or a list of either'),
        ('n', 'an integer'), ('best_of', 'an integer'), ('echo', 'a boolean'),
        ('logprobs', 'an integer'), ('suffix', 'a string'), ('stream', 'a boolean'),
        ('user', 'a string'), ('special_tokens', 'a boolean')
    ) AS f (name, kind)
UNION ALL
    -- the options, by their names
    SELECT a.attname::text,
           CASE a.atttypid
               WHEN 'boolean'::regtype THEN 'a boolean'
               WHEN 'integer'::regtype THEN 'an integer'
               WHEN 'bigint'::regtype THEN 'an integer'
               WHEN 'float8'::regtype THEN 'a number'
               WHEN 'text'::regtype THEN 'a string'
               WHEN 'text[]'::regtype THEN 'a string or a list of strings'
               WHEN 'integer[]'::regtype THEN 'a list of integers'
               WHEN 'jsonb'::regtype THEN 'an object' END
    FROM pg_attribute AS a
    WHERE a.attrelid = 'gpt2._options'::regclass AND a.attnum > 0 AND NOT a.attisdropped;
END;
COMMENT ON FUNCTION gpt2._request_fields IS 'what a request may have, and what each has to be';


CREATE FUNCTION gpt2._is_integer(value jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(value::text COLLATE "C" ~ '^-?[0-9]{1,18}$', false);
COMMENT ON FUNCTION gpt2._is_integer IS 'whether a JSON value is an integer that a bigint holds';


CREATE FUNCTION gpt2._is_list_of_integers(value jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_typeof(value) = 'array'
   AND NOT EXISTS (SELECT FROM jsonb_path_query(value, 'strict $[*]') AS element
                   WHERE NOT gpt2._is_integer(element)
                      OR abs(element::numeric) > 2147483647);
COMMENT ON FUNCTION gpt2._is_list_of_integers IS 'whether a JSON value is an array of int';


CREATE FUNCTION gpt2._is_list_of_strings(value jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- strict: else jsonpath looks into an array that stands in the array
RETURN CASE jsonb_typeof(value)
    WHEN 'array' THEN NOT value @? 'strict $[*] ? (@.type() != "string")'
    ELSE jsonb_typeof(value) = 'string' END;
COMMENT ON FUNCTION gpt2._is_list_of_strings IS
    'whether a JSON value is a string or an array of strings';


CREATE FUNCTION gpt2._is_of_kind(value jsonb, kind text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE kind
    WHEN 'an integer' THEN gpt2._is_integer(value)
    WHEN 'a number' THEN jsonb_typeof(value) = 'number' AND abs(value::numeric) < 1e300
    WHEN 'a list of integers' THEN gpt2._is_list_of_integers(value)
    WHEN 'a string or a list of strings' THEN gpt2._is_list_of_strings(value)
    WHEN 'a string, a list of integers, or a list of either'
    THEN value <> '[]' AND (
         gpt2._is_list_of_strings(value) OR gpt2._is_list_of_integers(value)
         OR jsonb_typeof(value) = 'array'
            AND NOT EXISTS (SELECT FROM jsonb_path_query(value, 'strict $[*]') AS element
                            WHERE NOT gpt2._is_list_of_integers(element)))
    ELSE kind LIKE '% ' || jsonb_typeof(value) END;
COMMENT ON FUNCTION gpt2._is_of_kind IS 'whether a JSON value is what a field has to be';


CREATE FUNCTION gpt2._check_request(request jsonb)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert(jsonb_typeof(request) = 'object', 'invalid_parameter_value',
               'request must be a JSON object', format('It is of type %s.', jsonb_typeof(request)),
               'Write {"prompt": "text", "max_tokens": 16}.')
       AND (SELECT coalesce(bool_and(
                gpt2._assert(f.kind IS NOT NULL, 'invalid_parameter_value',
                    format('"%s" is no field of a request', r.key),
                    'There are OpenAI''s, and the options of gpt2_generate.', 'Leave it out.')
                AND gpt2._assert(gpt2._is_of_kind(r.value, f.kind), 'invalid_parameter_value',
                    format('%s must be %s', r.key, f.kind),
                    format('It is %s.', left(r.value::text, 100)), 'Write it so, or leave it out.')
                ), true)
            FROM jsonb_each(CASE jsonb_typeof(request) WHEN 'object' THEN request END) AS r
            LEFT JOIN gpt2._request_fields() AS f ON f.name = r.key)
       AND gpt2._assert((request -> 'stream') IS DISTINCT FROM 'true', 'feature_not_supported',
               'stream is not supported', 'One value is given, when all is done.',
               'Leave it out; SELECT * FROM gpt2_stream(prompt); gives a row a token.')
       AND gpt2._assert(coalesce(request ->> 'suffix', '') = '', 'feature_not_supported',
               'suffix is not supported', 'GPT-2 reads what is before, not what comes after.',
               'Leave it out.')
       AND gpt2._assert(coalesce((request ->> 'logprobs')::numeric, 0) BETWEEN 0 AND 5,
               'invalid_parameter_value', 'logprobs must be between 0 and 5',
               format('It is %s.', request ->> 'logprobs'),
               'For more, SELECT * FROM gpt2_next_token(prompt, 20);')
       AND gpt2._assert(coalesce((request ->> 'best_of')::numeric
                                     >= coalesce((request ->> 'n')::numeric, 1), true),
               'invalid_parameter_value', 'best_of must be n or more',
               format('It is %s, n is %s.', request ->> 'best_of',
                      coalesce(request ->> 'n', '1')),
               'Leave it out for n.');
END;
COMMENT ON FUNCTION gpt2._check_request IS 'true, or an error where a request cannot be answered';


CREATE FUNCTION gpt2._requested_options(request jsonb)
RETURNS gpt2._options
LANGUAGE sql STABLE PARALLEL SAFE
RETURN jsonb_populate_record(
    NULL::gpt2._options,
    '{"temperature": 1, "min_tokens": 0, "ignore_eos": false}'::jsonb || request
    || CASE jsonb_typeof(request -> 'stop')
       WHEN 'string' THEN jsonb_build_object('stop'::text, jsonb_build_array(request -> 'stop'))
       ELSE '{}' END);
COMMENT ON FUNCTION gpt2._requested_options IS 'how a token is to be chosen, by a request';


CREATE FUNCTION gpt2._requested_prompts(prompt jsonb, special_tokens boolean)
RETURNS TABLE (n bigint, prompt gpt2._prompt)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT p.n,
           CASE jsonb_typeof(p.value)
           WHEN 'string' THEN gpt2._prompt(p.value #>> '{}', NULL, special_tokens)
           ELSE gpt2._prompt(NULL, ARRAY(SELECT id::int FROM jsonb_array_elements(p.value) AS id),
                             special_tokens) END
    FROM jsonb_array_elements(
        -- one prompt is a list of one; without one a document begins
        CASE WHEN _requested_prompts.prompt IS NULL THEN '[""]'
             WHEN jsonb_typeof(_requested_prompts.prompt) = 'string'
                  OR jsonb_typeof(_requested_prompts.prompt -> 0) = 'number'
             THEN jsonb_build_array(_requested_prompts.prompt)
             ELSE _requested_prompts.prompt END) WITH ORDINALITY AS p (value, n);
END;
COMMENT ON FUNCTION gpt2._requested_prompts IS 'the prompts of a request, a row each';


CREATE FUNCTION gpt2._json_piece(bytes bytea)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN convert_to(gpt2._utf8(bytes), 'UTF8') = bytes THEN gpt2._utf8(bytes)
            ELSE 'bytes:' || regexp_replace(encode(bytes, 'hex'), '..', '\x\&', 'g') END;
COMMENT ON FUNCTION gpt2._json_piece IS
    'a token''s text; of one that is no whole UTF-8 its bytes, as bytes:\xe2\x80';


CREATE FUNCTION gpt2._n_characters(bytes bytea)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT count(*) FROM generate_series(0, length(bytes) - 1) AS i
        -- bytes 10xxxxxx go on with a character
        WHERE get_byte(bytes, i) & 192 <> 128)::int;
COMMENT ON FUNCTION gpt2._n_characters IS 'how many characters of UTF-8 begin in these bytes';


CREATE FUNCTION gpt2._top_logprobs(logits float8[], token int, k int, m gpt2.model)
RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT jsonb_object_agg(gpt2._json_piece(t.bytes), c.logit - s.largest - ln(s.total))
    FROM gpt2._softmax_total(_top_logprobs.logits, 1) AS s
    CROSS JOIN (
        -- UNION: the token itself may be one of the likeliest
        (SELECT l.token, l.logit
         FROM gpt2._logit_rows(NULL, _top_logprobs.logits) AS l
         ORDER BY l.logit DESC, l.token
         LIMIT k)
    UNION
        SELECT _top_logprobs.token, _top_logprobs.logits[_top_logprobs.token + 1]
    ) AS c
    JOIN gpt2.token AS t ON t.tokenizer = (m).tokenizer AND t.token = c.token;
END;
COMMENT ON FUNCTION gpt2._top_logprobs IS
    'log probabilities of the k likeliest tokens and of the one that is there, by their texts';


CREATE FUNCTION gpt2._json_logprobs(
    context gpt2._context, m gpt2.model, first int, k int, n_characters int
) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH piece AS (
        SELECT p.n::int AS n, p.token, t.bytes,
               coalesce(sum(gpt2._n_characters(t.bytes))
                            OVER (ORDER BY p.n ROWS BETWEEN UNBOUNDED PRECEDING
                                                        AND 1 PRECEDING), 0) AS text_offset
        FROM unnest((context).tokens) WITH ORDINALITY AS p (token, n)
        JOIN gpt2.token AS t ON t.tokenizer = (m).tokenizer AND t.token = p.token
    ), scored AS (
        SELECT p.*, s.logprob, s.top
        FROM piece AS p
        LEFT JOIN LATERAL (
            -- y[n - 1] is where token n was next
            SELECT gpt2._log_probability(p.token, u.logits) AS logprob,
                   CASE WHEN k > 0
                        THEN gpt2._top_logprobs(u.logits, p.token, k, m) END AS top
            FROM gpt2._unembed((context).y[p.n - 1], m) AS u
            WHERE p.n > 1
        ) AS s ON true
        WHERE p.n >= _json_logprobs.first AND p.text_offset < n_characters
    )
    SELECT jsonb_build_object(
        'tokens', coalesce(jsonb_agg(gpt2._json_piece(s.bytes) ORDER BY s.n), '[]'),
        'token_logprobs', coalesce(jsonb_agg(s.logprob ORDER BY s.n), '[]'),
        'top_logprobs',
        CASE WHEN k > 0 THEN coalesce(jsonb_agg(s.top ORDER BY s.n), '[]') END,
        'text_offset', coalesce(jsonb_agg(s.text_offset ORDER BY s.n), '[]'))
    FROM scored AS s;
END;
COMMENT ON FUNCTION gpt2._json_logprobs IS
    'log probabilities of the tokens from first on that begin in the first n_characters of a text';


CREATE FUNCTION gpt2._answer(
    prompt gpt2._prompt, max_tokens int, n int, o gpt2._options, random_seed bigint, echo boolean,
    logprobs int, model text
) RETURNS TABLE (
    choice int, object jsonb, mean_logprob float8, prompt_tokens int, completion_tokens int,
    model text
)
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000 ROWS 1
-- a number becomes JSON by way of its text, which is to be exact
SET extra_float_digits = 1
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT c.choice,
           jsonb_build_object(
               'text', t.text,
               'finish_reason', CASE c.finish_reason WHEN 'eos' THEN 'stop'
                                                     WHEN 'context' THEN 'length'
                                                     ELSE c.finish_reason END,
               'logprobs',
               CASE WHEN _answer.logprobs IS NOT NULL
                    THEN gpt2._json_logprobs(
                        coalesce(c.context, gpt2._run(c.start, c.m, c.n_prompt)), c.m,
                        CASE WHEN echo THEN 1 ELSE c.n_prompt + 1 END, _answer.logprobs,
                        length(t.text)
                        + CASE WHEN echo THEN 0 ELSE length(gpt2._shown(prompt, c.m)) END) END),
           (SELECT avg(l) FROM unnest((c.context).logprobs) AS l),
           c.n_prompt, coalesce(cardinality((c.context).tokens) - c.n_prompt, 0), (c.m).name
    FROM gpt2._choices(prompt, max_tokens, n, o, random_seed, NULL, NULL, NULL, _answer.model) AS c
    CROSS JOIN LATERAL (
        SELECT gpt2._completion(gpt2._echo(prompt, c.m, echo), coalesce((c.context).bytes, ''),
                                (c.bounds).stop, c.finish_reason) AS text
        OFFSET 0
    ) AS t;
END;
COMMENT ON FUNCTION gpt2._answer IS 'the choices of one prompt';


CREATE FUNCTION gpt2._completions(request jsonb)
RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL SAFE
BEGIN ATOMIC
    WITH asked AS MATERIALIZED (
        SELECT r.*, gpt2._requested_options(r.request) AS o,
               coalesce((r.request ->> 'n')::int, 1) AS n
        -- null is as if it were not there
        FROM (SELECT CASE jsonb_typeof(_completions.request) WHEN 'object'
                     THEN (SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}')
                           FROM jsonb_each(_completions.request) AS f WHERE f.value <> 'null')
                     ELSE _completions.request END AS request OFFSET 0) AS r
        WHERE gpt2._check_request(r.request)
    ), answer AS MATERIALIZED (
        SELECT p.n, a.*,
               row_number() OVER (PARTITION BY p.n ORDER BY
                   CASE WHEN q.request ? 'best_of' THEN a.mean_logprob END DESC NULLS LAST,
                   a.choice) AS rank
        FROM asked AS q
        CROSS JOIN LATERAL gpt2._requested_prompts(
            q.request -> 'prompt', coalesce((q.request ->> 'special_tokens')::boolean, false)) AS p
        CROSS JOIN LATERAL gpt2._answer(
            p.prompt, coalesce((q.request ->> 'max_tokens')::int, 16),
            coalesce((q.request ->> 'best_of')::int, q.n), q.o, gpt2._random_seed(),
            coalesce((q.request ->> 'echo')::boolean, false), (q.request ->> 'logprobs')::int,
            q.request ->> 'model') AS a
    ), choice AS (
        SELECT a.object || jsonb_build_object(
                   'index'::text, row_number() OVER (ORDER BY a.n, a.rank) - 1) AS json
        FROM answer AS a, asked AS q
        WHERE a.rank <= q.n
    ), usage AS (
        -- what was drawn counts, also where it is not among the best
        SELECT sum(a.prompt_tokens) FILTER (WHERE a.rank = 1) AS prompt_tokens,
               sum(a.completion_tokens) AS completion_tokens, min(a.model) AS model
        FROM answer AS a
    )
    SELECT jsonb_build_object(
        'id', 'cmpl-' || replace(gen_random_uuid()::text, '-', ''),
        'object', 'text_completion',
        'created', floor(extract(epoch FROM now()))::bigint,
        'model', u.model,
        'choices', (SELECT jsonb_agg(c.json ORDER BY c.json -> 'index') FROM choice AS c),
        'usage', jsonb_build_object(
            'prompt_tokens', u.prompt_tokens, 'completion_tokens', u.completion_tokens,
            'total_tokens', u.prompt_tokens + u.completion_tokens))
    FROM usage AS u;
END;
COMMENT ON FUNCTION gpt2._completions IS 'gpt2_completions, with errors that are raised';


CREATE FUNCTION gpt2_completions(request jsonb)
RETURNS jsonb
-- plpgsql, as SQL cannot catch an error
LANGUAGE plpgsql VOLATILE STRICT COST 1000000
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    detail text;
    hint text;
    no_model boolean := false;
    status int;
BEGIN
    RETURN gpt2._completions(request);
EXCEPTION
    -- what is wrong with the request; other errors are raised as ever
    WHEN data_exception OR feature_not_supported OR program_limit_exceeded
        OR object_not_in_prerequisite_state THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        no_model := SQLERRM LIKE 'model "%" does not exist';
        status := CASE WHEN no_model THEN 404 WHEN SQLSTATE = '55000' THEN 503 ELSE 400 END;
        -- PostgREST takes the status of its response from here
        PERFORM set_config('response.status', status::text, true);
        RETURN jsonb_build_object('error', jsonb_build_object(
            'message', concat_ws(' ', SQLERRM || '.', nullif(detail, ''), nullif(hint, '')),
            'type', CASE WHEN status = 503 THEN 'server_error' ELSE 'invalid_request_error' END,
            'param', CASE WHEN no_model THEN 'model'
                          WHEN request ? split_part(SQLERRM, ' ', 1)
                          THEN split_part(SQLERRM, ' ', 1) END,
            'code', CASE WHEN no_model THEN 'model_not_found' ELSE SQLSTATE END));
END;
$$;
COMMENT ON FUNCTION gpt2_completions IS
    'what OpenAI''s POST /v1/completions answers: a request and its completions, or the error, as '
    'JSON';
