-- A long prompt, read by several processes: what PostgreSQL's parallel query does for the rows of a
-- table it does here for the chunks of one text.
--
-- Of a block two things are computed: what attention looks for (queries, keys, values), position
-- by position, and all that follows, for which the keys and values of every earlier position must
-- be there. So there is one query for what follows in a block and what attention looks for in the
-- next: n_layer + 1 queries for a text, in each of which a row is a chunk. To launch workers takes
-- 10 to 15 ms, so each must have much to do: short prompts are read by gpt2._advance alone.
--
-- The sums are those of gpt2._advance, in the same order: each position sees the chunks before its
-- own as the past, and those in its own as recent. So the result is the same to the last bit, with
-- any number of workers and with none.


-- A parallel scan hands out pages. So a row fills one.
CREATE TABLE gpt2._share (
    share int NOT NULL,
    filler text NOT NULL
) WITH (parallel_workers = 64);
ALTER TABLE gpt2._share ALTER filler SET STORAGE PLAIN;
COMMENT ON TABLE gpt2._share IS
    'shares of a work that parallel workers take one by one: as many as gpt2._n_shares(), each on '
    'a page of its own';
GRANT SELECT ON gpt2._share TO PUBLIC;


-- A subscription to all tables copies the shares to where they are already, and one that is there
-- twice would be computed twice. There is no key, as an index would be read in place of the pages.
CREATE FUNCTION gpt2._skip_share()
RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN NULL;
END;
$$;
COMMENT ON FUNCTION gpt2._skip_share IS 'leaves a row out';
CREATE TRIGGER skip_share BEFORE INSERT ON gpt2._share
    FOR EACH ROW EXECUTE FUNCTION gpt2._skip_share();
ALTER TABLE gpt2._share ENABLE REPLICA TRIGGER skip_share;


CREATE FUNCTION gpt2._n_shares()
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 64;
COMMENT ON FUNCTION gpt2._n_shares IS 'rows of gpt2._share: so many workers have something to do';


CREATE TYPE gpt2._piece AS (
    chunk int,          -- from 0, of those that are read
    x vector[],         -- [n, n_embd]: the residual stream before a block; in the end after ln_f
    q vector[],         -- [n, n_embd]: the block's queries
    kv vector[],        -- [n, 2 * n_embd]: its keys and values
    past gpt2._past[]   -- [n_head]: the same head by head, as attention reads them later
);
COMMENT ON TYPE gpt2._piece IS 'what has become of a chunk before a block';

CREATE TYPE gpt2._reading AS (
    block int,              -- from 0; n_layer: after the last
    pieces gpt2._piece[],   -- [n_chunk], as they came; without their past
    past gpt2._past[]       -- [n_head]: of all positions, in this block
);
COMMENT ON TYPE gpt2._reading IS 'a text on its way through the blocks';


CREATE FUNCTION gpt2._read_chunk(
    piece int, block int, tokens int[], n_past int, pieces gpt2._piece[], past gpt2._past[],
    m gpt2.model, steer gpt2.steering[]
) RETURNS gpt2._piece
LANGUAGE sql STABLE PARALLEL SAFE COST 1000000
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT ROW(
        i.chunk, e.x, e.q, e.kv,
        CASE WHEN e.kv IS NOT NULL THEN ARRAY(
            SELECT ROW(h.k, t.y)::gpt2._past
            FROM gpt2._split_chunk(e.kv, m) AS h
            CROSS JOIN LATERAL gpt2._transpose(h.v) AS t
            ORDER BY h.head) END
        )::gpt2._piece
    FROM (
        SELECT p.*, n_past + p.chunk * gpt2._chunk() AS "first", _read_chunk.block + 1 AS next
        FROM (
            SELECT pieces[_read_chunk.piece] AS piece,
                   coalesce((pieces[_read_chunk.piece]).chunk, _read_chunk.piece - 1) AS chunk
            OFFSET 0
        ) AS p
        OFFSET 0
    ) AS i
    CROSS JOIN LATERAL (
        SELECT r.x
        FROM (SELECT (i.piece).x, (i.piece).q, (i.piece).kv OFFSET 0) AS p
        CROSS JOIN LATERAL gpt2._cut_past(_read_chunk.past, i."first") AS c
        CROSS JOIN LATERAL
            gpt2._leave_block(p.x, p.q, c.past, 0, p.kv, m, _read_chunk.block) AS r
        WHERE _read_chunk.block >= 0
    UNION ALL
        SELECT array_agg(e.embed + e.pos_embed ORDER BY p."position")
        FROM generate_series(i."first", i."first" + gpt2._chunk() - 1) AS p ("position")
        CROSS JOIN LATERAL gpt2._embedding(tokens[p."position" + 1], p."position", m) AS e
        WHERE _read_chunk.block < 0
        HAVING _read_chunk.block < 0
    ) AS l
    CROSS JOIN LATERAL (
        SELECT CASE WHEN steer IS NULL THEN l.x
               ELSE gpt2._steer(l.x, i."first", i.next, steer) END AS x
        OFFSET 0
    ) AS resid_pre
    CROSS JOIN LATERAL (
        SELECT resid_pre.x, a.q, a.kv
        FROM gpt2._enter_block(resid_pre.x, m, i.next) AS a
        WHERE i.next < (m).n_layer
    UNION ALL
        SELECT array_agg(n.y ORDER BY p.n), NULL, NULL
        FROM unnest(resid_pre.x) WITH ORDINALITY AS p (x, n)
        CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, i.next, 'ln_f') AS n
        WHERE i.next = (m).n_layer
        HAVING i.next = (m).n_layer
    ) AS e;
