-- Where two models of one shape differ, weight by weight.


CREATE FUNCTION gpt2._check_same_shape(a gpt2.model, b gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._assert(d.differences IS NULL, 'invalid_parameter_value',
        format('models "%s" and "%s" do not have the same shape', (a).name, (b).name),
        format('Of them, %s.', d.differences),
        'SELECT * FROM gpt2_models(); lists the shapes.')
    FROM (
        SELECT string_agg(format('%s is %s and %s', p.name, i.a ->> p.name, i.b ->> p.name),
                          ', ' ORDER BY p.n)
        FROM (SELECT to_jsonb(_check_same_shape.a) AS a, to_jsonb(_check_same_shape.b) AS b
              OFFSET 0) AS i
        CROSS JOIN unnest(ARRAY[
            'tokenizer', 'n_token', 'eos_token', 'n_vocab', 'n_ctx', 'n_embd', 'n_head', 'n_layer',
            'n_inner', 'activation_function', 'layer_norm_epsilon', 'scale_attn_weights',
            'tie_word_embeddings', 'precision', 'page_size'
        ]) WITH ORDINALITY AS p (name, n)
        WHERE i.a -> p.name <> i.b -> p.name
    ) AS d (differences);
END;
COMMENT ON FUNCTION gpt2._check_same_shape IS
    'true, or an error where shape, tokenizer or precision differ';


CREATE FUNCTION gpt2_model_diff(a text, b text)
RETURNS TABLE (layer text, block int, unit int, distance float8, relative float8)
LANGUAGE sql STABLE PARALLEL SAFE
-- The rows of a model are found by their keys: a hash or a sort of them would fill the disk.
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
BEGIN ATOMIC
    WITH pair AS MATERIALIZED (
        -- Where both have the same base, they differ at most in what either stores of its own.
        SELECT p.a, p.b, (p.a).page_size, p.base_a,
               CASE WHEN p.base_a = p.base_b
                    THEN array_remove(ARRAY[(p.a).model, (p.b).model], p.base_a)
                    ELSE ARRAY[p.base_a] END AS stored
        FROM (
            SELECT a, b, coalesce(a.base, a.model) AS base_a, coalesce(b.base, b.model) AS base_b
            FROM gpt2._chosen_model(gpt2_model_diff.a) AS a
            CROSS JOIN gpt2._chosen_model(gpt2_model_diff.b) AS b
            WHERE gpt2._check_same_shape(a, b)
        ) AS p
    ), linear_key AS MATERIALIZED (
        SELECT p.block, p.layer, p.page
        FROM pair AS i JOIN gpt2.linear_page AS p ON p.model = ANY (i.stored)
    UNION
        SELECT p.block, p.layer, p.page
        FROM pair AS i
        JOIN gpt2.bias_row AS r ON r.model = ANY (i.stored)
        JOIN gpt2.linear_page AS p
            ON p.model = i.base_a AND p.block = r.block AND p.layer = r.layer AND p.slice = 0
    ), changed AS (
        SELECT k.layer::text, NULL::int AS block, k.page * i.page_size + n.i::int - 1 AS unit,
               n.a <-> n.b AS distance, sqrt(-(n.a <#> n.a)) AS norm
        FROM pair AS i
        CROSS JOIN LATERAL (SELECT DISTINCT p.layer, p.page FROM gpt2.token_page AS p
                            WHERE p.model = ANY (i.stored)) AS k
        JOIN gpt2._token_page AS a
            ON a.model = (i.a).model AND a.layer = k.layer AND a.page = k.page
        JOIN gpt2._token_page AS b
            ON b.model = (i.b).model AND b.layer = k.layer AND b.page = k.page
        CROSS JOIN LATERAL unnest(a.weight, b.weight) WITH ORDINALITY AS n (a, b, i)
        WHERE n.a <> n.b
    UNION ALL
        SELECT 'wpe', NULL, k."position", a.weight <-> b.weight, sqrt(-(a.weight <#> a.weight))
        FROM pair AS i
        CROSS JOIN LATERAL (SELECT DISTINCT p."position" FROM gpt2.wpe_row AS p
                            WHERE p.model = ANY (i.stored)) AS k
        JOIN gpt2.wpe AS a ON a.model = (i.a).model AND a."position" = k."position"
        JOIN gpt2.wpe AS b ON b.model = (i.b).model AND b."position" = k."position"
        WHERE a.weight <> b.weight
    UNION ALL
        SELECT k.layer::text, k.block, NULL,
               sqrt((a.weight <-> b.weight) ^ 2 + (a.bias <-> b.bias) ^ 2),
               sqrt(-(a.weight <#> a.weight) - (a.bias <#> a.bias))
        FROM pair AS i
        CROSS JOIN LATERAL (SELECT DISTINCT p.block, p.layer FROM gpt2.layer_norm_row AS p
                            WHERE p.model = ANY (i.stored)) AS k
        JOIN gpt2.layer_norm AS a
            ON a.model = (i.a).model AND a.block = k.block AND a.layer = k.layer
        JOIN gpt2.layer_norm AS b
            ON b.model = (i.b).model AND b.block = k.block AND b.layer = k.layer
        WHERE a.weight <> b.weight OR a.bias <> b.bias
    UNION ALL
        -- a neuron is its bias and all slices of its weights
        SELECT k.layer::text, k.block, k.page * i.page_size + u.i - 1,
               sqrt(u.squared + (x.a - x.b) ^ 2), sqrt(u.norm + x.a ^ 2)
        FROM pair AS i
        CROSS JOIN linear_key AS k
        JOIN gpt2.bias AS a ON a.model = (i.a).model AND a.block = k.block AND a.layer = k.layer
        JOIN gpt2.bias AS b ON b.model = (i.b).model AND b.block = k.block AND b.layer = k.layer
        CROSS JOIN LATERAL (
            SELECT n.i::int, bool_or(n.a <> n.b) AS differs, sum((n.a <-> n.b) ^ 2) AS squared,
                   sum(-(n.a <#> n.a)) AS norm
            FROM gpt2._linear_page AS a
            JOIN gpt2._linear_page AS b
                ON b.model = (i.b).model AND b.block = k.block AND b.layer = k.layer
                AND b.slice = a.slice AND b.page = k.page
            CROSS JOIN LATERAL unnest(a.weight, b.weight) WITH ORDINALITY AS n (a, b, i)
            WHERE a.model = (i.a).model AND a.block = k.block AND a.layer = k.layer
              AND a.page = k.page
            GROUP BY n.i
        ) AS u
        CROSS JOIN LATERAL (
            SELECT (a.bias::real[])[k.page * i.page_size + u.i]::float8,
                   (b.bias::real[])[k.page * i.page_size + u.i]::float8
            OFFSET 0
        ) AS x (a, b)
        WHERE u.differs OR x.a <> x.b
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
