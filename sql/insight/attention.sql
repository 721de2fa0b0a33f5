-- Where the heads look: the attention pattern as rows, and what kind of head each one is.
-- Source of the kinds: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits;
-- Olsson et al. 2022 (arXiv:2209.11895) for induction.


CREATE FUNCTION gpt2._check_head(head int, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._assert(head BETWEEN 0 AND (m).n_head - 1, 'invalid_parameter_value',
    format('head %s does not exist in model "%s"', coalesce(head::text, 'NULL'), (m).name),
    format('Its heads are 0 to %s.', (m).n_head - 1),
    'SELECT name, n_head FROM gpt2_models(); lists the numbers of heads.');
COMMENT ON FUNCTION gpt2._check_head IS 'true, or an error where the model has no such head';


CREATE FUNCTION gpt2_attention(
    text text, block int, head int, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS TABLE (
    query_position int, query_piece text, key_position int, key_piece text, weight float8
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_attention.text, input_ids, special_tokens),
                         gpt2_attention.model) AS i
        WHERE gpt2._check_head(gpt2_attention.head, i.m)
    ), token AS (
        SELECT p."position", p.piece FROM input AS i, gpt2._pieces(i.tokens, i.m) AS p
    )
    SELECT q."position", q.piece, k."position", k.piece, w.weight
    FROM input AS i
    CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
        '{attn.hook_pattern}', ARRAY[gpt2_attention.block], i.m)) AS t
    CROSS JOIN LATERAL unnest(t.value::real[]) WITH ORDINALITY AS w (weight, n)
    JOIN token AS q ON q."position" = t."position"
    JOIN token AS k ON k."position" = w.n - 1
    -- NULL would be no condition to look at the rows for, and the check would not run
    WHERE t.head = coalesce(gpt2_attention.head, -1)
    ORDER BY q."position", k."position";
END;
COMMENT ON FUNCTION gpt2_attention IS
    'attention of one head: the weight that each position gives to itself and to each before it';


CREATE FUNCTION gpt2_head_summary(
    text text DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS TABLE (
    block int, head int, previous float8, "first" float8, self float8, duplicate float8,
    induction float8, entropy float8
)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 144
--@include ../model/settings.sql
BEGIN ATOMIC
    -- Averages over the positions after the first, which can only look at itself; duplicate and
    -- induction over those whose token was there before: NULL where there are none.
    WITH input AS (
        SELECT i.*
        FROM gpt2._input(gpt2._prompt(gpt2_head_summary.text, input_ids, special_tokens),
                         gpt2_head_summary.model) AS i
    ), token AS (
        SELECT t.token, t.n - 1 AS "position", lag(t.token) OVER (ORDER BY t.n) AS previous
        FROM input AS i
        CROSS JOIN LATERAL unnest(i.tokens) WITH ORDINALITY AS t (token, n)
    ), pair AS (
        -- positions and those that they can see
        SELECT q."position" AS query, k."position" AS key,
               k."position" < q."position" AND k.token = q.token AS is_duplicate,
               coalesce(k.previous = q.token, false) AS is_induction
        FROM token AS q
        JOIN token AS k ON k."position" <= q."position"
        WHERE q."position" > 0
    ), repeated AS (
        SELECT nullif(count(DISTINCT p.query), 0) AS n FROM pair AS p WHERE p.is_duplicate
    )
    SELECT t.block, t.head,
           avg(w.weight) FILTER (WHERE p.key = p.query - 1),
           avg(w.weight) FILTER (WHERE p.key = 0),
           avg(w.weight) FILTER (WHERE p.key = p.query),
           sum(w.weight) FILTER (WHERE p.is_duplicate) / r.n,
           sum(w.weight) FILTER (WHERE p.is_induction) / r.n,
           -- in bits; weight * ln(weight) is 0 for weight 0
           sum(CASE WHEN w.weight > 0 THEN -w.weight * ln(w.weight) / ln(2::float8) ELSE 0 END)
               / nullif(count(*) FILTER (WHERE p.key = 0), 0)
    FROM input AS i
    CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
        '{attn.hook_pattern}', NULL, i.m)) AS t
    CROSS JOIN repeated AS r
    CROSS JOIN LATERAL unnest(t.value::real[]::float8[]) WITH ORDINALITY AS w (weight, n)
    LEFT JOIN pair AS p ON p.query = t."position" AND p.key = w.n - 1
    GROUP BY t.block, t.head, r.n
    ORDER BY t.block, t.head;
END;
COMMENT ON FUNCTION gpt2_head_summary IS
    'what each head attends to, as shares: the previous position, the first, itself, the same '
    'token earlier, the one after it (induction); and the entropy of its attention in bits';
