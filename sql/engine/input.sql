-- What a function reads: the model, and the tokens of a prompt, which is a text or a list of token
-- ids.


CREATE TYPE gpt2._prompt AS (
    text text,
    input_ids int[],         -- in place of the text
    special_tokens boolean,  -- whether a special token that stands in the text is one
    truncate text            -- from which end to shorten it where it is too long
);
COMMENT ON TYPE gpt2._prompt IS 'a prompt as it was asked for';


CREATE FUNCTION gpt2._prompt(
    text text, input_ids int[], special_tokens boolean, truncate text DEFAULT NULL
) RETURNS gpt2._prompt
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ROW(text, input_ids, special_tokens, truncate)::gpt2._prompt;
COMMENT ON FUNCTION gpt2._prompt IS 'a prompt as it was asked for, of its parts';


CREATE FUNCTION gpt2._given_ids(prompt gpt2._prompt, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN gpt2._assert((prompt).text IS NULL, 'invalid_parameter_value',
            'the prompt is given twice', 'As text, and as input_ids.',
            'Leave one of them out, or NULL.')
     AND gpt2._check_ids((prompt).input_ids, m)
    -- a slice is counted from 1
    THEN ((prompt).input_ids)[:] END;
COMMENT ON FUNCTION gpt2._given_ids IS
    'tokens of a prompt that is given as ids, or an error where the model does not have one';


CREATE FUNCTION gpt2._prompt_ids(prompt gpt2._prompt, m gpt2.model)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN (prompt).input_ids IS NULL
    THEN gpt2._tokenize((prompt).text, (m).tokenizer, (m).n_token, (prompt).special_tokens)
    ELSE gpt2._given_ids(prompt, m) END;
COMMENT ON FUNCTION gpt2._prompt_ids IS 'tokens of a prompt, however many';


CREATE FUNCTION gpt2._shorten(tokens int[], m gpt2.model, truncate text, room int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
-- As transformers' pipeline does with handle_long_generation: what comes after fits too.
RETURN CASE
    WHEN gpt2._assert(truncate IN ('left', 'right'), 'invalid_parameter_value',
            format('truncate "%s" does not exist', truncate),
            'It says which end of a text that is too long is left out.',
            'Use left, right, or NULL for an error.')
     AND gpt2._assert(room < (m).n_ctx, 'program_limit_exceeded',
            format('the context of model "%s" has no room for the prompt', (m).name),
            format('It has %s tokens, and %s are to come after the prompt.', (m).n_ctx, room),
            'Ask for fewer.')
    THEN CASE truncate
         WHEN 'left' THEN tokens[greatest(cardinality(tokens) - (m).n_ctx + room, 0) + 1:]
         ELSE tokens[:(m).n_ctx - room] END
    END;
COMMENT ON FUNCTION gpt2._shorten IS
    'tokens that fit the context, with room for what comes after: the last or the first ones';


CREATE FUNCTION gpt2._prompt_tokens(prompt gpt2._prompt, m gpt2.model, room int)
RETURNS int[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN gpt2._assert(t.n <= (m).n_ctx, 'program_limit_exceeded',
            format('the prompt is too long for model "%s"', (m).name),
            format('It has %s tokens, the context is %s.', t.n, (m).n_ctx),
            'Shorten the prompt; SELECT count(*) FROM gpt2_tokens(prompt); counts its tokens.')
         AND gpt2._assert(t.n > 0 OR (m).bos_token IS NOT NULL, 'invalid_parameter_value',
            'the prompt is empty',
            format('Model "%s" has no token that begins a text.', (m).name),
            'Begin it with a character.')
        -- an empty prompt is <|endoftext|>, after which a document begins
        THEN CASE WHEN t.n = 0 THEN ARRAY[(m).bos_token] ELSE t.tokens END
    END
    FROM (
        SELECT c.tokens, cardinality(c.tokens) AS n
        FROM (SELECT gpt2._prompt_ids(prompt, m) AS tokens OFFSET 0) AS i
        CROSS JOIN LATERAL (
            SELECT CASE WHEN (prompt).truncate IS NULL THEN i.tokens
                        ELSE gpt2._shorten(i.tokens, m, (prompt).truncate, room) END AS tokens
            OFFSET 0
        ) AS c
    ) AS t;
END;
COMMENT ON FUNCTION gpt2._prompt_tokens IS
    'tokens of a prompt, or an error where they do not fit the context; room is what is kept free '
    'in it where the prompt is cut';


CREATE FUNCTION gpt2._input(
    prompt gpt2._prompt, model text, steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL, room int DEFAULT 0
) RETURNS TABLE (m gpt2.model, tokens int[], steer gpt2.steering[], patch gpt2._patch)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- to plan the two checks takes a millisecond, which a call without them is spared
    SELECT i.m, i.tokens,
           CASE WHEN _input.steer IS NOT NULL THEN gpt2._steering(_input.steer, i.m) END,
           CASE WHEN _input.patch IS NOT NULL
                THEN gpt2._patch(_input.patch, cardinality(i.tokens), i.m) END
    FROM (
        SELECT m, gpt2._prompt_tokens(prompt, m, room) AS tokens
        FROM gpt2._chosen_model(_input.model) AS m
        WHERE num_nonnulls((prompt).text, (prompt).input_ids) > 0
        OFFSET 0
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._input IS
    'what a function reads: the model, the prompt''s tokens, what is added to and put in the place '
    'of activations; no row for a NULL prompt';


CREATE FUNCTION gpt2._bytes(tokens int[], m gpt2.model)
RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(string_agg(t.bytes, '' ORDER BY i.n), '')
    FROM unnest(tokens) WITH ORDINALITY AS i (token, n)
    JOIN gpt2.token AS t
        ON t.tokenizer = (m).tokenizer AND t.token = i.token AND t.token < (m).n_token;
END;
COMMENT ON FUNCTION gpt2._bytes IS
    'bytes of tokens; ids that only fill up the vocabulary have none';


CREATE FUNCTION gpt2._echo(prompt gpt2._prompt, m gpt2.model, echo boolean)
RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
-- Bytes: a list of tokens may end inside a character, which the completion goes on with.
RETURN CASE WHEN echo IS NOT TRUE THEN ''::bytea
            WHEN (prompt).input_ids IS NULL THEN convert_to((prompt).text, 'UTF8')
            ELSE gpt2._bytes((prompt).input_ids, m) END;
COMMENT ON FUNCTION gpt2._echo IS
    'what a result begins with: the bytes of the whole prompt, or none';


CREATE FUNCTION gpt2._shown(prompt gpt2._prompt, m gpt2.model)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._utf8(gpt2._echo(prompt, m, true));
COMMENT ON FUNCTION gpt2._shown IS 'a prompt as text, also where it is given as ids';


CREATE FUNCTION gpt2._pieces(tokens int[], m gpt2.model)
RETURNS TABLE ("position" int, token int, piece text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT i.n::int - 1, i.token,
           gpt2._utf8(t.bytes)
    FROM unnest(tokens) WITH ORDINALITY AS i (token, n)
    LEFT JOIN gpt2.token AS t ON t.tokenizer = (m).tokenizer AND t.token = i.token;
END;
COMMENT ON FUNCTION gpt2._pieces IS 'tokens as text, a row each';
