-- The model one position at a time, with a cache: a position's keys and values never change once
-- computed, so each new token costs one position, not the whole text again.
--
-- A query cannot append to a large value in place, it copies. So the cache has two parts. The past
-- is a row a block and head, in the shape that attention reads fastest; it is rebuilt once a
-- chunk. The chunk's own positions (recent) ride through the recursion and stay small.
-- gpt2._advance is one chunk: a recursion over positions, and in each a recursion over blocks.


CREATE TYPE gpt2._past AS (
    k vector[],  -- [n_past, d]: a key a position
    v vector[]   -- [d, n_past]: transposed, so that a weighted sum over positions is <#>
);
COMMENT ON TYPE gpt2._past IS 'keys and values of one head in one block';

CREATE TYPE gpt2._context AS (
    tokens int[],       -- the text so far
    n_past int,         -- positions that are in past
    past gpt2._past[],  -- [n_layer * n_head], block by block
    y vector            -- [n_embd]: after ln_f, at the last position computed
);
COMMENT ON TYPE gpt2._context IS
    'a text on its way through a model: tokens, cache, last activation';


CREATE FUNCTION gpt2._chunk()
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- A recent position costs attention five times what a past one does (1.2 us a head), and to put a
-- chunk into the past copies the past once.
RETURN 16;
COMMENT ON FUNCTION gpt2._chunk() IS 'positions in a chunk';


CREATE FUNCTION gpt2._attend(q vector, past gpt2._past, recent_k vector[], recent_v vector[],
                             scale float8)
