-- Multi-layer perceptron: two linear layers with a smooth step between them. In GPT-2 it holds two
-- thirds of a block's weights.  [n_embd] -> [n_inner] -> [n_embd]
--     mlp(x) = c_proj(gelu(c_fc(x)))
-- Source: mlp() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._gelu_each(x vector, exact boolean)
RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- which of the two is asked once: for every number it took 2.7 of 33 ms
    SELECT ARRAY(SELECT gpt2._gelu(u.x, i.exact)
                 FROM (SELECT unnest(_gelu_each.x::real[]) AS x) AS u)::vector
    FROM (SELECT _gelu_each.exact OFFSET 0) AS i
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._gelu_each IS 'gelu of each number of a vector';


CREATE FUNCTION gpt2._mlp(
    x vector, m gpt2.model, block int, "position" int DEFAULT NULL, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (pre vector, post vector, y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT pre.y, post.y, o.y
    FROM gpt2._linear(_mlp.x, m, _mlp.block, 'mlp.c_fc') AS l
    CROSS JOIN LATERAL gpt2._hook(
        l.y, 'mlp.hook_pre', _mlp.block, NULL, _mlp."position", patch) AS pre
    CROSS JOIN LATERAL gpt2._gelu_each(pre.y, (m).activation_function = 'gelu') AS g
    CROSS JOIN LATERAL gpt2._hook(
        g.y, 'mlp.hook_post', _mlp.block, NULL, _mlp."position", patch) AS post
    CROSS JOIN LATERAL gpt2._linear(post.y, m, _mlp.block, 'mlp.c_proj') AS p
    CROSS JOIN LATERAL gpt2._hook(
        p.y, 'hook_mlp_out', _mlp.block, NULL, _mlp."position", patch) AS o;
END;
COMMENT ON FUNCTION gpt2._mlp IS
    'c_proj(gelu(c_fc(x))) of one position: pre and post are the neurons before and after gelu';
