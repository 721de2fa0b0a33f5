-- The weights as a reader thinks of them: a neuron, a token a row, of every model, a variant's
-- base's where the variant has no page of its own. One can update a bias or a weight in these views
-- and in the tables gpt2.bias, gpt2.layer_norm and gpt2.wpe, which is how a model is edited; a
-- variant gets its own copy of a page by that.


CREATE VIEW gpt2._matrix_page AS
SELECT m.model, p.block, p.layer, p.slice, p.page, m.page_size,
       coalesce(p.weight, p.half::vector[]) AS weight
FROM gpt2.model AS m
CROSS JOIN LATERAL gpt2._pages(
    CASE WHEN m.base IS NOT NULL THEN m.model END, coalesce(m.base, m.model)) AS p;
COMMENT ON VIEW gpt2._matrix_page IS 'gpt2.matrix_page for variants too, float32';

CREATE VIEW gpt2._neuron AS
SELECT p.model, p.block, p.layer, p.slice, p.page * p.page_size + n.i::int - 1 AS unit, n.weight
FROM gpt2._matrix_page AS p
CROSS JOIN LATERAL unnest(p.weight) WITH ORDINALITY AS n (weight, i);
COMMENT ON VIEW gpt2._neuron IS 'rows of matrices: input weights of a neuron, or of a token';

CREATE VIEW gpt2.linear AS
SELECT n.model, n.block, n.layer, n.slice, n.unit,
       CASE n.slice WHEN 0 THEN (b.bias::real[])[n.unit + 1] ELSE 0 END AS bias, n.weight
FROM gpt2._neuron AS n
JOIN gpt2.bias AS b ON b.model = n.model AND b.block = n.block AND b.layer = n.layer;
COMMENT ON VIEW gpt2.linear IS
    'linear layers: a neuron is a row, with its bias and its input weights';
COMMENT ON COLUMN gpt2.linear.slice IS
    'inputs slice * n_embd and on: mlp.c_proj has n_inner inputs, more than a page holds in one '
    'row; slices after the first have bias 0';
COMMENT ON COLUMN gpt2.linear.unit IS
    'output number; attn.c_attn has queries, keys, values in turn';

CREATE VIEW gpt2.wte AS
SELECT n.model, n.unit AS token, n.weight FROM gpt2._neuron AS n
WHERE n.block = -1 AND n.layer = 'wte';
COMMENT ON VIEW gpt2.wte IS 'token embeddings: [n_vocab, n_embd], a token a row';

CREATE VIEW gpt2.lm_head AS
SELECT n.model, n.unit AS token, n.weight FROM gpt2._neuron AS n
WHERE n.block = -1 AND n.layer = 'lm_head';
COMMENT ON VIEW gpt2.lm_head IS
    'output projections of models that do not tie it to wte: [n_vocab, n_embd]';

GRANT SELECT ON gpt2._matrix_page, gpt2._neuron, gpt2.linear, gpt2.wte, gpt2.lm_head TO PUBLIC;


-- Editing. Only what changes is written: a variant stores no copy of what is the same in its base.

