-- Layer normalisation: each position's activations to mean 0 and variance 1 (formula.sql), then
-- scaled and shifted by learned vectors.  [n_embd] -> [n_embd]
-- Source: Ba, Kiros, Hinton 2016 (arXiv:1607.06450); norm() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._layer_norm(
    x vector, m gpt2.model, block int, layer gpt2.norm,
    "position" int DEFAULT NULL, patch gpt2._patch DEFAULT NULL
) RETURNS TABLE (normalized vector, y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT n.y, o.y
    FROM gpt2._normalize(_layer_norm.x, (m).layer_norm_epsilon) AS f
    CROSS JOIN LATERAL gpt2._hook(
        f.y, gpt2._norm_hook(_layer_norm.layer) || 'hook_normalized',
        CASE WHEN _layer_norm.layer <> 'ln_f' THEN _layer_norm.block END, NULL,
        _layer_norm."position", patch) AS n
    JOIN gpt2.layer_norm AS w
        ON w.model = (m).model AND w.block = _layer_norm.block AND w.layer = _layer_norm.layer
    CROSS JOIN LATERAL gpt2._hook(
        n.y * w.weight + w.bias, gpt2._norm_hook(_layer_norm.layer) || 'hook_out',
        CASE WHEN _layer_norm.layer <> 'ln_f' THEN _layer_norm.block END, NULL,
        _layer_norm."position", patch) AS o;
END;
COMMENT ON FUNCTION gpt2._layer_norm IS
    'layer normalisation of one position: y = normalized * weight + bias';
