-- What a function reads: the model, and the tokens of a prompt.


CREATE FUNCTION gpt2._prompt_tokens(prompt text, m gpt2.model)
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
        SELECT i.tokens, cardinality(i.tokens) AS n
        FROM (SELECT gpt2._tokenize(prompt, (m).tokenizer, (m).n_token) AS tokens OFFSET 0) AS i
    ) AS t;
END;
COMMENT ON FUNCTION gpt2._prompt_tokens IS
    'tokens of a prompt, or an error where they do not fit the context';


CREATE FUNCTION gpt2._input(
    prompt text, model text,
    steer gpt2.steering[] DEFAULT NULL, patch gpt2.activation[] DEFAULT NULL
) RETURNS TABLE (m gpt2.model, tokens int[], steer gpt2.steering[], patch gpt2._patch)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- to plan the two checks takes a millisecond, which a call without them is spared
    SELECT i.m, i.tokens,
           CASE WHEN _input.steer IS NOT NULL THEN gpt2._steering(_input.steer, i.m) END,
           CASE WHEN _input.patch IS NOT NULL
                THEN gpt2._patch(_input.patch, cardinality(i.tokens), i.m) END
    FROM (
        SELECT m, gpt2._prompt_tokens(prompt, m) AS tokens
        FROM gpt2._chosen_model(_input.model) AS m
        WHERE prompt IS NOT NULL
        OFFSET 0
    ) AS i;
END;
COMMENT ON FUNCTION gpt2._input IS
    'what a function reads: the model, the prompt''s tokens, what is added to and put in the place '
    'of activations; no row for a NULL prompt';


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
