-- What a model computes with, in one short text: servers that give the same one compute the same.


CREATE FUNCTION gpt2._hash_of_weights(m gpt2.model)
RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
-- The rows of a model are found by their keys, and come in the order of these: a sort of them would
-- fill the disk.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET jit = off
BEGIN ATOMIC
    -- Numbers as they go over the wire, whatever the machine's order of bytes. A hash a row, so
    -- that what is put together stays small; keys are in it, as rows could be exchanged.
    SELECT sha256(string_agg(h.hash, '' ORDER BY h.n))
    FROM (
        SELECT 1, (
            SELECT string_agg(sha256(
                       convert_to(ROW(p.block, p.layer, p.slice, p.page)::text, 'UTF8')
                       || (SELECT string_agg(coalesce(vector_send(u.weight), halfvec_send(u.half)),
                                             '' ORDER BY u.n)
                           FROM unnest(p.weight, p.half) WITH ORDINALITY AS u (weight, half, n))),
                   '' ORDER BY p.block, p.layer, p.slice, p.page)
            FROM gpt2._pages(CASE WHEN (m).base IS NOT NULL THEN (m).model END,
                             coalesce((m).base, (m).model)) AS p)
    UNION ALL
        SELECT 2, (
            SELECT string_agg(sha256(convert_to(ROW(b.block, b.layer)::text, 'UTF8')
                                     || vector_send(b.bias)), '' ORDER BY b.block, b.layer)
            FROM gpt2.bias AS b WHERE b.model = (m).model)
    UNION ALL
        SELECT 3, (
            SELECT string_agg(sha256(convert_to(ROW(l.block, l.layer)::text, 'UTF8')
                                     || vector_send(l.weight) || vector_send(l.bias)),
                              '' ORDER BY l.block, l.layer)
            FROM gpt2.layer_norm AS l WHERE l.model = (m).model)
    UNION ALL
        SELECT 4, (
            SELECT string_agg(sha256(vector_send(w.weight)), '' ORDER BY w."position")
            FROM gpt2.wpe AS w WHERE w.model = (m).model)
    ) AS h (n, hash);
END;
COMMENT ON FUNCTION gpt2._hash_of_weights IS
    'hash of all weights of a model, of a variant with those of its base that it has not';


CREATE FUNCTION gpt2_fingerprint(model text DEFAULT NULL)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
-- so that layer_norm_epsilon is written in full
SET extra_float_digits = 1
BEGIN ATOMIC
    SELECT encode(sha256(
               convert_to('gpt2 0.1.0 ' || t.sha256 || (to_jsonb(m) - ARRAY[
                   'model', 'name', 'is_default', 'base', 'tokenizer', 'page_size', 'source',
                   'revision', 'sha256', 'edition', 'loaded_by', 'loaded_at'])::text, 'UTF8')
               || gpt2._hash_of_weights(m)), 'hex')
    FROM gpt2._chosen_model(gpt2_fingerprint.model) AS m
    JOIN gpt2.tokenizer AS t ON t.tokenizer = m.tokenizer;
END;
COMMENT ON FUNCTION gpt2_fingerprint IS
    'the same on two servers where a model is: its weights, vocabulary, shape, the version of gpt2';
