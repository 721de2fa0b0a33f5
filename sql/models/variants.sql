-- Variants: a model that stores only the rows in which it differs from another, its base. It begins
-- with none; an UPDATE of gpt2.linear, gpt2.wte, gpt2.lm_head, gpt2.wpe, gpt2.layer_norm or
-- gpt2.bias copies the row or page that it changes (neurons.sql), and reads prefer it.


CREATE FUNCTION gpt2_create_variant(name text, from_model text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parent gpt2.model;
    variant int;
BEGIN
    PERFORM gpt2._check_name(name);
    -- Nobody shall drop the base from here on.
    LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO parent FROM gpt2._chosen_model(from_model);
    variant := gpt2._add_model(name, to_jsonb(parent) || jsonb_build_object(
        'base', coalesce(parent.base, parent.model), 'revision', NULL, 'sha256', NULL,
        'source', format('variant of "%s"', parent.name)));
    -- A variant of a variant is one of the same base, and begins with what the other has.
    IF parent.base IS NOT NULL THEN
        INSERT INTO gpt2.token_page (model, layer, page, weight, half)
        SELECT variant, p.layer, p.page, p.weight, p.half
        FROM gpt2.token_page AS p WHERE p.model = parent.model;
        INSERT INTO gpt2.wpe_row (model, "position", weight)
        SELECT variant, p."position", p.weight
        FROM gpt2.wpe_row AS p WHERE p.model = parent.model;
        INSERT INTO gpt2.layer_norm_row (model, block, layer, weight, bias)
        SELECT variant, p.block, p.layer, p.weight, p.bias
        FROM gpt2.layer_norm_row AS p WHERE p.model = parent.model;
        INSERT INTO gpt2.bias_row (model, block, layer, bias)
        SELECT variant, p.block, p.layer, p.bias
        FROM gpt2.bias_row AS p WHERE p.model = parent.model;
        INSERT INTO gpt2.linear_page (model, block, layer, slice, page, weight, half)
        SELECT variant, p.block, p.layer, p.slice, p.page, p.weight, p.half
        FROM gpt2.linear_page AS p WHERE p.model = parent.model;
    END IF;
    RETURN name;
END;
$$;
COMMENT ON FUNCTION gpt2_create_variant IS
    'makes a model that stores only what differs from another, to be edited; gives its name';
