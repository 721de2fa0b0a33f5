-- Multi-layer perceptron: two linear layers with a smooth step between them. In GPT-2 it holds two
-- thirds of a block's weights.  [n_embd] -> [n_inner] -> [n_embd]
-- Source: mlp() and gelu() in openai/gpt-2, src/model.py; Hendrycks, Gimpel 2016
-- (arXiv:1606.08415).


-- erf() came with PostgreSQL 16; only models with the exact 'gelu' need it. IMMUTABLE in both
-- cases, or gpt2._gelu could not be inlined, and would take twenty times as long.
DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int >= 160000 THEN
        CREATE FUNCTION gpt2._erf(x float8) RETURNS float8
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        AS 'SELECT pg_catalog.erf(x)';
    ELSE
        CREATE FUNCTION gpt2._erf(x float8) RETURNS float8
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        AS $body$
            SELECT gpt2._raise(x, 'feature_not_supported',
                'activation function "gelu" needs erf(), which this server does not have',
                pg_catalog.format('This is PostgreSQL %s, erf() came with 16.',
                                  pg_catalog.current_setting('server_version')))
        $body$;
    END IF;
END;
$$;
COMMENT ON FUNCTION gpt2._erf IS 'error function, where the server has it';


CREATE FUNCTION gpt2._gelu(x float8, exact boolean)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 0.5 * x * (1 + CASE
    WHEN exact THEN gpt2._erf(x / sqrt(2::float8))
    ELSE tanh(sqrt(2 / pi()) * (x + 0.044715 * x * x * x))
END);
COMMENT ON FUNCTION gpt2._gelu IS
    'Gaussian error linear unit: exact (gelu), or by its tanh approximation (gelu_new)';


CREATE FUNCTION gpt2._mlp(
    x vector, m gpt2.model, block int, "position" int DEFAULT NULL, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (pre vector, post vector, y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT pre.x, post.x, o.y
    FROM (
        -- [n_inner]
        SELECT gpt2._hook(l.y, 'mlp.hook_pre', _mlp.block, NULL, _mlp."position", patch)
        FROM gpt2._linear(_mlp.x, m, _mlp.block, 'mlp.c_fc') AS l
        OFFSET 0
    ) AS pre (x)
    CROSS JOIN LATERAL (
        -- [n_inner]; what is asked of m is asked once: for every unit it took 2.7 of 33 ms
        SELECT gpt2._hook(
            ARRAY(SELECT gpt2._gelu(u.x, activation.exact)
                  FROM (SELECT unnest(pre.x::real[]) AS x) AS u)::vector,
            'mlp.hook_post', _mlp.block, NULL, _mlp."position", patch)
        FROM (SELECT (m).activation_function = 'gelu' AS exact OFFSET 0) AS activation
        OFFSET 0
    ) AS post (x)
    CROSS JOIN LATERAL (
        SELECT gpt2._hook(l.y, 'hook_mlp_out', _mlp.block, NULL, _mlp."position", patch)
        FROM gpt2._linear(post.x, m, _mlp.block, 'mlp.c_proj') AS l
        OFFSET 0
    ) AS o (y);
END;
COMMENT ON FUNCTION gpt2._mlp IS
    'c_proj(gelu(c_fc(x))) of one position: pre and post are the neurons before and after gelu';
