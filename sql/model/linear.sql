-- Linear layer: a neuron's output is its bias plus the inner product of its weights with the input.
-- [n_in] -> [n_out]
-- Source: conv1d() in openai/gpt-2, src/model.py.


CREATE FUNCTION gpt2._edited_linear(
    x vector, half halfvec, model int, base int, block int, layer gpt2.layer, slice int
) RETURNS float8[]
LANGUAGE sql STABLE PARALLEL SAFE
-- Both come from the index in the order of their pages: merging them costs next to nothing.
SET enable_nestloop = off
SET enable_hashjoin = off
BEGIN ATOMIC
    SELECT CASE WHEN _edited_linear.half IS NULL
        THEN ARRAY(
            SELECT unnest(coalesce(o.weight, p.weight)) <#> _edited_linear.x
            FROM gpt2.linear_page AS p
            LEFT JOIN gpt2.linear_page AS o
                ON o.model = _edited_linear.model AND o.block = _edited_linear.block
                AND o.layer = _edited_linear.layer AND o.slice = _edited_linear.slice
                AND o.page = p.page
            WHERE p.model = base AND p.block = _edited_linear.block
              AND p.layer = _edited_linear.layer AND p.slice = _edited_linear.slice
            ORDER BY p.page)
        ELSE ARRAY(
            SELECT unnest(coalesce(o.half, p.half)) <#> _edited_linear.half
            FROM gpt2.linear_page AS p
            LEFT JOIN gpt2.linear_page AS o
                ON o.model = _edited_linear.model AND o.block = _edited_linear.block
                AND o.layer = _edited_linear.layer AND o.slice = _edited_linear.slice
                AND o.page = p.page
            WHERE p.model = base AND p.block = _edited_linear.block
              AND p.layer = _edited_linear.layer AND p.slice = _edited_linear.slice
            ORDER BY p.page)
        END;
END;
COMMENT ON FUNCTION gpt2._edited_linear IS
    'negated inner products with the pages of a variant, where it has none with those of its base';


CREATE FUNCTION gpt2._linear(x vector, m gpt2.model, block int, layer gpt2.layer)
RETURNS TABLE (y vector)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- <#> is the inner product, negated; the index gives the pages in the order of the neurons.
    -- OFFSET 0 is a fence: without it the planner computes y again wherever it is mentioned, and
    -- x, its rounding to float16 and the fields of m again for every page.
    -- A variant reads a layer of which it has no page of its own as its base does. The second
    -- subquery for a bias is run where the first finds nothing: in a variant.
    SELECT coalesce(
        (SELECT b.bias FROM gpt2.bias_row AS b
         WHERE b.model = input.model AND b.block = input.block AND b.layer = input.layer),
        (SELECT b.bias FROM gpt2.bias_row AS b
         WHERE b.model = input.base AND b.block = input.block AND b.layer = input.layer)
    ) - wx.y
    FROM (
        SELECT (m).model, (m).base, coalesce((m).base, (m).model) AS source, (m).n_embd,
               (m).precision, _linear.block, _linear.layer, _linear.x,
               (m).base IS NOT NULL AND EXISTS (
                   SELECT FROM gpt2.linear_page AS o
                   WHERE o.model = (m).model AND o.block = _linear.block
                     AND o.layer = _linear.layer) AS edited
        OFFSET 0
    ) AS input
    CROSS JOIN LATERAL (
        -- a slice is n_embd of the inputs
        SELECT sum(CASE
            WHEN input.edited THEN gpt2._edited_linear(
                slice.x, slice.half, input.model, input.base, input.block, input.layer,
                slice.slice)
            WHEN slice.precision = 'float32' THEN ARRAY(
                SELECT unnest(p.weight) <#> slice.x
                FROM gpt2.linear_page AS p
                WHERE p.model = input.source AND p.block = input.block AND p.layer = input.layer
                  AND p.slice = slice.slice
                ORDER BY p.page)
            ELSE ARRAY(
                SELECT unnest(p.half) <#> slice.half
                FROM gpt2.linear_page AS p
                WHERE p.model = input.source AND p.block = input.block AND p.layer = input.layer
                  AND p.slice = slice.slice
                ORDER BY p.page)
            END::vector) AS y
        FROM (
            SELECT s.slice, s.x, input.precision,
                   CASE input.precision WHEN 'float16' THEN s.x::halfvec END AS half
            FROM (
                SELECT i AS slice, subvector(input.x, i * input.n_embd + 1, input.n_embd) AS x
                FROM generate_series(0, (vector_dims(input.x) - 1) / input.n_embd) AS i
                OFFSET 0
            ) AS s
            OFFSET 0
        ) AS slice
    ) AS wx
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._linear IS 'weights times x plus bias';
