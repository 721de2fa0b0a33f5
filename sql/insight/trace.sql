-- The trace: every activation of a forward pass as a row.


CREATE FUNCTION gpt2_trace(
    text text DEFAULT NULL, hooks text[] DEFAULT NULL, blocks int[] DEFAULT NULL,
    model text DEFAULT NULL, steer gpt2.steering[] DEFAULT NULL,
    patch gpt2.activation[] DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS SETOF gpt2.activation
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS MATERIALIZED (
        SELECT i.*, gpt2._wanted(hooks, blocks, i.m) AS wanted
        FROM gpt2._input(gpt2._prompt(gpt2_trace.text, input_ids, special_tokens),
                         gpt2_trace.model, gpt2_trace.steer, gpt2_trace.patch) AS i
    )
    SELECT a.*
    FROM input AS i
    CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, i.wanted, i.patch, i.steer) AS a;
END;
COMMENT ON FUNCTION gpt2_trace IS
    'activations of the forward pass over a prompt, a row each, by TransformerLens'' names';
