-- Editions: gpt2.model.edition is another number after each change of a model's weights, so that
-- whatever was computed from them and kept (a prompt's keys and values) can be told to be stale.
--
-- Changed is what an UPDATE, DELETE or TRUNCATE changes, through the views of neurons.sql or in the
-- tables. An INSERT fires no trigger: an import inserts every row of a model, and pg_restore has to
-- keep the number. Only a variant's page more changes what was there; _edition counts those.
--
-- The numbers are those of one sequence, for all models: none comes back, neither after a rollback
-- nor with the name or the number of a model.
--
-- A statement gives a model one new number, however many rows it changes: the first row makes the
-- number negative, later ones find it so, and the end of the statement draws the new one. An UPDATE
-- of a view is one statement, though a trigger updates the table for each of its rows.


CREATE FUNCTION gpt2._edition(m gpt2.model)
RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL SAFE
-- A variant's pages are few among many: by the index, and without compiling a count.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
RETURN CASE WHEN (m).base IS NULL THEN ARRAY[(m).edition] ELSE ARRAY[
    (m).edition,
    (SELECT b.edition FROM gpt2.model AS b WHERE b.model = (m).base),
    (SELECT count(*) FROM gpt2.matrix_page AS p WHERE p.model = (m).model)
] END;
COMMENT ON FUNCTION gpt2._edition IS
    'what tells the weights of a model from those it had before or has later: its edition, and of '
    'a variant its base''s and how many pages it stores';


CREATE FUNCTION gpt2._begin_edit(model int)
RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    UPDATE gpt2.model AS m SET edition = -m.edition
    WHERE m.model = _begin_edit.model AND m.edition > 0;
END;
COMMENT ON FUNCTION gpt2._begin_edit IS
    'makes the edition of a model negative, until _end_edit at the end of the statement';


CREATE FUNCTION gpt2._end_edit()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- DEFAULT draws from the sequence, also for a role that may not use it itself
    UPDATE gpt2.model AS m SET edition = DEFAULT WHERE m.edition < 0 OR tg_op = 'TRUNCATE';
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._end_edit IS
    'gives a new edition to the models that a statement has edited, a TRUNCATE to all';


CREATE FUNCTION gpt2._row_edited()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF tg_op = 'UPDATE' AND old *= new THEN
        RETURN NULL;  -- an UPDATE to the same
    END IF;
    -- Nothing to do for a row that a view's trigger changes: it began the edit. In other triggers
    -- there is no telling when it ends, so each row gives a new edition.
    IF pg_trigger_depth() = 1 THEN
        UPDATE gpt2.model AS m SET edition = -m.edition
        WHERE m.model IN (old.model, new.model) AND m.edition > 0;
    ELSE
        UPDATE gpt2.model AS m SET edition = DEFAULT
        WHERE m.model IN (old.model, new.model) AND m.edition > 0;
    END IF;
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._row_edited IS
    'begins the edit of the model that a changed row belongs to, or belonged to';
