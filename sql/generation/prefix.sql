-- The prompt cache as a value: the beginning that many prompts share is read once.


CREATE FUNCTION gpt2_prefix(
    prompt text DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS gpt2.prefix
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT ROW((i.m).model, gpt2._edition(i.m), i.tokens, (c.context).n_past, (c.context).past,
               (c.context).recent, (c.context).y)::gpt2.prefix
    FROM gpt2._input(gpt2._prompt(prompt, input_ids, special_tokens), gpt2_prefix.model) AS i
    CROSS JOIN LATERAL (
        SELECT gpt2._run(gpt2._begin(i.tokens, i.m), i.m, cardinality(i.tokens)) AS context
        OFFSET 0
    ) AS c;
END;
COMMENT ON FUNCTION gpt2_prefix IS
    'the beginning of prompts, read once: to be stored, and given to functions as their prefix';