END;
COMMENT ON FUNCTION gpt2._read_chunk IS
    'a piece, counted from 1, from before a block to before the next; from its tokens where block '
    'is -1';


-- A function that returns rows and has settings: the query in it is planned by itself and run to
-- its end, which are what workers need. Where it is called in a worker there are no others.
CREATE FUNCTION gpt2._read_block(
    block int, tokens int[], n_past int, n_chunk int, pieces gpt2._piece[], past gpt2._past[],
    m gpt2.model, steer gpt2.steering[]
) RETURNS TABLE (i int, piece gpt2._piece)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 64
SET enable_seqscan = on
-- The workers' results are larger than the queues between them and the leader: they would wait
-- while it works itself.
SET parallel_leader_participation = off
-- From PostgreSQL 18 on the arguments would be written into the plan, as text, for each worker.
SET plan_cache_mode = force_generic_plan
BEGIN ATOMIC
    -- two columns: rows that are one value of a composite type would be fetched one by one
    SELECT i, gpt2._read_chunk(i, _read_block.block, tokens, n_past, pieces, _read_block.past, m,
                               steer)
    FROM gpt2._share AS s
    CROSS JOIN LATERAL generate_series(s.share, n_chunk, gpt2._n_shares()) AS i;
END;
COMMENT ON FUNCTION gpt2._read_block IS
    'all chunks from before a block to before the next, in no order';


CREATE FUNCTION gpt2._in_order(pieces gpt2._piece[])
RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT i FROM generate_series(1, cardinality(pieces)) AS i
             ORDER BY (pieces[i]).chunk);
COMMENT ON FUNCTION gpt2._in_order IS 'the numbers of the pieces in the order of their chunks';


