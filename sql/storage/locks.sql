-- Who writes waits for whoever writes: a lock of the table gpt2.model, until the transaction ends.
-- It is taken before any row is, by what changes which models there are (_lock_models) and by what
-- changes their weights (_lock_weights), and in one strength: so of two that write neither can have
-- what the other waits for. What reads takes no notice of it.


CREATE FUNCTION gpt2._lock_models()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE;
    -- A transaction that is REPEATABLE READ or SERIALIZABLE still sees the models as they were when
    -- it began: it would make a variant of a base that is gone, or drop one that has a variant. So
    -- whoever changes which models there are writes a row, and to write what was written since
    -- then is an error in such a transaction. The row of GPT-2's own vocabulary is always there.
    UPDATE gpt2.tokenizer SET n_token = n_token WHERE tokenizer = 1;
EXCEPTION WHEN serialization_failure THEN
    PERFORM gpt2._raise(NULL::boolean, 'serialization_failure',
        'could not serialize access to the models',
        'Another transaction has changed which models there are since this one began.',
        'Retry the transaction.');
END;
$$;
COMMENT ON FUNCTION gpt2._lock_models IS
    'lets nobody else write until the transaction ends; an error where its snapshot has not all '
    'the models';


CREATE FUNCTION gpt2._lock_weights()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE;
    -- so that an update of a view, which is one of a table for each of its rows, asks once;
    -- whatever gives the lock back, as ROLLBACK TO, takes this back too
    PERFORM set_config('gpt2.locked', 'on', true);
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._lock_weights IS
    'lets nobody else write until the transaction ends, before a statement edits weights';
