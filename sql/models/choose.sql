-- Which model a call means: its argument names it, else the setting gpt2.model, else the default
-- one. What is chosen is a row: SELECT m.n_ctx FROM gpt2._chosen_model(name) AS m. Functions below
-- the public ones take the row, and no name.


CREATE FUNCTION gpt2._chosen_number(name text)
RETURNS int
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH wanted (name) AS (
        SELECT coalesce(_chosen_number.name, nullif(current_setting('gpt2.model', true), ''))
    ), chosen AS MATERIALIZED (
        -- first the model, then its weights: else the planner may look for those of all models
        SELECT m.model, m.name, coalesce(m.base, m.model) AS pages_of
        FROM gpt2.model AS m, wanted AS w
        WHERE CASE WHEN w.name IS NULL THEN m.is_default ELSE m.name = w.name END
    ), found AS (
        -- By the whole key and without EXISTS: a scan for any page may read all models
        -- before, and EXISTS may be hashed, for all models.
        SELECT c.model, c.name,
               (SELECT p.page FROM gpt2.matrix_page AS p
                WHERE p.model = c.pages_of AND p.block = -1 AND p.layer = 'wte'
                  AND p.slice = 0 AND p.page = 0) IS NOT NULL AS has_weights
        FROM chosen AS c
    )
    SELECT CASE
        WHEN c.has_weights THEN c.model
        WHEN NOT c.has_weights THEN gpt2._raise(c.model, 'object_not_in_prerequisite_state',
            format('model "%s" has no weights', c.name),
            'Table gpt2.matrix_page has no first page of its wte.',
            format('Load it again: gpt2-loader load SOURCE --name %s --replace',
                   quote_ident(c.name)))
        WHEN w.name IS NOT NULL THEN gpt2._raise(NULL::int, 'invalid_parameter_value',
            format('model "%s" does not exist', w.name),
            CASE WHEN _chosen_number.name IS NULL THEN 'The setting gpt2.model names it.'
                 ELSE 'The argument model names it.' END,
            'SELECT name FROM gpt2_models(); lists the models.')
        ELSE gpt2._raise(NULL::int, 'object_not_in_prerequisite_state',
            'no model is loaded', 'Table gpt2.model has no default model.',
            'Load one: gpt2-loader load SOURCE, or SELECT gpt2_load_model(''/path/of/model'');')
    END
    FROM wanted AS w LEFT JOIN found AS c ON true;
END;
COMMENT ON FUNCTION gpt2._chosen_number IS
    'number of the model of this name, else of the setting gpt2.model, else of the default one';


CREATE FUNCTION gpt2._chosen_model(name text)
RETURNS SETOF gpt2.model
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- By a subquery: for its estimates the planner would run the function itself, which may raise.
    SELECT m.*
    FROM gpt2.model AS m
    WHERE m.model = (SELECT gpt2._chosen_number(_chosen_model.name));
END;
COMMENT ON FUNCTION gpt2._chosen_model IS
    'the row of the model of this name, else of the setting gpt2.model, else of the default one';


CREATE FUNCTION gpt2._names_model(model text)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN model IS NOT NULL
    OR nullif(current_setting('gpt2.model', true), '') IS NOT NULL
    OR EXISTS (SELECT FROM gpt2.model AS m WHERE m.is_default);
COMMENT ON FUNCTION gpt2._names_model IS
    'whether an argument, a setting or a default names a model';


CREATE FUNCTION gpt2._chosen_vocabulary(model text)
RETURNS TABLE (tokenizer int, n_token int)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
-- A function that sets anything is not inlined: as a subquery it would keep the query around it
-- from parallel workers.
SET jit = off
BEGIN ATOMIC
    -- without a model, GPT-2's own
    SELECT coalesce(m.tokenizer, 1), coalesce(m.n_token, 50257)
    FROM (SELECT CASE WHEN gpt2._names_model(_chosen_vocabulary.model)
                      THEN gpt2._chosen_number(_chosen_vocabulary.model) END AS model) AS c
    LEFT JOIN gpt2.model AS m ON m.model = c.model;
END;
COMMENT ON FUNCTION gpt2._chosen_vocabulary IS
    'the vocabulary of a model; with no model loaded, GPT-2''s own';
