-- The weights as a reader thinks of them: a neuron, a token, a position a row, of every model, a
-- variant's base's rows where the variant has none of its own. One can update a bias or a weight in
-- these views, which is how a model is edited; a variant gets its own copy of a row by that.


-- Stored rows of each model. = ANY, as the planner cannot look up IN (...) of columns in an index.

CREATE VIEW gpt2._linear_page AS
SELECT m.model, p.block, p.layer, p.slice, p.page, m.page_size,
       coalesce(p.weight, p.half::vector[]) AS weight
FROM gpt2.model AS m
JOIN gpt2.linear_page AS p ON p.model = ANY (ARRAY[m.model, m.base])
WHERE p.model = m.model OR NOT EXISTS (
    SELECT FROM gpt2.linear_page AS own
    WHERE own.model = m.model AND own.block = p.block AND own.layer = p.layer
      AND own.slice = p.slice AND own.page = p.page);
COMMENT ON VIEW gpt2._linear_page IS 'gpt2.linear_page for variants too, float32';

CREATE VIEW gpt2._token_page AS
SELECT m.model, p.layer, p.page, m.page_size, coalesce(p.weight, p.half::vector[]) AS weight
FROM gpt2.model AS m
JOIN gpt2.token_page AS p ON p.model = ANY (ARRAY[m.model, m.base])
WHERE p.model = m.model OR NOT EXISTS (
    SELECT FROM gpt2.token_page AS own
    WHERE own.model = m.model AND own.layer = p.layer AND own.page = p.page);
COMMENT ON VIEW gpt2._token_page IS 'gpt2.token_page for variants too, float32';

CREATE VIEW gpt2.bias AS
SELECT m.model, p.block, p.layer, p.bias
FROM gpt2.model AS m
JOIN gpt2.bias_row AS p ON p.model = ANY (ARRAY[m.model, m.base])
WHERE p.model = m.model OR NOT EXISTS (
    SELECT FROM gpt2.bias_row AS own
    WHERE own.model = m.model AND own.block = p.block AND own.layer = p.layer);
COMMENT ON VIEW gpt2.bias IS 'biases of the linear layers: [n_out], a layer a row';

CREATE VIEW gpt2.wpe AS
SELECT m.model, p."position", p.weight
FROM gpt2.model AS m
JOIN gpt2.wpe_row AS p ON p.model = ANY (ARRAY[m.model, m.base])
WHERE p.model = m.model OR NOT EXISTS (
    SELECT FROM gpt2.wpe_row AS own
    WHERE own.model = m.model AND own."position" = p."position");
COMMENT ON VIEW gpt2.wpe IS 'position embeddings: [n_ctx, n_embd], a position a row';

CREATE VIEW gpt2.layer_norm AS
SELECT m.model, p.block, p.layer, p.weight, p.bias
FROM gpt2.model AS m
JOIN gpt2.layer_norm_row AS p ON p.model = ANY (ARRAY[m.model, m.base])
WHERE p.model = m.model OR NOT EXISTS (
    SELECT FROM gpt2.layer_norm_row AS own
    WHERE own.model = m.model AND own.block = p.block AND own.layer = p.layer);
COMMENT ON VIEW gpt2.layer_norm IS
    'layer norms: weight [n_embd] and bias [n_embd]; ln_f has block = n_layer';


-- Neurons and tokens

CREATE VIEW gpt2.linear AS
SELECT p.model, p.block, p.layer, p.slice, n.unit,
       CASE p.slice WHEN 0 THEN (b.bias::real[])[n.unit + 1] ELSE 0 END AS bias, n.weight
FROM gpt2._linear_page AS p
JOIN gpt2.bias AS b ON b.model = p.model AND b.block = p.block AND b.layer = p.layer
CROSS JOIN LATERAL (
    SELECT p.page * p.page_size + u.i::int - 1, u.weight
    FROM unnest(p.weight) WITH ORDINALITY AS u (weight, i)
) AS n (unit, weight);
COMMENT ON VIEW gpt2.linear IS
    'linear layers: a neuron is a row, with its bias and its input weights';
COMMENT ON COLUMN gpt2.linear.slice IS
    'inputs slice * n_embd and on: mlp.c_proj has n_inner inputs, more than a page holds in one '
    'row; slices after the first have bias 0';
COMMENT ON COLUMN gpt2.linear.unit IS
    'output number; attn.c_attn has queries, keys, values in turn';

