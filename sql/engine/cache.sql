-- The model with a cache: a position's keys and values never change once computed, so each new
-- token costs one position, not the whole text again.
--
-- A query cannot append to a large value in place, it copies. So the cache has two parts. The past
-- has a row a block and head, in the shape that attention reads fastest; it is rebuilt once a
-- chunk. The chunk's own positions (recent) stay small.


CREATE TYPE gpt2._past AS (
    k vector[],  -- [n_past, d]: a key a position
    v vector[]   -- [d, n_past]: transposed, so that a weighted sum over positions is <#>
);
COMMENT ON TYPE gpt2._past IS 'keys and values of one head in one block';


CREATE FUNCTION gpt2._chunk()
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- A recent position costs attention seven times what a past one does (1.2 us a head), and to put a
-- chunk into the past copies the past once.
RETURN 16;
COMMENT ON FUNCTION gpt2._chunk IS 'positions in a chunk';


CREATE FUNCTION gpt2._exp_scores(q vector, past_k vector[], recent_k vector[], scale float8,
                                 shift float8)
RETURNS TABLE (past vector, recent float8[], total float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- exp(shift + q . k * scale), but from exp(-60) to exp(60), so that float32 has it and its
    -- products with values. A vector is added up by an inner product, not number by number.
    SELECT e.past, e.recent,
           CASE WHEN e.past IS NULL THEN 0 ELSE -(e.past <#> gpt2._fill(1, vector_dims(e.past))) END
               + (SELECT sum(r) FROM unnest(e.recent) AS r)
    FROM (
        SELECT CASE WHEN past_k IS NOT NULL THEN ARRAY(
                   SELECT exp(greatest(least(shift - (unnest(past_k) <#> q) * scale, 60), -60))
                   )::vector END AS past,
               ARRAY(
                   SELECT exp(greatest(least(shift - (unnest(recent_k) <#> q) * scale, 60), -60))
                   ) AS recent
        OFFSET 0
    ) AS e
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._exp_scores IS
    'exp(score + shift) for the past''s keys and the recent ones, and their sum';


CREATE FUNCTION gpt2._attend_cached(q vector, past gpt2._past, recent_k vector[], recent_v vector[],
                             scale float8)
RETURNS TABLE (z vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- softmax(q . k * scale) v, as in model/formula.sql, for one head at one position; in parts, as
    -- the past's values are transposed and the recent ones are not.
    -- The largest score is taken off before exp only where that is needed, as it takes a pass over
    -- the scores more. The sum tells: from 1e-12 to 1e18 none that counts was at a bound.
    SELECT p.z
    FROM gpt2._exp_scores(q, (_attend_cached.past).k, recent_k, scale, 0) AS plain
    CROSS JOIN LATERAL (
        SELECT plain.past, plain.recent, plain.total WHERE plain.total BETWEEN 1e-12 AND 1e18
    UNION ALL
        -- plus 0, or NaN where a score is infinite: then no vector can be made of it, an error
        SELECT s.past, s.recent, s.total + 0 * l.largest
        FROM (
            SELECT max(-(k.k <#> q) * scale) AS largest
            FROM (SELECT unnest((_attend_cached.past).k) AS k
                  UNION ALL SELECT unnest(recent_k)) AS k
            HAVING NOT plain.total BETWEEN 1e-12 AND 1e18
        ) AS l
        CROSS JOIN LATERAL
            gpt2._exp_scores(q, (_attend_cached.past).k, recent_k, scale, -l.largest) AS s
    ) AS e
    CROSS JOIN LATERAL (
        SELECT sum(part.z)
        FROM (
            SELECT ARRAY(SELECT -(unnest((_attend_cached.past).v) <#> e.past) / e.total)::vector
            WHERE e.past IS NOT NULL
        UNION ALL
            -- weights below 1e-12 add nothing, and could underflow
            SELECT gpt2._fill(CASE WHEN u.e / e.total < 1e-12 THEN 0
                                   ELSE u.e / e.total END, vector_dims(q)) * u.v
            FROM (SELECT unnest(e.recent) AS e, unnest(recent_v) AS v) AS u
        ) AS part (z)
    ) AS p (z);
END;
COMMENT ON FUNCTION gpt2._attend_cached IS
    'attention of one head at one position over the cached ones and the recent ones';


CREATE FUNCTION gpt2._split_chunk(chunk vector[], m gpt2.model)
RETURNS TABLE (head int, "first" int, d int, k vector[], v vector[])
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- [n, 2 * n_embd] -> twice [n_head, n, d]
    SELECT f.*,
           ARRAY(SELECT subvector(u.kv, f."first", f.d)
                 FROM (SELECT unnest(chunk) AS kv) AS u),
           ARRAY(SELECT subvector(u.kv, (m).n_embd + f."first", f.d)
                 FROM (SELECT unnest(chunk) AS kv) AS u)
    FROM (
        SELECT head, 1 + head * ((m).n_embd / (m).n_head) AS "first", (m).n_embd / (m).n_head AS d
        FROM generate_series(0, (m).n_head - 1) AS head
    ) AS f
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._split_chunk IS
    'keys and values of a chunk, head by head; a head''s numbers begin at "first"';


CREATE FUNCTION gpt2._attend_all(q vector[], past gpt2._past[], "before" int, chunk vector[],
                                 m gpt2.model, block int)
RETURNS TABLE ("position" int, z vector)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- q: [n_new], chunk: [n_recent + n_new, 2 * n_embd], keys and values; z: [n_new, n_embd]
    SELECT i."position", gpt2._concat(t.z ORDER BY i.head)
    FROM (
        SELECT h.*, p.n::int AS "position",
               subvector(p.q, h."first", h.d) AS q,
               past["before" + h.head + 1] AS past,
               h.k[:cardinality(chunk) - cardinality(_attend_all.q) + p.n] AS recent_k,
               h.v[:cardinality(chunk) - cardinality(_attend_all.q) + p.n] AS recent_v,
               gpt2._attention_scale(m, block) AS scale
        FROM gpt2._split_chunk(chunk, m) AS h
        CROSS JOIN LATERAL unnest(_attend_all.q) WITH ORDINALITY AS p (q, n)
        OFFSET 0
    ) AS i
    CROSS JOIN LATERAL
        gpt2._attend_cached(i.q, i.past, i.recent_k, i.recent_v, i.scale) AS t
    GROUP BY i."position";
END;
COMMENT ON FUNCTION gpt2._attend_all IS
    'attention of all heads at the last positions of a chunk; the block''s first head is the one '
    'after so many of past';


CREATE FUNCTION gpt2._enter_block(x vector[], m gpt2.model, block int)
RETURNS TABLE (q vector[], kv vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT array_agg(subvector(l.y, 1, (m).n_embd) ORDER BY p.n),
           array_agg(subvector(l.y, (m).n_embd + 1, 2 * (m).n_embd) ORDER BY p.n)
    FROM unnest(_enter_block.x) WITH ORDINALITY AS p (x, n)
    CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, _enter_block.block, 'ln_1') AS n
    CROSS JOIN LATERAL gpt2._linear(n.y, m, _enter_block.block, 'attn.c_attn') AS l;
END;
COMMENT ON FUNCTION gpt2._enter_block IS
    'queries, and keys and values, of positions';


CREATE FUNCTION gpt2._leave_block(x vector[], q vector[], past gpt2._past[], "before" int,
                                  chunk vector[], m gpt2.model, block int)
RETURNS TABLE (x vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
    SELECT array_agg(r.x + f.y ORDER BY r."position")
    FROM (
        SELECT t."position", _leave_block.x[t."position"] + o.y
        FROM gpt2._attend_all(_leave_block.q, _leave_block.past, "before", chunk, m,
                              _leave_block.block) AS t
        CROSS JOIN LATERAL gpt2._linear(t.z, m, _leave_block.block, 'attn.c_proj') AS o
        OFFSET 0
    ) AS r ("position", x)
    CROSS JOIN LATERAL gpt2._layer_norm(r.x, m, _leave_block.block, 'ln_2') AS n
    CROSS JOIN LATERAL gpt2._mlp(n.y, m, _leave_block.block) AS f;
END;
COMMENT ON FUNCTION gpt2._leave_block IS
    'the residual stream after a block, of the last positions of a chunk';


CREATE FUNCTION gpt2._incomplete(y vector[], m gpt2.model)
RETURNS vector[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN gpt2._raise(
    y, 'data_exception', format('the weights of model "%s" are incomplete', (m).name),
    'A row is missing, so that nothing can be computed from those there are.',
    format('Load it again: gpt2-loader load SOURCE --name %s --replace', quote_ident((m).name)));
COMMENT ON FUNCTION gpt2._incomplete IS
    'raises the error that there are not so many activations as positions';


CREATE FUNCTION gpt2._extend(tokens int[], n_past int, past gpt2._past[], recent vector[],
                           n_new int, m gpt2.model, steer gpt2.steering[])
RETURNS TABLE (y vector[], kv vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- recent: [n_recent * n_layer], keys and values [2 * n_embd] of the positions after the past
    WITH RECURSIVE block AS (
        SELECT 0 AS block, f."first",
               array_agg(e.embed + e.pos_embed ORDER BY p."position") AS x, NULL::vector[] AS kv
        FROM (SELECT n_past + coalesce(cardinality(recent), 0) / (m).n_layer) AS f ("first")
        CROSS JOIN generate_series(f."first", f."first" + n_new - 1) AS p ("position")
        CROSS JOIN LATERAL
            gpt2._embedding(tokens[p."position" + 1], p."position", m) AS e
        GROUP BY f."first"
    UNION ALL
        SELECT b.block + 1, b."first", r.x, a.kv
        FROM block AS b
        CROSS JOIN LATERAL (
            SELECT CASE WHEN steer IS NULL THEN b.x
                   ELSE gpt2._steer(b.x, b."first", b.block, steer) END AS x
        ) AS resid_pre
        CROSS JOIN LATERAL gpt2._enter_block(resid_pre.x, m, b.block) AS a
        CROSS JOIN LATERAL (
            -- keys and values of the whole chunk in this block
            SELECT ARRAY(
                SELECT recent[i + b.block]
                FROM generate_series(1, coalesce(cardinality(recent), 0), (m).n_layer) AS i
            ) || a.kv AS kv
            OFFSET 0
        ) AS chunk
        CROSS JOIN LATERAL gpt2._leave_block(resid_pre.x, a.q, past, b.block * (m).n_head, chunk.kv,
                                             m, b.block) AS r
        WHERE b.block < (m).n_layer
    )
    SELECT CASE WHEN y.n = n_new THEN y.y ELSE gpt2._incomplete(y.y, m) END,
           (SELECT array_agg(u.kv ORDER BY u.n, b.block)
            FROM block AS b
            CROSS JOIN unnest(b.kv) WITH ORDINALITY AS u (kv, n))
    FROM (
        SELECT array_agg(p.y ORDER BY p.n) AS y, count(p.y) AS n
        FROM (
            SELECT p.n, n.y
            FROM block AS last
            CROSS JOIN LATERAL unnest(
                CASE WHEN steer IS NULL THEN last.x
                ELSE gpt2._steer(last.x, last."first", last.block, steer) END
            ) WITH ORDINALITY AS p (x, n)
            CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, last.block, 'ln_f') AS n
            WHERE last.block = (m).n_layer
        ) AS p
    ) AS y;
END;
COMMENT ON FUNCTION gpt2._extend IS
    'the next n_new positions through all blocks: what they are after ln_f, and their keys and '
    'values';


CREATE FUNCTION gpt2._cut_past(past gpt2._past[], n int)
RETURNS TABLE (past gpt2._past[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT CASE WHEN n > 0 THEN ARRAY(
        SELECT ROW((h.past).k[:n],
                   ARRAY(SELECT subvector((h.past).v[j], 1, n)
                         FROM generate_series(1, cardinality((h.past).v)) AS j))::gpt2._past
        -- in the list of a SELECT unnest hands on what is there; in FROM it copies it all
        FROM (SELECT unnest(_cut_past.past) AS past) AS h) END;
END;
COMMENT ON FUNCTION gpt2._cut_past IS 'the first n positions of a past; NULL for none';


-- array_agg would copy all that it has collected once more.
CREATE AGGREGATE gpt2._collect(gpt2._past) (
    SFUNC = array_append, STYPE = gpt2._past[], PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._collect(gpt2._past) IS 'an array of them, in the order of the rows';


CREATE FUNCTION gpt2._remember(past gpt2._past[], recent vector[], m gpt2.model)
RETURNS TABLE (past gpt2._past[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT gpt2._collect(ROW((o.past).k || chunk.k, v.v)::gpt2._past)
    FROM (
        -- block by block, and in each head by head
        SELECT i, (i - 1) / (m).n_head AS block,
               1 + (i - 1) % (m).n_head * (m).n_embd / (m).n_head AS "first",
               (m).n_embd / (m).n_head AS d, (m).n_embd, (m).n_layer
        FROM generate_series(1, (m).n_layer * (m).n_head) AS i
    ) AS h
    CROSS JOIN LATERAL (SELECT _remember.past[h.i] AS past) AS o
    CROSS JOIN LATERAL (
        -- twice [n_recent, d]
        SELECT array_agg(subvector(r.kv, h."first", h.d) ORDER BY r.n) AS k,
               array_agg(subvector(r.kv, h.n_embd + h."first", h.d) ORDER BY r.n) AS v
        FROM (SELECT n, recent[n + h.block] AS kv
              FROM generate_series(1, cardinality(recent), h.n_layer) AS n) AS r
    ) AS chunk
    CROSS JOIN LATERAL (
        -- [d, n_past + n_recent]
        SELECT ARRAY(SELECT coalesce(u.past || u.new, u.new)
                     FROM (SELECT unnest((o.past).v) AS past, unnest(t.y) AS new) AS u) AS v
        FROM gpt2._transpose(chunk.v) AS t
    ) AS v;
END;
COMMENT ON FUNCTION gpt2._remember IS 'the past with a chunk''s positions at its end';
