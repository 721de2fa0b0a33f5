-- The triggers of the tables of weights: a statement that edits takes the lock (locks.sql), and
-- where a row changes, its model's edit begins (editions.sql).
--
-- Editions go by row: a statement's transition table would be a copy, on disk, of a model that is
-- dropped. The setting names such a model: it has no edition any more. Dropping 500 MB is 0.15 s of
-- work without triggers, 0.2 s with these, 0.7 s without the setting and 0.9 s with transition
-- tables.

DO $$
DECLARE
    weights regclass;
BEGIN
    FOR weights IN SELECT t FROM gpt2._weight_tables() AS t LOOP
        EXECUTE format(
            'CREATE TRIGGER lock BEFORE UPDATE OR DELETE ON %1$s
                 WHEN (current_setting(''gpt2.locked'', true) IS DISTINCT FROM ''on'')
                 EXECUTE FUNCTION gpt2._lock_weights();
             CREATE TRIGGER row_edited AFTER UPDATE OR DELETE ON %1$s FOR EACH ROW
                 WHEN (old.model::text IS DISTINCT FROM current_setting(''gpt2.dropped'', true))
                 EXECUTE FUNCTION gpt2._row_edited();
             CREATE TRIGGER statement_edited AFTER UPDATE OR DELETE ON %1$s
                 WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION gpt2._end_edit();
             CREATE TRIGGER truncated AFTER TRUNCATE ON %1$s EXECUTE FUNCTION gpt2._end_edit()',
            weights);
    END LOOP;
END;
$$;