CREATE FUNCTION gpt2._check_key(name text, same_key boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(same_key, 'feature_not_supported',
    format('cannot move a row of gpt2.%s', name), 'Only its bias and weight can be changed.',
    format('UPDATE gpt2.%s SET %s = ...', name,
           CASE name WHEN 'bias' THEN 'bias' ELSE 'weight' END));
COMMENT ON FUNCTION gpt2._check_key IS 'true, or an error where a key is updated';


CREATE FUNCTION gpt2._check_width(name text, "column" text, old vector, new vector)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN gpt2._assert(vector_dims(new) = vector_dims(old), 'invalid_parameter_value',
    format('the %s does not fit gpt2.%s', "column", name),
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


CREATE FUNCTION gpt2._update_neuron(old gpt2._neuron, new vector)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    m gpt2.model;
    i int;
BEGIN
    IF NOT gpt2._differ(old.weight, new) THEN
        RETURN;
    END IF;
    SELECT * INTO m FROM gpt2.model AS x WHERE x.model = old.model;
    i := old.unit % m.page_size + 1;
    PERFORM gpt2._begin_edit(m.model);
    INSERT INTO gpt2.matrix_page (model, block, layer, slice, page, weight, half)
    SELECT m.model, p.block, p.layer, p.slice, p.page, p.weight, p.half
    FROM gpt2.matrix_page AS p
    WHERE p.model = m.base AND p.block = old.block AND p.layer = old.layer
      AND p.slice = old.slice AND p.page = old.unit / m.page_size
    ON CONFLICT DO NOTHING;
    -- Two statements: a planner converts to halfvec, which may overflow, before it looks for a row.
    IF m.dtype = 'float32' THEN
        UPDATE gpt2.matrix_page AS p SET weight[i] = new
        WHERE p.model = m.model AND p.block = old.block AND p.layer = old.layer
          AND p.slice = old.slice AND p.page = old.unit / m.page_size;
    ELSE
        UPDATE gpt2.matrix_page AS p SET half[i] = new
        WHERE p.model = m.model AND p.block = old.block AND p.layer = old.layer
          AND p.slice = old.slice AND p.page = old.unit / m.page_size;
    END IF;
END;
$$;
COMMENT ON FUNCTION gpt2._update_neuron IS
    'gives a neuron, or a token, other weights in its page; a variant gets a page of its own';


CREATE FUNCTION gpt2._update_linear()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._check_key('linear',
        (new.model, new.block, new.layer, new.slice, new.unit)
            = (old.model, old.block, old.layer, old.slice, old.unit));
    PERFORM gpt2._assert(new.bias IS NOT NULL, 'invalid_parameter_value',
        'the bias does not fit gpt2.linear', 'It is NULL.', 'UPDATE gpt2.linear SET bias = 0 ...');
    PERFORM gpt2._check_width('linear', 'weight', old.weight, new.weight);
    PERFORM gpt2._update_neuron(
        ROW(old.model, old.block, old.layer, old.slice, old.unit, old.weight), new.weight);
    IF new.bias <> old.bias THEN
        PERFORM gpt2._assert(old.slice = 0, 'feature_not_supported',
            'only the first slice of a neuron has a bias', format('This is slice %s.', old.slice),
            'UPDATE gpt2.linear SET bias = ... WHERE slice = 0 ...');
        PERFORM gpt2._begin_edit(old.model);
        UPDATE gpt2.bias AS b
        SET bias = (b.bias::real[])[:old.unit] || new.bias || (b.bias::real[])[old.unit + 2:]
        WHERE b.model = old.model AND b.block = old.block AND b.layer = old.layer;
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_linear IS
    'updates a neuron in its page and in its layer''s biases';


CREATE FUNCTION gpt2._update_token()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM gpt2._check_key(tg_table_name, (new.model, new.token) = (old.model, old.token));
    PERFORM gpt2._check_width(tg_table_name, 'weight', old.weight, new.weight);
    PERFORM gpt2._update_neuron(
        ROW(old.model, -1, tg_table_name::text::gpt2.layer, 0, old.token, old.weight), new.weight);
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._update_token IS 'updates a token''s embedding in its page';


CREATE FUNCTION gpt2._check_row()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF tg_table_name = 'wpe' THEN
        PERFORM gpt2._check_key('wpe', (new.model, new."position") = (old.model, old."position"));
    ELSE
        PERFORM gpt2._check_key(tg_table_name,
            (new.model, new.block, new.layer) = (old.model, old.block, old.layer));
        PERFORM gpt2._check_width(tg_table_name, 'bias', old.bias, new.bias);
    END IF;
    IF tg_table_name <> 'bias' THEN
        PERFORM gpt2._check_width(tg_table_name, 'weight', old.weight, new.weight);
    END IF;
    RETURN new;
END;
$$;
COMMENT ON FUNCTION gpt2._check_row IS
    'refuses an update of gpt2.bias, gpt2.layer_norm or gpt2.wpe that moves a row or does not fit';


CREATE TRIGGER update_linear INSTEAD OF UPDATE ON gpt2.linear
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_linear();
CREATE TRIGGER update_wte INSTEAD OF UPDATE ON gpt2.wte
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();
CREATE TRIGGER update_lm_head INSTEAD OF UPDATE ON gpt2.lm_head
    FOR EACH ROW EXECUTE FUNCTION gpt2._update_token();

CREATE TRIGGER lock BEFORE UPDATE ON gpt2.linear EXECUTE FUNCTION gpt2._lock_weights();
CREATE TRIGGER lock BEFORE UPDATE ON gpt2.wte EXECUTE FUNCTION gpt2._lock_weights();
CREATE TRIGGER lock BEFORE UPDATE ON gpt2.lm_head EXECUTE FUNCTION gpt2._lock_weights();

-- A statement is one edit, however many rows it updates (editions.sql).
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.linear EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.wte EXECUTE FUNCTION gpt2._end_edit();
CREATE TRIGGER view_edited AFTER UPDATE ON gpt2.lm_head EXECUTE FUNCTION gpt2._end_edit();

CREATE TRIGGER check_row BEFORE UPDATE ON gpt2.bias
    FOR EACH ROW EXECUTE FUNCTION gpt2._check_row();
CREATE TRIGGER check_row BEFORE UPDATE ON gpt2.layer_norm
    FOR EACH ROW EXECUTE FUNCTION gpt2._check_row();
CREATE TRIGGER check_row BEFORE UPDATE ON gpt2.wpe
    FOR EACH ROW EXECUTE FUNCTION gpt2._check_row();