RETURNS TABLE (z vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    -- attention(q, k, v) = softmax(q . k * scale) v, for one head at one position: see
    -- model/attention.sql, which says the same over all positions
    SELECT p.z
    FROM (
        SELECT array_agg(s.score) AS score, max(s.score) AS largest
        FROM (SELECT -(k.k <#> q) * scale AS score
              FROM (SELECT unnest((_attend.past).k) AS k UNION ALL SELECT unnest(recent_k)) AS k
              OFFSET 0) AS s
    ) AS s
    CROSS JOIN LATERAL (
        -- not yet divided by their sum
        SELECT array_agg(u.weight) AS weight, sum(u.weight) AS total,
               coalesce(cardinality((_attend.past).k), 0) AS n_past
        FROM (SELECT exp(greatest(unnest(s.score) - s.largest, -700)) AS weight) AS u
    ) AS e
    CROSS JOIN LATERAL (
        SELECT sum(part.z)
        FROM (
            SELECT ARRAY(SELECT -(unnest((_attend.past).v) <#> w.past) / e.total)::vector
            FROM (SELECT e.weight[:e.n_past]::vector AS past OFFSET 0) AS w
            WHERE e.n_past > 0
        UNION ALL
            -- weights below 1e-12 add nothing, and could underflow
            SELECT gpt2._fill(CASE WHEN u.weight > 1e-12 * e.total
                                   THEN u.weight / e.total ELSE 0 END, vector_dims(q)) * u.v
            FROM (SELECT unnest(e.weight[e.n_past + 1:]) AS weight, unnest(recent_v) AS v) AS u
        ) AS part (z)
    ) AS p (z);
END;
COMMENT ON FUNCTION gpt2._attend(vector, gpt2._past, vector[], vector[], float8) IS
    'attention of one head at one position over the cached ones and the recent ones';


CREATE FUNCTION gpt2._attend_all(q vector[], past gpt2._past[], chunk vector[], m gpt2.model,
                                 block int)
RETURNS TABLE ("position" int, z vector)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- q: [n_new], chunk: [n_recent + n_new, 2 * n_embd], keys and values; z: [n_new, n_embd]
    SELECT i."position", gpt2._concat(t.z ORDER BY i.head)
    FROM (
        SELECT h.*, p.n::int AS "position",
               subvector(p.q, h."first", h.d) AS q,
               past[block * (m).n_head + h.head + 1] AS past,
               h.k[:cardinality(chunk) - cardinality(_attend_all.q) + p.n] AS recent_k,
               h.v[:cardinality(chunk) - cardinality(_attend_all.q) + p.n] AS recent_v,
               gpt2._attention_scale(m) AS scale
        FROM (
            SELECT f.*,
                   ARRAY(SELECT subvector(u.kv, f."first", f.d)
                         FROM (SELECT unnest(chunk) AS kv) AS u) AS k,
                   ARRAY(SELECT subvector(u.kv, (m).n_embd + f."first", f.d)
                         FROM (SELECT unnest(chunk) AS kv) AS u) AS v
            FROM (
                SELECT head, 1 + head * ((m).n_embd / (m).n_head) AS "first",
                       (m).n_embd / (m).n_head AS d
                FROM generate_series(0, (m).n_head - 1) AS head
            ) AS f
            OFFSET 0
        ) AS h
        CROSS JOIN LATERAL unnest(_attend_all.q) WITH ORDINALITY AS p (q, n)
        OFFSET 0
    ) AS i
    CROSS JOIN LATERAL
        gpt2._attend(i.q, i.past, i.recent_k, i.recent_v, i.scale) AS t
    GROUP BY i."position";
END;
COMMENT ON FUNCTION gpt2._attend_all(vector[], gpt2._past[], vector[], gpt2.model, int) IS
    'attention of all heads at the last positions of a chunk';


CREATE FUNCTION gpt2._step(tokens int[], n_past int, past gpt2._past[], recent vector[],
                           n_new int, m gpt2.model, steer gpt2.steering[])
RETURNS TABLE (y vector, kv vector[])
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
            OFFSET 0
        ) AS resid_pre
        CROSS JOIN LATERAL (
            -- queries, and keys and values, of the new positions
            SELECT array_agg(l.y ORDER BY p.n) AS q,
                   array_agg(subvector(l.y, (m).n_embd + 1, 2 * (m).n_embd) ORDER BY p.n) AS kv
            FROM unnest(resid_pre.x) WITH ORDINALITY AS p (x, n)
            CROSS JOIN LATERAL gpt2._layer_norm(p.x, m, b.block, 'ln_1') AS n
            CROSS JOIN LATERAL gpt2._linear(n.y, m, b.block, 'attn.c_attn') AS l
        ) AS a
        CROSS JOIN LATERAL (
            -- keys and values of the whole chunk in this block
            SELECT ARRAY(
                SELECT recent[i + b.block]
                FROM generate_series(1, coalesce(cardinality(recent), 0), (m).n_layer) AS i
            ) || a.kv AS kv
            OFFSET 0
        ) AS chunk
        CROSS JOIN LATERAL (
            -- x = x + attention(ln_1(x));  x = x + mlp(ln_2(x))
            SELECT array_agg(r.x + f.y ORDER BY r."position") AS x
            FROM (
                SELECT t."position", resid_pre.x[t."position"] + o.y
                FROM gpt2._attend_all(a.q, past, chunk.kv, m, b.block) AS t
                CROSS JOIN LATERAL gpt2._linear(t.z, m, b.block, 'attn.c_proj') AS o
                OFFSET 0
            ) AS r ("position", x)
            CROSS JOIN LATERAL gpt2._layer_norm(r.x, m, b.block, 'ln_2') AS n
            CROSS JOIN LATERAL gpt2._mlp(n.y, m, b.block) AS f
        ) AS r
        WHERE b.block < (m).n_layer
    )
    SELECT n.y, c.kv
    FROM (
        SELECT array_agg(u.kv ORDER BY u.n, b.block) AS kv,
               (SELECT CASE WHEN steer IS NULL THEN last.x[n_new]
                       ELSE (gpt2._steer(last.x, last."first", last.block, steer))[n_new] END
                FROM block AS last WHERE last.block = (m).n_layer) AS x
        FROM block AS b
        CROSS JOIN unnest(b.kv) WITH ORDINALITY AS u (kv, n)
    ) AS c
    CROSS JOIN LATERAL gpt2._layer_norm(c.x, m, (m).n_layer, 'ln_f') AS n;
END;
COMMENT ON FUNCTION gpt2._step(
    int[], int, gpt2._past[], vector[], int, gpt2.model, gpt2.steering[]
) IS
    'the next n_new positions through all blocks: the last activation after ln_f, and their keys '
    'and values';


CREATE FUNCTION gpt2._remember(past gpt2._past[], recent vector[], m gpt2.model)
RETURNS TABLE (past gpt2._past[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT array_agg(ROW((o.past).k || chunk.k, v.v)::gpt2._past ORDER BY h.block, h.head)
    FROM (
        SELECT block, head, 1 + head * (m).n_embd / (m).n_head AS "first",
               (m).n_embd / (m).n_head AS d, (m).n_embd, (m).n_layer,
               block * (m).n_head + head + 1 AS i
        FROM generate_series(0, (m).n_layer - 1) AS block
        CROSS JOIN generate_series(0, (m).n_head - 1) AS head
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
COMMENT ON FUNCTION gpt2._remember(gpt2._past[], vector[], gpt2.model) IS
    'the past with a chunk''s positions at its end';


CREATE FUNCTION gpt2._advance(
    context gpt2._context, start gpt2._context, m gpt2.model, n_stop int,
    temperature float8, top_k int, seed bigint, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- The prompt's positions together, for reading a weight takes as long as multiplying it; then
    -- one for each token, while there is one left to choose.
    WITH RECURSIVE before AS MATERIALIZED (
        SELECT (coalesce(context, start)).tokens, (coalesce(context, start)).n_past,
               (coalesce(context, start)).y, cardinality((start).tokens) AS n_prompt
    ), step AS (
        SELECT 0 AS n,
               -- a prompt that was read elsewhere has its next token still to be chosen
               b.tokens || ARRAY(
                   SELECT t.token
                   FROM gpt2._sample(b.y, m, temperature, top_k, seed, cardinality(b.tokens)) AS t
                   WHERE b.n_past = cardinality(b.tokens) AND cardinality(b.tokens) < n_stop)
                   AS tokens,
               NULL::vector[] AS recent, b.y
        FROM before AS b
    UNION ALL
        SELECT s.n + new.n,
               -- at the text's end, the next token
               s.tokens || ARRAY(
                   SELECT t.token
                   FROM gpt2._sample(p.y, m, temperature, top_k, seed, cardinality(s.tokens)) AS t
                   WHERE b.n_past + s.n + new.n = cardinality(s.tokens)
                     AND cardinality(s.tokens) < n_stop),
               s.recent || p.kv, p.y
        FROM before AS b
        CROSS JOIN step AS s
        CROSS JOIN LATERAL (
            SELECT least(greatest(b.n_prompt - b.n_past - s.n, 1), gpt2._chunk() - s.n) OFFSET 0
        ) AS new (n)
        CROSS JOIN LATERAL
            gpt2._step(s.tokens, b.n_past, (coalesce(context, start)).past, s.recent, new.n, m,
                       steer) AS p
        WHERE s.n < gpt2._chunk()
          AND (b.n_past + s.n < b.n_prompt
               OR (cardinality(s.tokens) < n_stop
                   AND s.tokens[cardinality(s.tokens)] <> (m).eos_token))
    )
    SELECT ROW(
        s.tokens, b.n_past + s.n,
        CASE WHEN s.n = gpt2._chunk()
             THEN (SELECT r.past
                   FROM gpt2._remember((coalesce(context, start)).past, s.recent, m) AS r)
             ELSE (coalesce(context, start)).past END,
        s.y)::gpt2._context
    FROM before AS b
    CROSS JOIN (SELECT * FROM step ORDER BY n DESC LIMIT 1) AS s;
END;
COMMENT ON FUNCTION gpt2._advance(
    gpt2._context, gpt2._context, gpt2.model, int, float8, int, bigint, gpt2.steering[]
) IS 'up to a chunk of positions: those of the prompt, then one for each token that is chosen';


-- An aggregate keeps one state, where a recursive query would keep them all.
CREATE AGGREGATE gpt2._advance_all(
    start gpt2._context, m gpt2.model, n_stop int, temperature float8, top_k int, seed bigint,
    steer gpt2.steering[]
) (
    SFUNC = gpt2._advance, STYPE = gpt2._context, PARALLEL = SAFE
);
COMMENT ON AGGREGATE gpt2._advance_all(
    gpt2._context, gpt2.model, int, float8, int, bigint, gpt2.steering[]
) IS 'the context after as many chunks as there are rows';


CREATE FUNCTION gpt2._read_patched(
    prompt int[], m gpt2.model, patch gpt2._patch, steer gpt2.steering[]
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A patch may replace any activation, so the prompt is read by the forward pass, which has them
    -- all: its keys and values are the cache with which generation goes on.
    WITH activation AS MATERIALIZED (
        SELECT a.*
        FROM gpt2._forward(prompt, m, gpt2._wanted('{k, v, ln_final_out}', NULL, m), patch, steer)
            AS a
    )
    SELECT ROW(
        prompt, cardinality(prompt),
        (SELECT array_agg(ROW(h.k, v.y)::gpt2._past ORDER BY h.block, h.head)
         FROM (
             SELECT a.block, a.head,
                    array_agg(a.value ORDER BY a."position") FILTER (WHERE a.hook = 'attn.hook_k')
                        AS k,
                    array_agg(a.value ORDER BY a."position") FILTER (WHERE a.hook = 'attn.hook_v')
                        AS v
             FROM activation AS a
             WHERE a.head IS NOT NULL
             GROUP BY a.block, a.head
         ) AS h
         CROSS JOIN LATERAL gpt2._transpose(h.v) AS v),
        y.value)::gpt2._context
    FROM activation AS y
    WHERE y.hook = 'ln_final.hook_out' AND y."position" = cardinality(prompt) - 1;
END;
COMMENT ON FUNCTION gpt2._read_patched(int[], gpt2.model, gpt2._patch, gpt2.steering[]) IS
    'the context after a prompt some of whose activations are replaced';


CREATE FUNCTION gpt2._run(
    prompt int[], m gpt2.model, n_stop int,
    temperature float8 DEFAULT 0, top_k int DEFAULT NULL, seed bigint DEFAULT NULL,
    steer gpt2.steering[] DEFAULT NULL, patch gpt2._patch DEFAULT NULL
) RETURNS gpt2._context
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- the prompt, and the chosen tokens but for the last, which need not be read
    SELECT gpt2._advance_all(s.start, m, n_stop, temperature, top_k, seed, steer)
    FROM (
        SELECT CASE WHEN patch IS NULL THEN ROW(prompt, 0, NULL, NULL)::gpt2._context
               ELSE gpt2._read_patched(prompt, m, patch, steer) END AS start
        OFFSET 0
    ) AS s
    CROSS JOIN generate_series(
        1, greatest(1, ceil((greatest(cardinality(prompt), n_stop - 1) - (s.start).n_past)
                            / gpt2._chunk()::numeric)::int));
END;
COMMENT ON FUNCTION gpt2._run(
    int[], gpt2.model, int, float8, int, bigint, gpt2.steering[], gpt2._patch
) IS
    'a prompt, read and continued until it has n_stop tokens; n_stop = its own length: only read';
