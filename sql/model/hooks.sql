-- Hook points: the places of the forward pass where an activation can be read (gpt2_trace),
-- replaced (patch) or added to (steer). Their names and meanings are those of TransformerLens 3
-- (github.com/TransformerLensOrg/TransformerLens), with weights as they are: nothing is folded into
-- another layer, nothing is centered.


CREATE TYPE gpt2.activation AS (
    block int,       -- from 0; NULL outside the blocks
    head int,        -- from 0; NULL where there are no heads
    "position" int,  -- from 0
    hook text,       -- as in gpt2_hooks()
    value vector
);
COMMENT ON TYPE gpt2.activation IS
    'an activation of the forward pass, by the name of its hook point: a row of gpt2_trace';

CREATE TYPE gpt2.steering AS (
    block int,       -- from 0; n_layer: after the last
    "position" int,  -- from 0; NULL: all of them
    value vector,    -- [n_embd]
    scale float8     -- NULL: 1
);
COMMENT ON TYPE gpt2.steering IS
    'scale times value, added to the residual stream before a block, at one position or at all';


CREATE FUNCTION gpt2._hook_points()
RETURNS TABLE (hook text, short text, per_head boolean, width text, meaning text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 21
BEGIN ATOMIC
    SELECT *
    FROM (VALUES
        ('hook_embed', 'embed', false, 'n_embd', 'token embedding (wte)'),
        ('hook_pos_embed', 'pos_embed', false, 'n_embd', 'position embedding (wpe)'),
        ('hook_resid_pre', 'resid_pre', false, 'n_embd', 'residual stream as the block reads it'),
        ('ln1.hook_normalized', 'ln1', false, 'n_embd',
            'residual stream with mean 0 and variance 1'),
        ('ln1.hook_out', 'ln1_out', false, 'n_embd',
            'times the weight of ln_1, plus its bias: what attention reads'),
        ('attn.hook_q', 'q', true, 'd_head', 'queries'),
        ('attn.hook_k', 'k', true, 'd_head', 'keys'),
        ('attn.hook_v', 'v', true, 'd_head', 'values'),
        ('attn.hook_attn_scores', 'attn_scores', true, 'position + 1',
            'q . k / sqrt(d_head), for each position up to this one'),
        ('attn.hook_pattern', 'pattern', true, 'position + 1', 'softmax of the scores'),
        ('attn.hook_z', 'z', true, 'd_head', 'mean of the values, weighted by the pattern'),
        ('hook_attn_out', 'attn_out', false, 'n_embd', 'what attention adds: c_proj(z)'),
        ('hook_resid_mid', 'resid_mid', false, 'n_embd', 'residual stream after attention'),
        ('ln2.hook_normalized', 'ln2', false, 'n_embd',
            'residual stream with mean 0 and variance 1'),
        ('ln2.hook_out', 'ln2_out', false, 'n_embd',
            'times the weight of ln_2, plus its bias: what the perceptron reads'),
        ('mlp.hook_pre', 'pre', false, 'n_inner', 'neurons before the activation function'),
        ('mlp.hook_post', 'post', false, 'n_inner', 'neurons after it'),
        ('hook_mlp_out', 'mlp_out', false, 'n_embd', 'what the perceptron adds: c_proj(post)'),
        ('hook_resid_post', 'resid_post', false, 'n_embd', 'residual stream after the block'),
        ('ln_final.hook_normalized', 'ln_final', false, 'n_embd',
            'residual stream with mean 0 and variance 1'),
        ('ln_final.hook_out', 'ln_final_out', false, 'n_embd',
            'times the weight of ln_f, plus its bias: gpt2_forward')
    ) AS h (hook, short, per_head, width, meaning);
END;
COMMENT ON FUNCTION gpt2._hook_points IS
    'the hook points of the forward pass in their order';


CREATE FUNCTION gpt2_hooks()
RETURNS TABLE (hook text, short text, per_head boolean, width text, meaning text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 21
BEGIN ATOMIC
    SELECT * FROM gpt2._hook_points();
END;
COMMENT ON FUNCTION gpt2_hooks IS
    'lists the hook points of the forward pass in their order: name, short name, shape, meaning';


CREATE FUNCTION gpt2._in_blocks(hook text)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hook NOT IN ('hook_embed', 'hook_pos_embed', 'ln_final.hook_normalized',
                    'ln_final.hook_out');
COMMENT ON FUNCTION gpt2._in_blocks IS 'whether each block has this hook point';


CREATE FUNCTION gpt2._norm_hook(layer gpt2.norm)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE layer WHEN 'ln_1' THEN 'ln1.' WHEN 'ln_2' THEN 'ln2.' ELSE 'ln_final.' END;
COMMENT ON FUNCTION gpt2._norm_hook IS 'how the names of a layer norm''s hook points begin';


CREATE FUNCTION gpt2._full_name(hook text, block int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN block IS NULL THEN hook ELSE 'blocks.' || block::text || '.' || hook END;
COMMENT ON FUNCTION gpt2._full_name IS
    'name of a hook point in the whole model: blocks.2.attn.hook_q';


CREATE FUNCTION gpt2._wanted(hooks text[], blocks int[], m gpt2.model)
RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    -- A hook that is named is meant in the given blocks, or in its own (blocks.2.hook_resid_pre);
    -- no hooks means those of the given blocks; neither, all of them.
    WITH known AS (
        SELECT h.hook, h.short, b.block, gpt2._full_name(h.hook, b.block) AS name
        FROM gpt2._hook_points() AS h
        CROSS JOIN LATERAL (
            SELECT b FROM generate_series(0, (m).n_layer - 1) AS b WHERE gpt2._in_blocks(h.hook)
        UNION ALL
            SELECT NULL WHERE NOT gpt2._in_blocks(h.hook)
        ) AS b (block)
    ), wanted AS (
        SELECT k.name
        FROM known AS k
        WHERE CASE WHEN hooks IS NULL THEN blocks IS NULL OR k.block = ANY (blocks)
                   ELSE k.name = ANY (hooks)
                        OR ((k.hook = ANY (hooks) OR k.short = ANY (hooks))
                            AND (k.block IS NULL OR blocks IS NULL OR k.block = ANY (blocks)))
              END
    ), unknown AS (
        SELECT (SELECT coalesce(h, 'NULL') FROM unnest(hooks) AS h
                WHERE NOT EXISTS (SELECT FROM known AS k WHERE h IN (k.name, k.hook, k.short))
                LIMIT 1) AS hook,
               (SELECT coalesce(b::text, 'NULL') FROM unnest(blocks) AS b
                WHERE b BETWEEN 0 AND (m).n_layer - 1 IS NOT TRUE LIMIT 1) AS block
    )
    SELECT CASE
        WHEN gpt2._assert(u.hook IS NULL, 'invalid_parameter_value',
                format('hook point "%s" does not exist in model "%s"', u.hook, (m).name),
                'The argument hooks names it.',
                'SELECT * FROM gpt2_hooks(); lists the hook points.')
         AND gpt2._assert(u.block IS NULL, 'invalid_parameter_value',
                format('block %s does not exist in model "%s"', u.block, (m).name),
                format('Its blocks are 0 to %s.', (m).n_layer - 1),
                'SELECT name, n_layer FROM gpt2_models(); lists the numbers of blocks.')
        THEN ARRAY(SELECT w.name FROM wanted AS w)
    END
    FROM unknown AS u;
END;
COMMENT ON FUNCTION gpt2._wanted IS
    'full names of the hook points that the arguments of gpt2_trace ask for';


-- Patching: what another pass computed, in the place of what this one does

CREATE TYPE gpt2._patch AS (
    index jsonb,    -- name, head and position of an activation -> number of its value
    value vector[]
);
COMMENT ON TYPE gpt2._patch IS 'activations to be put in the place of those computed';


CREATE FUNCTION gpt2._patch_key(hook text, block int, head int, "position" int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- a hook has a head in all its keys or in none
RETURN hook || coalesce('.' || block::text, '') || coalesce('.' || head::text, '')
    || '.' || "position"::text;
COMMENT ON FUNCTION gpt2._patch_key IS 'where gpt2._patch has an activation';


CREATE FUNCTION gpt2._patch(patch gpt2.activation[], n_seq int, m gpt2.model)
RETURNS gpt2._patch
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH part AS (
        SELECT p.n, p.block, p.head, p."position", p.value, h.hook, h.per_head,
               coalesce(p.hook, 'NULL') AS asked,
               CASE h.width WHEN 'n_embd' THEN (m).n_embd WHEN 'n_inner' THEN (m).n_inner
                    WHEN 'd_head' THEN (m).n_embd / (m).n_head
                    ELSE p."position"::bigint + 1 END AS width,
               CASE WHEN gpt2._in_blocks(h.hook) THEN p.block BETWEEN 0 AND (m).n_layer - 1
                    ELSE p.block IS NULL END AS block_exists,
               CASE WHEN h.per_head THEN p.head BETWEEN 0 AND (m).n_head - 1
                    ELSE p.head IS NULL END AS head_exists
        FROM unnest(patch) WITH ORDINALITY AS p (block, head, "position", hook, value, n)
        LEFT JOIN gpt2._hook_points() AS h ON p.hook = h.hook
    )
    SELECT CASE
        WHEN coalesce(cardinality(patch), 0) = 0 THEN NULL
        WHEN gpt2._assert(bad.n IS NULL OR bad.hook IS NOT NULL, 'invalid_parameter_value',
                format('hook point "%s" does not exist', bad.asked),
                format('Row %s of patch has it.', bad.n),
                'SELECT * FROM gpt2_hooks(); lists the hook points.')
         AND gpt2._assert(bad.n IS NULL, 'invalid_parameter_value',
                format('the patch does not fit model "%s"', (m).name),
                format('Row %s: %s, block %s, head %s, position %s, %s elements.', bad.n,
                       bad.hook, coalesce(bad.block::text, 'NULL'),
                       coalesce(bad.head::text, 'NULL'), coalesce(bad."position"::text, 'NULL'),
                       coalesce(vector_dims(bad.value)::text, 'no')),
                format('It has blocks 0 to %s, heads 0 to %s; the prompt has positions 0 to %s; '
                       'norms are at most 1e15; SELECT * FROM gpt2_hooks(); lists the widths.',
                       (m).n_layer - 1, (m).n_head - 1, n_seq - 1))
        THEN (SELECT ROW(
                  jsonb_object_agg(gpt2._patch_key(p.hook, p.block, p.head, p."position"), p.n),
                  array_agg(p.value ORDER BY p.n))::gpt2._patch
              FROM part AS p)
    END
    FROM (SELECT) AS one
    LEFT JOIN (
        SELECT *
        FROM part AS p
        WHERE (p.hook IS NOT NULL AND p.block_exists AND p.head_exists
               AND p."position" BETWEEN 0 AND n_seq - 1
               AND vector_dims(p.value) = p.width
               -- scores may be -3.4e38, for never
               AND (p.hook = 'attn.hook_attn_scores' OR gpt2._is_moderate(p.value))) IS NOT TRUE
        ORDER BY p.n LIMIT 1
    ) AS bad ON true;
END;
COMMENT ON FUNCTION gpt2._patch IS
    'rows of gpt2_trace as a patch of a prompt of n_seq positions; NULL for none';


CREATE FUNCTION gpt2._hook(
    computed vector, hook text, block int, head int, "position" int, patch gpt2._patch
) RETURNS TABLE (y vector)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    SELECT coalesce(
        CASE WHEN patch IS NOT NULL THEN
            (patch).value[
                ((patch).index ->> gpt2._patch_key(hook, block, head, "position"))::int]
        END,
        computed)
    OFFSET 0;
END;
COMMENT ON FUNCTION gpt2._hook IS
    'a hook point: the activation as computed, or what the patch has in its place';


-- Steering: a direction added to the residual stream

CREATE FUNCTION gpt2._steering(steer gpt2.steering[], m gpt2.model)
RETURNS gpt2.steering[]
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE
        WHEN coalesce(cardinality(steer), 0) = 0 THEN NULL
        WHEN gpt2._assert(bad.n IS NULL, 'invalid_parameter_value',
                format('the steering does not fit model "%s"', (m).name),
                format('Row %s: block %s, position %s, %s elements, norm %s, scale %s.', bad.n,
                       coalesce(bad.block::text, 'NULL'), coalesce(bad."position"::text, 'NULL'),
                       coalesce(bad.width::text, 'no'), coalesce(bad.norm::text, 'NULL'),
                       coalesce(bad.scale::text, 'NULL')),
                format('Blocks are 0 to %s (%1$s: after the last), positions from 0 or NULL for '
                       'all, vectors have %s elements, scale times norm is at most 1e15.',
                       (m).n_layer, (m).n_embd))
        THEN ARRAY(
            -- scaled here, once
            SELECT ROW(s.block, s."position",
                       CASE WHEN coalesce(s.scale, 1) = 1 THEN s.value
                            -- the product could underflow
                            WHEN abs(s.scale) < 1e-100 THEN s.value - s.value
                            ELSE ARRAY(SELECT s.scale * x FROM unnest(s.value::real[]) AS x)::vector
                       END, 1)::gpt2.steering
            FROM unnest(steer) AS s)
    END
    FROM (SELECT) AS one
    LEFT JOIN (
        SELECT s.n, s.block, s."position", vector_dims(s.value) AS width,
               vector_norm(s.value) AS norm, s.scale
        FROM unnest(steer) WITH ORDINALITY AS s (block, "position", value, scale, n)
        WHERE (s.block BETWEEN 0 AND (m).n_layer AND coalesce(s."position", 0) >= 0
               AND vector_dims(s.value) = (m).n_embd
               AND coalesce(s.scale, 1) BETWEEN -1e30 AND 1e30
               AND gpt2._is_moderate(s.value, coalesce(s.scale, 1))) IS NOT TRUE
        ORDER BY s.n LIMIT 1
    ) AS bad ON true;
END;
COMMENT ON FUNCTION gpt2._steering IS
    'steering that fits the model, with its scales multiplied out; NULL for none';


CREATE FUNCTION gpt2._steer(x vector[], "first" int, block int, steer gpt2.steering[])
RETURNS vector[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT array_agg(coalesce(
               p.x + (SELECT sum(s.value) FROM unnest(steer) AS s
                      WHERE s.block = _steer.block
                        AND coalesce(s."position" = _steer."first" + p.n - 1, true)),
               p.x) ORDER BY p.n)
    FROM unnest(x) WITH ORDINALITY AS p (x, n);
END;
COMMENT ON FUNCTION gpt2._steer IS
    'the residual stream before a block, of positions first and on, with what steer adds to it';