CREATE VIEW gpt2.wte AS
SELECT p.model, p.page * p.page_size + n.i::int - 1 AS token, n.weight
FROM gpt2._token_page AS p
CROSS JOIN LATERAL unnest(p.weight) WITH ORDINALITY AS n (weight, i)
WHERE p.layer = 'wte';
COMMENT ON VIEW gpt2.wte IS 'token embeddings: [n_vocab, n_embd], a token a row';

CREATE VIEW gpt2.lm_head AS
SELECT p.model, p.page * p.page_size + n.i::int - 1 AS token, n.weight
FROM gpt2._token_page AS p
CROSS JOIN LATERAL unnest(p.weight) WITH ORDINALITY AS n (weight, i)
WHERE p.layer = 'lm_head';
COMMENT ON VIEW gpt2.lm_head IS
    'output projections of models that do not tie it to wte: [n_vocab, n_embd]';


-- Editing. Only what changes is written: a variant stores no copy of what is the same in its base.

CREATE FUNCTION gpt2._check_key(name text, same_key boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(same_key, 'feature_not_supported',
    format('cannot move a row of %s', name), 'Only its bias and weight can be changed.',
    format('UPDATE %s SET %s = ...', name,
           CASE name WHEN 'gpt2.bias' THEN 'bias' ELSE 'weight' END));
COMMENT ON FUNCTION gpt2._check_key IS 'true, or an error where a key is updated';


CREATE FUNCTION gpt2._check_width(name text, "column" text, old vector, new vector)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(vector_dims(new) = vector_dims(old), 'invalid_parameter_value',
    format('the %s does not fit %s', "column", name),
    format('It must have %s elements.', vector_dims(old)),
    'SELECT name, n_embd FROM gpt2_models(); lists the widths.');
COMMENT ON FUNCTION gpt2._check_width IS
    'true, or an error where a vector is updated to NULL or one of another width';


CREATE FUNCTION gpt2._differ(a vector, b vector)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- where the search_path has no operators of pgvector
RETURN a <> b;
COMMENT ON FUNCTION gpt2._differ IS 'whether two vectors are not the same';


CREATE FUNCTION gpt2._update_linear()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    size int := (SELECT m.page_size FROM gpt2.model AS m WHERE m.model = old.model);
    i int := old.unit % size + 1;
BEGIN
    PERFORM gpt2._check_key('gpt2.linear',
        (new.model, new.block, new.layer, new.slice, new.unit)
            = (old.model, old.block, old.layer, old.slice, old.unit));
    PERFORM gpt2._assert(new.bias IS NOT NULL, 'invalid_parameter_value',
        'the bias does not fit gpt2.linear', 'It is NULL.', 'UPDATE gpt2.linear SET bias = 0 ...');
    PERFORM gpt2._check_width('gpt2.linear', 'weight', old.weight, new.weight);
    IF gpt2._differ(old.weight, new.weight) THEN
        PERFORM gpt2._begin_edit(old.model);
        INSERT INTO gpt2.linear_page (model, block, layer, slice, page, weight, half)
        SELECT m.model, p.block, p.layer, p.slice, p.page, p.weight, p.half
        FROM gpt2.model AS m JOIN gpt2.linear_page AS p ON p.model = m.base
        WHERE m.model = old.model AND p.block = old.block AND p.layer = old.layer
          AND p.slice = old.slice AND p.page = old.unit / size
        ON CONFLICT DO NOTHING;
        UPDATE gpt2.linear_page AS p SET weight[i] = new.weight
        WHERE p.model = old.model AND p.block = old.block AND p.layer = old.layer
          AND p.slice = old.slice AND p.page = old.unit / size AND p.weight IS NOT NULL;
        UPDATE gpt2.linear_page AS p SET half[i] = new.weight
        WHERE p.model = old.model AND p.block = old.block AND p.layer = old.layer
          AND p.slice = old.slice AND p.page = old.unit / size AND p.half IS NOT NULL;
    END IF;
    IF new.bias <> old.bias THEN
        PERFORM gpt2._assert(old.slice = 0, 'feature_not_supported',
            'only the first slice of a neuron has a bias', format('This is slice %s.', old.slice),
            'UPDATE gpt2.linear SET bias = ... WHERE slice = 0 ...');
        PERFORM gpt2._begin_edit(old.model);
        INSERT INTO gpt2.bias_row (model, block, layer, bias)
        SELECT m.model, b.block, b.layer, b.bias
        FROM gpt2.model AS m JOIN gpt2.bias_row AS b ON b.model = m.base
        WHERE m.model = old.model AND b.block = old.block AND b.layer = old.layer
        ON CONFLICT DO NOTHING;
        UPDATE gpt2.bias_row AS b
        SET bias = (b.bias::real[])[:old.unit] || new.bias || (b.bias::real[])[old.unit + 2:]
        WHERE b.model = old.model AND b.block = old.block AND b.layer = old.layer;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_linear IS 'updates a neuron in its page';

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
    matrix gpt2.embedding := tg_table_name;
BEGIN
    PERFORM gpt2._check_key('gpt2.' || matrix, (new.model, new.token) = (old.model, old.token));
    PERFORM gpt2._check_width('gpt2.' || matrix, 'weight', old.weight, new.weight);
    IF gpt2._differ(old.weight, new.weight) THEN
        PERFORM gpt2._begin_edit(old.model);
        INSERT INTO gpt2.token_page (model, layer, page, weight, half)
        SELECT m.model, p.layer, p.page, p.weight, p.half
        FROM gpt2.model AS m JOIN gpt2.token_page AS p ON p.model = m.base
        WHERE m.model = old.model AND p.layer = matrix AND p.page = old.token / size
        ON CONFLICT DO NOTHING;
        UPDATE gpt2.token_page AS p SET weight[i] = new.weight
        WHERE p.model = old.model AND p.layer = matrix
          AND p.page = old.token / size AND p.weight IS NOT NULL;
        UPDATE gpt2.token_page AS p SET half[i] = new.weight
        WHERE p.model = old.model AND p.layer = matrix
          AND p.page = old.token / size AND p.half IS NOT NULL;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_token IS 'updates a token''s embedding in its page';

CREATE TRIGGER update_wte INSTEAD OF UPDATE ON gpt2.wte
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();
CREATE TRIGGER update_lm_head INSTEAD OF UPDATE ON gpt2.lm_head
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();


CREATE FUNCTION gpt2._update_bias()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._check_key('gpt2.bias',
        (new.model, new.block, new.layer) = (old.model, old.block, old.layer));
    PERFORM gpt2._check_width('gpt2.bias', 'bias', old.bias, new.bias);
    IF gpt2._differ(old.bias, new.bias) THEN
        PERFORM gpt2._begin_edit(old.model);
        INSERT INTO gpt2.bias_row (model, block, layer, bias)
        VALUES (new.model, new.block, new.layer, new.bias)
        ON CONFLICT (model, block, layer) DO UPDATE SET bias = excluded.bias;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_bias IS 'updates the biases of a layer';

CREATE TRIGGER update_bias INSTEAD OF UPDATE ON gpt2.bias
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_bias();


CREATE FUNCTION gpt2._update_wpe()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._check_key('gpt2.wpe',
        (new.model, new."position") = (old.model, old."position"));
    PERFORM gpt2._check_width('gpt2.wpe', 'weight', old.weight, new.weight);
    IF gpt2._differ(old.weight, new.weight) THEN
        PERFORM gpt2._begin_edit(old.model);
        INSERT INTO gpt2.wpe_row (model, "position", weight)
        VALUES (new.model, new."position", new.weight)
        ON CONFLICT (model, "position") DO UPDATE SET weight = excluded.weight;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_wpe IS 'updates a position embedding';

CREATE TRIGGER update_wpe INSTEAD OF UPDATE ON gpt2.wpe
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_wpe();


CREATE FUNCTION gpt2._update_layer_norm()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._check_key('gpt2.layer_norm',
        (new.model, new.block, new.layer) = (old.model, old.block, old.layer));
    PERFORM gpt2._check_width('gpt2.layer_norm', 'weight', old.weight, new.weight);
    PERFORM gpt2._check_width('gpt2.layer_norm', 'bias', old.bias, new.bias);
    IF gpt2._differ(old.weight, new.weight) OR gpt2._differ(old.bias, new.bias) THEN
        PERFORM gpt2._begin_edit(old.model);
        INSERT INTO gpt2.layer_norm_row (model, block, layer, weight, bias)
        VALUES (new.model, new.block, new.layer, new.weight, new.bias)
        ON CONFLICT (model, block, layer)
        DO UPDATE SET weight = excluded.weight, bias = excluded.bias;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_layer_norm IS 'updates a layer norm';

CREATE TRIGGER update_layer_norm INSTEAD OF UPDATE ON gpt2.layer_norm
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_layer_norm();


-- A statement is one edit, however many rows it updates (editions.sql).

CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.linear EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.wte EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.lm_head EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.bias EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.wpe EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.layer_norm EXECUTE FUNCTION gpt2._end_edit();

GRANT SELECT ON ALL TABLES IN SCHEMA gpt2 TO PUBLIC;
