-- Where two models of one shape differ, weight by weight.


CREATE FUNCTION gpt2._check_same_shape(a gpt2.model, b gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- so that different numbers are different as JSON
SET extra_float_digits = 1
BEGIN ATOMIC
    SELECT gpt2._assert(d.differences IS NULL, 'invalid_parameter_value',
        format('models "%s" and "%s" do not have the same shape', (a).name, (b).name),
        format('Of them, %s.', d.differences),
        'SELECT * FROM gpt2_models(); lists the shapes.')
    FROM (
        SELECT string_agg(format('%s is %s and %s', p.name, to_jsonb(a) ->> p.name,
                                 to_jsonb(b) ->> p.name), ', ' ORDER BY p.n)
        FROM unnest(ARRAY[
            'tokenizer', 'n_token', 'eos_tokens', 'n_vocab', 'n_ctx', 'n_embd', 'n_head', 'n_layer',
            'n_inner', 'activation_function', 'layer_norm_epsilon', 'scale_attn_weights',
            'scale_attn_by_inverse_layer_idx', 'tie_word_embeddings', 'dtype', 'page_size'
        ]) WITH ORDINALITY AS p (name, n)
        WHERE to_jsonb(a) -> p.name <> to_jsonb(b) -> p.name
    ) AS d (differences);
END;
COMMENT ON FUNCTION gpt2._check_same_shape IS
    'true, or an error where shape, tokenizer or dtype differ';


CREATE FUNCTION gpt2_model_diff(a text, b text)
RETURNS TABLE (layer text, block int, unit int, distance float8, relative float8)
LANGUAGE sql STABLE PARALLEL SAFE
-- The rows of a model are found by their keys: a hash or a sort of them would fill the disk. Its
-- number is a scalar subquery's, so that it is one of those keys whatever the planner expects.
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
BEGIN ATOMIC
    WITH pair AS (
        -- Where both have the same base, their pages differ at most in what either stores.
        SELECT (p.a).model AS a, (p.b).model AS b, (p.a).page_size, p.base_a,
               CASE WHEN p.base_a = p.base_b
                    THEN array_remove(ARRAY[(p.a).model, (p.b).model], p.base_a)
                    ELSE ARRAY[p.base_a] END AS stored
        FROM (
            SELECT a, b, coalesce(a.base, a.model) AS base_a, coalesce(b.base, b.model) AS base_b
            FROM gpt2._chosen_model(gpt2_model_diff.a) AS a
            CROSS JOIN gpt2._chosen_model(gpt2_model_diff.b) AS b
            WHERE gpt2._check_same_shape(a, b)
        ) AS p
    ), bias AS (
        SELECT a.block, a.layer, a.bias AS a, b.bias AS b
        FROM gpt2.bias AS a JOIN gpt2.bias AS b ON b.block = a.block AND b.layer = a.layer
        WHERE a.model = (SELECT i.a FROM pair AS i) AND b.model = (SELECT i.b FROM pair AS i)
    ), key AS (
        SELECT p.block, p.layer, p.page
        FROM gpt2.matrix_page AS p
        WHERE p.model = ANY ((SELECT i.stored FROM pair AS i)::int[])
    UNION
        SELECT p.block, p.layer, p.page
        FROM bias AS b
        JOIN gpt2.matrix_page AS p
            ON p.model = (SELECT i.base_a FROM pair AS i) AND p.block = b.block
            AND p.layer = b.layer AND p.slice = 0
        WHERE b.a <> b.b
    ), changed AS (
        -- a neuron is its bias and all slices of its weights; a token has no bias
        SELECT k.layer::text, nullif(k.block, -1) AS block, k.page * i.page_size + u.i - 1 AS unit,
               sqrt(u.squared + (x.a - x.b) ^ 2) AS distance, sqrt(u.norm + x.a ^ 2) AS norm
        FROM pair AS i
        CROSS JOIN key AS k
        LEFT JOIN bias AS b ON b.block = k.block AND b.layer = k.layer
        CROSS JOIN LATERAL (
            SELECT n.i::int, bool_or(n.a <> n.b) AS differs, sum((n.a <-> n.b) ^ 2) AS squared,
                   sum(-(n.a <#> n.a)) AS norm
            FROM gpt2._matrix_page AS a
            JOIN gpt2._matrix_page AS b
                ON b.model = i.b AND b.block = k.block AND b.layer = k.layer
                AND b.slice = a.slice AND b.page = k.page
            CROSS JOIN LATERAL unnest(a.weight, b.weight) WITH ORDINALITY AS n (a, b, i)
            WHERE a.model = i.a AND a.block = k.block AND a.layer = k.layer AND a.page = k.page
            GROUP BY n.i
        ) AS u
        CROSS JOIN LATERAL (
            SELECT coalesce((b.a::real[])[k.page * i.page_size + u.i]::float8, 0),
                   coalesce((b.b::real[])[k.page * i.page_size + u.i]::float8, 0)
        ) AS x (a, b)
        WHERE u.differs OR x.a <> x.b
    UNION ALL
        SELECT 'wpe', NULL, a."position", a.weight <-> b.weight, sqrt(-(a.weight <#> a.weight))
        FROM gpt2.wpe AS a JOIN gpt2.wpe AS b ON b."position" = a."position"
        WHERE a.model = (SELECT i.a FROM pair AS i) AND b.model = (SELECT i.b FROM pair AS i)
          AND a.weight <> b.weight
    UNION ALL
        SELECT a.layer::text, a.block, NULL,
               sqrt((a.weight <-> b.weight) ^ 2 + (a.bias <-> b.bias) ^ 2),
               sqrt(-(a.weight <#> a.weight) - (a.bias <#> a.bias))
        FROM gpt2.layer_norm AS a
        JOIN gpt2.layer_norm AS b ON b.block = a.block AND b.layer = a.layer
        WHERE a.model = (SELECT i.a FROM pair AS i) AND b.model = (SELECT i.b FROM pair AS i)
          AND (a.weight <> b.weight OR a.bias <> b.bias)
    )
    SELECT c.layer, c.block, c.unit, c.distance, c.distance / nullif(c.norm, 0)
    FROM changed AS c
    -- as a token meets them
    ORDER BY c.layer = 'lm_head', c.block NULLS FIRST,
             array_position(ARRAY['wte', 'wpe', 'ln_1', 'attn.c_attn', 'attn.c_proj', 'ln_2',
                                  'mlp.c_fc', 'mlp.c_proj', 'ln_f', 'lm_head'], c.layer),
             c.unit;
END;
COMMENT ON FUNCTION gpt2_model_diff IS
    'the neurons, tokens, positions and layer norms in which two models differ, and how far';
