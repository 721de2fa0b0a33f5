-- Variants: a model that stores only those pages of its matrices in which it differs from another,
-- its base, beside a copy of what is small: 0.7 % of the weights with 124M parameters. It begins
-- with no page; an UPDATE of gpt2.linear, gpt2.wte or gpt2.lm_head copies the page that it changes
-- (neurons.sql), and reads prefer it (gpt2._pages).


CREATE FUNCTION gpt2_create_variant(name text, from_model text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
-- so that numbers pass unchanged through JSON
SET extra_float_digits = 1
AS $$
DECLARE
    parent gpt2.model;
    variant int;
BEGIN
    PERFORM gpt2._lock_models();  -- nobody shall drop the base from here on
    SELECT * INTO parent FROM gpt2._chosen_model(from_model);
    variant := gpt2._add_model(name, to_jsonb(parent) || jsonb_build_object(
        'base', coalesce(parent.base, parent.model), 'revision', NULL, 'sha256', NULL,
        'source', format('variant of "%s"', parent.name)));
    INSERT INTO gpt2.bias (model, block, layer, bias)
    SELECT variant, b.block, b.layer, b.bias FROM gpt2.bias AS b WHERE b.model = parent.model;
    INSERT INTO gpt2.layer_norm (model, block, layer, weight, bias)
    SELECT variant, n.block, n.layer, n.weight, n.bias
    FROM gpt2.layer_norm AS n WHERE n.model = parent.model;
    INSERT INTO gpt2.wpe (model, "position", weight)
    SELECT variant, w."position", w.weight FROM gpt2.wpe AS w WHERE w.model = parent.model;
    -- A variant of a variant is one of the same base, and begins with the other's pages.
    INSERT INTO gpt2.matrix_page (model, block, layer, slice, page, weight, half)
    SELECT variant, p.block, p.layer, p.slice, p.page, p.weight, p.half
    FROM gpt2.matrix_page AS p WHERE p.model = parent.model AND parent.base IS NOT NULL;
    RETURN name;
END;
$$;
COMMENT ON FUNCTION gpt2_create_variant IS
    'makes a model that stores only what differs from another, to be edited; gives its name';
