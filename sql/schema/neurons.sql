-- A neuron is a row: the pages of gpt2.linear_page and gpt2.token_page as a reader thinks of them.
-- One can update a bias or a weight in these views, which is how a model is edited.


CREATE VIEW gpt2.linear AS
SELECT p.model, p.block, p.layer, p.slice, n.unit,
       CASE p.slice WHEN 0 THEN (b.bias::real[])[n.unit + 1] ELSE 0 END AS bias, n.weight
FROM gpt2.linear_page AS p
JOIN gpt2.model AS m ON m.model = p.model
JOIN gpt2.bias AS b ON b.model = p.model AND b.block = p.block AND b.layer = p.layer
CROSS JOIN LATERAL (
    SELECT p.page * m.page_size + u.i::int - 1, u.weight
    FROM unnest(coalesce(p.weight, p.half::vector[])) WITH ORDINALITY AS u (weight, i)
) AS n (unit, weight);
COMMENT ON VIEW gpt2.linear IS
    'linear layers: a neuron is a row, with its bias and its input weights';
COMMENT ON COLUMN gpt2.linear.slice IS
    'inputs slice * n_embd and on: mlp.c_proj has n_inner inputs, more than a page holds in one '
    'row; slices after the first have bias 0';
COMMENT ON COLUMN gpt2.linear.unit IS
    'output number; attn.c_attn has queries, keys, values in turn';

CREATE VIEW gpt2.wte AS
SELECT p.model, p.page * m.page_size + n.i::int - 1 AS token, n.weight
FROM gpt2.token_page AS p
JOIN gpt2.model AS m ON m.model = p.model
CROSS JOIN LATERAL unnest(coalesce(p.weight, p.half::vector[])) WITH ORDINALITY AS n (weight, i)
WHERE p.layer = 'wte';
COMMENT ON VIEW gpt2.wte IS 'token embeddings: [n_vocab, n_embd], a token a row';

CREATE VIEW gpt2.lm_head AS
SELECT p.model, p.page * m.page_size + n.i::int - 1 AS token, n.weight
FROM gpt2.token_page AS p
JOIN gpt2.model AS m ON m.model = p.model
CROSS JOIN LATERAL unnest(coalesce(p.weight, p.half::vector[])) WITH ORDINALITY AS n (weight, i)
WHERE p.layer = 'lm_head';
COMMENT ON VIEW gpt2.lm_head IS
    'output projections of models that do not tie it to wte: [n_vocab, n_embd]';


-- Editing

CREATE FUNCTION gpt2._check_edit(
    name text, same_key boolean, has_bias boolean, old vector, new vector
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(same_key, 'feature_not_supported',
           format('cannot move a row of %s', name), 'Only its bias and weight can be changed.',
           format('UPDATE %s SET weight = ...', name))
       AND gpt2._assert(has_bias, 'invalid_parameter_value',
           format('the bias does not fit %s', name), 'It is NULL.',
           format('UPDATE %s SET bias = 0 ...', name))
       AND gpt2._assert(vector_dims(new) = vector_dims(old), 'invalid_parameter_value',
           format('the weight does not fit %s', name),
           format('It must have %s elements.', vector_dims(old)),
           'SELECT name, n_embd FROM gpt2_models(); lists the widths.');
COMMENT ON FUNCTION gpt2._check_edit(text, boolean, boolean, vector, vector) IS
    'true, or an error where a row cannot be updated so';


CREATE FUNCTION gpt2._update_linear()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    size int := (SELECT m.page_size FROM gpt2.model AS m WHERE m.model = old.model);
    i int := old.unit % size + 1;
BEGIN
    PERFORM gpt2._check_edit('gpt2.linear',
        (new.model, new.block, new.layer, new.slice, new.unit)
            = (old.model, old.block, old.layer, old.slice, old.unit),
        new.bias IS NOT NULL, old.weight, new.weight);
    UPDATE gpt2.linear_page AS p SET weight[i] = new.weight
    WHERE p.model = old.model AND p.block = old.block AND p.layer = old.layer
      AND p.slice = old.slice AND p.page = old.unit / size AND p.weight IS NOT NULL;
    UPDATE gpt2.linear_page AS p SET half[i] = new.weight
    WHERE p.model = old.model AND p.block = old.block AND p.layer = old.layer
      AND p.slice = old.slice AND p.page = old.unit / size AND p.half IS NOT NULL;
    IF new.bias <> old.bias THEN
        PERFORM gpt2._assert(old.slice = 0, 'feature_not_supported',
            'only the first slice of a neuron has a bias', format('This is slice %s.', old.slice),
            'UPDATE gpt2.linear SET bias = ... WHERE slice = 0 ...');
        UPDATE gpt2.bias AS b
        SET bias = (b.bias::real[])[:old.unit] || new.bias || (b.bias::real[])[old.unit + 2:]
        WHERE b.model = old.model AND b.block = old.block AND b.layer = old.layer;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_linear() IS 'updates a neuron in its page';

CREATE TRIGGER update_linear INSTEAD OF UPDATE ON gpt2.linear
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_linear();


CREATE FUNCTION gpt2._update_token()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    size int := (SELECT m.page_size FROM gpt2.model AS m WHERE m.model = old.model);
    i int := old.token % size + 1;
BEGIN
    PERFORM gpt2._check_edit('gpt2.' || tg_table_name,
        (new.model, new.token) = (old.model, old.token), true, old.weight, new.weight);
    UPDATE gpt2.token_page AS p SET weight[i] = new.weight
    WHERE p.model = old.model AND p.layer = tg_table_name::gpt2.embedding
      AND p.page = old.token / size AND p.weight IS NOT NULL;
    UPDATE gpt2.token_page AS p SET half[i] = new.weight
    WHERE p.model = old.model AND p.layer = tg_table_name::gpt2.embedding
      AND p.page = old.token / size AND p.half IS NOT NULL;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_token() IS 'updates a token''s embedding in its page';

CREATE TRIGGER update_wte INSTEAD OF UPDATE ON gpt2.wte
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();
CREATE TRIGGER update_lm_head INSTEAD OF UPDATE ON gpt2.lm_head
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();

GRANT SELECT ON ALL TABLES IN SCHEMA gpt2 TO PUBLIC;