CREATE FUNCTION gpt2._join_chunks(
    pieces gpt2._piece[], past gpt2._past[], "before" int, m gpt2.model
) RETURNS gpt2._past[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._collect(ROW(
        (h.past).k || ARRAY(SELECT unnest((h.parts[c]).k)
                            FROM generate_series(1, cardinality(h.parts)) AS c),
        ARRAY(SELECT coalesce((h.past).v[j] || w.v, w.v)
              FROM generate_series(1, h.d) AS j
              CROSS JOIN LATERAL (
                  SELECT gpt2._concat((h.parts[c]).v[j] ORDER BY c)
                  FROM generate_series(1, cardinality(h.parts)) AS c
              ) AS w (v)))::gpt2._past)
    FROM (
        SELECT _join_chunks.past["before" + head] AS past, (m).n_embd / (m).n_head AS d,
               ARRAY(SELECT (pieces[i]).past[head] FROM unnest(o.i) AS i) AS parts
        FROM (SELECT gpt2._in_order(pieces) OFFSET 0) AS o (i)
        CROSS JOIN generate_series(1, (m).n_head) AS head
        OFFSET 0
    ) AS h;
END;
COMMENT ON FUNCTION gpt2._join_chunks IS
    'the past of a block with the pieces of chunks at its end; its first head is the one after so '
    'many of past';


CREATE FUNCTION gpt2._read_step(
    state gpt2._reading, tokens int[], n_past int, n_chunk int, past gpt2._past[], m gpt2.model,
    steer gpt2.steering[]
) RETURNS gpt2._reading
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- what is large is copied as seldom as can be: not sorted, and the pieces' past apart
    SELECT ROW(
        i.next, r.pieces,
        CASE WHEN i.next < (m).n_layer
             THEN gpt2._join_chunks(r.parts, _read_step.past, i.next * (m).n_head, m) END
        )::gpt2._reading
    FROM (
        SELECT coalesce((state).block + 1, 0) AS next, (state).pieces, (state).past OFFSET 0
    ) AS i
    CROSS JOIN LATERAL (
        SELECT array_agg(ROW((b.piece).chunk, (b.piece).x, (b.piece).q, (b.piece).kv,
                             NULL)::gpt2._piece) AS pieces,
               array_agg(ROW((b.piece).chunk, NULL, NULL, NULL,
                             (b.piece).past)::gpt2._piece) AS parts
        FROM gpt2._read_block(i.next - 1, tokens, n_past, n_chunk, i.pieces, i.past, m, steer) AS b
        OFFSET 0
    ) AS r;
END;
COMMENT ON FUNCTION gpt2._read_step IS 'one block more; past is that of the whole model';


CREATE AGGREGATE gpt2._read_each(
    tokens int[], n_past int, n_chunk int, past gpt2._past[], m gpt2.model, steer gpt2.steering[]
) (
    SFUNC = gpt2._read_step, STYPE = gpt2._reading, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._read_each(
    int[], int, int, gpt2._past[], gpt2.model, gpt2.steering[]
) IS 'a text before the block of the last row';


CREATE FUNCTION gpt2._x_of(pieces gpt2._piece[])
RETURNS vector[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT unnest((pieces[i]).x) FROM unnest(gpt2._in_order(pieces)) AS i);
COMMENT ON FUNCTION gpt2._x_of IS 'the residual stream at the positions of all chunks';


CREATE FUNCTION gpt2._n_chunks(context gpt2._context)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (cardinality((context).tokens) - (context).n_past) / gpt2._chunk();
COMMENT ON FUNCTION gpt2._n_chunks IS 'whole chunks of a prompt that are unread';


CREATE FUNCTION gpt2._is_long(context gpt2._context, m gpt2.model)
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
-- By the products of a weight and an activation that a block has. To launch a worker takes 17 ms
-- of its time, in which it would compute 40 million. Without workers the gain is that the past is
-- copied once, the loss that each block plans anew, 5 ms. With a model as wide as GPT-2 small 64
-- positions are long, and 160 without workers.
RETURN gpt2._n_chunks(context) * gpt2._chunk() * 12 * (m).n_embd::float8 ^ 2
    >= CASE WHEN current_setting('max_parallel_workers_per_gather')::int > 1
            THEN 4.5e8 ELSE 1.1e9 END;
COMMENT ON FUNCTION gpt2._is_long IS
    'whether so much of a prompt is unread that reading it by chunks pays';


-- A setting, so that the planner looks at it only where a text is long. In a SELECT list its rows
-- are handed over one by one; in FROM all of them, the whole past, would be kept until the end.
CREATE FUNCTION gpt2._read_blocks(start gpt2._context, m gpt2.model, steer gpt2.steering[])
RETURNS TABLE (past gpt2._past[], y vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 13
SET plan_cache_mode = force_generic_plan
BEGIN ATOMIC
    SELECT (b.reading).past,
           CASE WHEN (b.reading).block = (m).n_layer THEN gpt2._x_of((b.reading).pieces) END
    FROM (
        -- as a window function the aggregate gives a row a block, of which only the past is kept
        SELECT gpt2._read_each((start).tokens, (start).n_past, gpt2._n_chunks(start), (start).past,
                               m, _read_blocks.steer)
                   OVER (ORDER BY n ROWS UNBOUNDED PRECEDING) AS reading
        FROM generate_series(0, (m).n_layer) AS n
    ) AS b;
END;
COMMENT ON FUNCTION gpt2._read_blocks IS
    'whole unread chunks of a context: block by block its past with them, in the end their '
    'activations';


CREATE FUNCTION gpt2._read_long(start gpt2._context, m gpt2.model, steer gpt2.steering[])
RETURNS TABLE (n_past int, past gpt2._past[], y vector[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- What is read begins where a chunk does: recent positions are read again.
    WITH block AS (
        SELECT gpt2._read_blocks(start, m, _read_long.steer) AS read
    ), value AS (
        SELECT unnest((b.read).past) AS past, unnest((b.read).y) AS y FROM block AS b
    ), read AS (
        SELECT gpt2._n_chunks(start) * gpt2._chunk() AS n_new, count(v.y) AS n,
               gpt2._collect(v.past) FILTER (WHERE v.past IS NOT NULL) AS past,
               array_agg(v.y) FILTER (WHERE v.y IS NOT NULL) AS y
        FROM value AS v
    )
    SELECT (start).n_past + r.n_new, r.past,
           (start).y[:(start).n_past] || CASE WHEN r.n = r.n_new THEN r.y
                                              ELSE gpt2._incomplete(r.y, m) END
    FROM read AS r;
END;
COMMENT ON FUNCTION gpt2._read_long IS
    'a context''s past and activations once its unread chunks are read, all that are whole';
