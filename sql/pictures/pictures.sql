-- Pictures of the model at work: attention, the logit lens, surprisal. Each is one SVG document,
-- drawn from a relation of this layer: a relation, its layout, a string of elements.


-- Attention

CREATE FUNCTION gpt2._attention_cell_size(pattern gpt2.activation[], side int)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (max(a."position") + side) / side FROM unnest(pattern) AS a;
END;
COMMENT ON FUNCTION gpt2._attention_cell_size IS
    'how many positions share a row of a picture of at most side rows';


CREATE FUNCTION gpt2._attention_cells(pattern gpt2.activation[], side int)
RETURNS TABLE (block int, head int, query int, key int, weight float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1000
BEGIN ATOMIC
    -- at most side x side cells; of a longer prompt, a cell is size x size positions
    SELECT a.block, a.head, a."position" / s.size, (w.n::int - 1) / s.size, max(w.weight)::float8
    FROM (SELECT gpt2._attention_cell_size(pattern, side) AS size OFFSET 0) AS s
    CROSS JOIN unnest(pattern) AS a
    CROSS JOIN LATERAL unnest(a.value::real[]) WITH ORDINALITY AS w (weight, n)
    GROUP BY a.block, a.head, a."position" / s.size, (w.n::int - 1) / s.size;
END;
COMMENT ON FUNCTION gpt2._attention_cells IS
    'attention patterns as cells of a picture: the largest weight in each';


CREATE FUNCTION gpt2._draw_scale_of_weights(x int, y int, size int)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Colours go by the root of the weight: in long prompts most weights are a few per cent.
RETURN gpt2._svg_scale(
    x, y, CASE size WHEN 1 THEN 'weight' ELSE 'weight, the largest of ' || size::text || ' × '
                                              || size::text || ' positions' END,
    '{0,0.1,0.3162,0.5,0.7071,1}', '{0,1%,10%,25%,50%,100%}');
COMMENT ON FUNCTION gpt2._draw_scale_of_weights IS 'legend of attention weights';


CREATE FUNCTION gpt2._draw_attention(
    pattern gpt2.activation[], block int, head int, pieces text[], prompt text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH cell AS (
        SELECT c.query, c.key, c.weight, gpt2._level(sqrt(c.weight)) AS level
        FROM gpt2._attention_cells(pattern, 256) AS c
        WHERE c.block = _draw_attention.block AND c.head = _draw_attention.head
    ), grid AS (
        -- n cells a side, each of size positions and px pixels
        SELECT g.n, p.size, greatest(3, least(30, 660 / g.n)) AS px
        FROM (SELECT max(c.query) + 1 AS n FROM cell AS c) AS g
        CROSS JOIN (SELECT gpt2._attention_cell_size(pattern, 256) AS size) AS p
    ), label AS (
        SELECT i AS n, l.label,
               CASE g.size WHEN 1 THEN i::text || ' ' || l.label
                    ELSE (i * g.size)::text || '-'
                         || least((i + 1) * g.size, cardinality(pieces) - 1)::text END AS name
        FROM grid AS g
        CROSS JOIN generate_series(0, g.n - 1) AS i
        CROSS JOIN LATERAL (SELECT gpt2._label(pieces[i * g.size + 1], 16) AS label OFFSET 0) AS l
    ), layout AS (
        -- a label needs 14 pixels: of small cells, one in step has one
        SELECT g.*, (13 + g.px) / g.px AS step, g.n * g.px AS side,
               26 + l.width AS "left", 86 + l.width AS top
        FROM grid AS g
        CROSS JOIN (SELECT gpt2._svg_width(max(gpt2._columns(l.label))) AS width
                    FROM label AS l) AS l
    ), part AS (
        SELECT 0 AS part, c.query, c.key,
               '<rect class="c' || c.level || '" x="' || (l."left" + c.key * l.px)::text
               || '" y="' || (l.top + c.query * l.px)::text || '" width="' || w.width
               || '" height="' || w.width || '"><title>' || gpt2._escape(q.name) || ' → '
               || gpt2._escape(k.name) || ': ' || gpt2._percent(c.weight) || '</title></rect>'
               || CASE WHEN l.px >= 28 AND c.weight >= 0.005
                       THEN gpt2._svg_text(
                           l."left" + c.key * l.px + 14, l.top + c.query * l.px + 19,
                           round(100 * c.weight)::int::text,
                           ' text-anchor="middle" class="number t' || c.level || '"')
                       ELSE '' END AS element
        FROM cell AS c
        CROSS JOIN layout AS l
        -- a gap between cells that are not too small for one
        CROSS JOIN LATERAL (
            SELECT CASE WHEN l.px < 8 THEN l.px ELSE l.px - 1 END::text AS width) AS w
        JOIN label AS q ON q.n = c.query
        JOIN label AS k ON k.n = c.key
    UNION ALL
        SELECT 1, b.n, NULL,
               gpt2._svg_text(l."left" - 6, l.top + b.n * l.px + l.px / 2 + 4, b.label,
                              ' text-anchor="end"')
               || gpt2._svg_text(x.x, l.top - 6, b.label,
                                 ' transform="rotate(-90 ' || x.x::text || ' '
                                 || (l.top - 6)::text || ')"')
        FROM layout AS l
        JOIN label AS b ON b.n % l.step = 0
        CROSS JOIN LATERAL (SELECT l."left" + b.n * l.px + l.px / 2 + 4 AS x) AS x
    )
    SELECT gpt2._svg(
        'attention-' || block::text || '-' || head::text,
        'Attention of block ' || block::text || ', head ' || head::text, prompt,
        'A matrix of ' || cardinality(pieces)::text || ' positions: each row is a query, a '
        'position that looks; each column a key, a position that it looks at, itself or one '
        'before. The darker a cell (in dark mode, the lighter), the more weight.',
        greatest(l."left" + greatest(l.side, 240) + 24, 440), l.top + l.side + 72,
        gpt2._svg_text(16, 70, 'rows: who looks (queries); columns: at whom (keys)',
                       ' class="quiet"')
        || E'\n' || (SELECT string_agg(p.element, E'\n' ORDER BY p.part, p.query, p.key)
                     FROM part AS p)
        || E'\n' || gpt2._draw_scale_of_weights(l."left", l.top + l.side + 12, l.size))
    FROM layout AS l;
END;
COMMENT ON FUNCTION gpt2._draw_attention IS 'picture of one head''s attention pattern';


CREATE FUNCTION gpt2_attention_svg(
    text text, block int, head int, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT gpt2._draw_attention(
        ARRAY(SELECT a
              FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
                  '{attn.hook_pattern}', ARRAY[gpt2_attention_svg.block], i.m)) AS a
              WHERE a.head = gpt2_attention_svg.head),
        gpt2_attention_svg.block, gpt2_attention_svg.head,
        ARRAY(SELECT p.piece FROM gpt2._pieces(i.tokens, i.m) AS p ORDER BY p."position"),
        gpt2._shown(p.prompt, i.m))
    FROM (SELECT gpt2._prompt(gpt2_attention_svg.text, input_ids, special_tokens) AS prompt) AS p
    CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_attention_svg.model) AS i
    WHERE gpt2._check_head(gpt2_attention_svg.head, i.m);
END;
COMMENT ON FUNCTION gpt2_attention_svg IS
    'picture of one head''s attention: what each position looks at, as SVG';


CREATE FUNCTION gpt2._draw_heads(pattern gpt2.activation[], prompt text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH cell AS (
        SELECT c.block, c.head, c.query, c.key, gpt2._level(sqrt(c.weight)) AS level
        FROM gpt2._attention_cells(pattern, 64) AS c
    ), layout AS (
        SELECT g.*, greatest(56, least(150, 900 / g.n_head)) AS side, p.size
        FROM (SELECT max(c.block) + 1 AS n_block, max(c.head) + 1 AS n_head, max(c.query) + 1 AS n
              FROM cell AS c) AS g
        CROSS JOIN (SELECT gpt2._attention_cell_size(pattern, 64) AS size) AS p
    ), level AS (
        -- the cells of a colour are one path; those of the least are what the others leave
        SELECT c.block, c.head, c.level,
               '<path class="c' || c.level || '" d="'
               || string_agg('M' || c.key::text || ' ' || c.query::text || 'h1v1h-1z', ''
                             ORDER BY c.query, c.key) || '"/>' AS path
        FROM cell AS c
        WHERE c.level <> '0'
        GROUP BY c.block, c.head, c.level
    ), head AS (
        SELECT b AS block, h AS head,
               '<g transform="translate(' || (84 + h * (l.side + 12))::text || ' '
               || (84 + b * (l.side + 12))::text || ') scale('
               || round(l.side / l.n::numeric, 4)::text
               || ')" shape-rendering="crispEdges"><title>block ' || b::text || ', head '
               || h::text || '</title><path class="c0" d="M0 0' || repeat('h1v1', l.n) || 'H0z"/>'
               || coalesce((SELECT string_agg(v.path, '' ORDER BY v.level) FROM level AS v
                            WHERE v.block = b AND v.head = h), '') || '</g>' AS element
        FROM layout AS l
        CROSS JOIN generate_series(0, l.n_block - 1) AS b
        CROSS JOIN generate_series(0, l.n_head - 1) AS h
    )
    SELECT gpt2._svg(
        'heads', 'Attention of all heads', prompt,
        'A matrix for each head, in rows of ' || l.n_head::text || ' heads for each of '
        || l.n_block::text || ' blocks. In a matrix the first token is at the top and at the left, '
        'rows are queries, columns keys.',
        greatest(84 + l.n_head * (l.side + 12) + 12, 440),
        84 + l.n_block * (l.side + 12) + 64,
        (SELECT string_agg(gpt2._svg_text(84 + h * (l.side + 12) + l.side / 2, 76,
                                          'head ' || h::text, ' text-anchor="middle"'),
                           E'\n' ORDER BY h)
         FROM generate_series(0, l.n_head - 1) AS h)
        || E'\n'
        || (SELECT string_agg(gpt2._svg_text(76, 84 + b * (l.side + 12) + l.side / 2 + 4,
                                             'block ' || b::text, ' text-anchor="end"'),
                              E'\n' ORDER BY b)
            FROM generate_series(0, l.n_block - 1) AS b)
        || E'\n' || (SELECT string_agg(h.element, E'\n' ORDER BY h.block, h.head) FROM head AS h)
        || E'\n' || gpt2._draw_scale_of_weights(84, 84 + l.n_block * (l.side + 12) + 4,
                                                l.size))
    FROM layout AS l;
END;
COMMENT ON FUNCTION gpt2._draw_heads IS 'picture of the attention patterns of all heads';


CREATE FUNCTION gpt2_heads_svg(
    text text DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT gpt2._draw_heads(
        ARRAY(SELECT a FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
            '{attn.hook_pattern}', NULL, i.m)) AS a), gpt2._shown(p.prompt, i.m))
    FROM (SELECT gpt2._prompt(gpt2_heads_svg.text, input_ids, special_tokens) AS prompt) AS p
    CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_heads_svg.model) AS i;
END;
COMMENT ON FUNCTION gpt2_heads_svg IS
    'picture of the attention of all heads, blocks down and heads across, as SVG';


-- The logit lens

CREATE FUNCTION gpt2._draw_lens(
    resid_post gpt2.activation[], tokens int[], m gpt2.model, text text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH token AS (
        SELECT p."position", gpt2._label(p.piece, 12) AS label
        FROM gpt2._pieces(tokens, m) AS p
    ), lens AS (
        SELECT l.block, l."position", gpt2._label(p.piece, 12) AS label, l.probability,
               gpt2._level(l.probability) AS level,
               coalesce(l.token = tokens[l."position" + 2], false) AS is_next
        FROM gpt2._lens(resid_post, m, 1) AS l
        CROSS JOIN LATERAL gpt2._pieces(ARRAY[l.token], m) AS p
    ), layout AS (
        -- a table of rows (the tokens, then the blocks) for every so many positions
        SELECT c.*, greatest(1, 760 / c.width) AS across, (m).n_layer,
               cardinality(tokens) AS n, ((m).n_layer + 1) * 22 + 16 AS height
        FROM (
            SELECT greatest(44, gpt2._svg_width(max(gpt2._columns(c.label))) + 12) AS width
            FROM (SELECT t.label FROM token AS t UNION ALL SELECT l.label FROM lens AS l) AS c
        ) AS c
    ), part AS (
        SELECT t."position" / l.across AS band, -1 AS block, t."position",
               gpt2._svg_text(84 + t."position" % l.across * l.width + (l.width - 2) / 2,
                              64 + t."position" / l.across * l.height + 15, t.label,
                              ' text-anchor="middle" class="strong"') AS element
        FROM token AS t CROSS JOIN layout AS l
    UNION ALL
        SELECT p."position" / l.across, p.block, p."position",
               '<g><title>' || p."position"::text || ' ' || gpt2._escape(t.label) || ', block '
               || p.block::text || ': ' || gpt2._escape(p.label) || ' '
               || gpt2._percent(p.probability) || '</title><rect class="c' || p.level
               || CASE WHEN p.is_next THEN ' framed' ELSE '' END || '" x="' || x.x::text || '" y="'
               || x.y::text || '" width="' || (l.width - 2)::text || '" height="20"/>'
               || gpt2._svg_text(x.x + (l.width - 2) / 2, x.y + 14, p.label,
                                 ' text-anchor="middle" class="t' || p.level || '"')
               || '</g>'
        FROM lens AS p
        CROSS JOIN layout AS l
        JOIN token AS t ON t."position" = p."position"
        CROSS JOIN LATERAL (
            SELECT 84 + p."position" % l.across * l.width AS x,
                   64 + p."position" / l.across * l.height + (p.block + 1) * 22 AS y
        ) AS x
    UNION ALL
        SELECT band, block, -1,
               gpt2._svg_text(76, 64 + band * l.height + (block + 1) * 22 + 15,
                              CASE block WHEN -1 THEN 'reads' ELSE 'block ' || block::text END,
                              ' text-anchor="end" class="quiet"')
        FROM layout AS l
        CROSS JOIN generate_series(0, (l.n - 1) / l.across) AS band
        CROSS JOIN generate_series(-1, l.n_layer - 1) AS block
    )
    SELECT gpt2._svg(
        'lens', 'Logit lens', _draw_lens.text,
        'A table of ' || l.n::text || ' positions across and ' || l.n_layer::text
        || ' blocks down: the likeliest next token if the model stopped after the block. The last '
           'block''s is what the model says. Framed where it is the token that does come next.',
        greatest(84 + least(l.n, l.across) * l.width + 16, 440),
        64 + ((l.n - 1) / l.across + 1) * l.height + 60,
        (SELECT string_agg(p.element, E'\n' ORDER BY p.band, p.block, p."position")
            FROM part AS p)
        || E'\n' || gpt2._svg_scale(84, 64 + ((l.n - 1) / l.across + 1) * l.height,
                                    'probability (framed: it does come next)',
                                    '{0,0.25,0.5,0.75,1}', '{0,25%,50%,75%,100%}'))
    FROM layout AS l;
END;
COMMENT ON FUNCTION gpt2._draw_lens IS 'picture of what each block would say at each position';


CREATE FUNCTION gpt2_lens_svg(
    text text DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
--@include ../model/settings.sql
BEGIN ATOMIC
    SELECT gpt2._draw_lens(
        ARRAY(SELECT a FROM gpt2._forward(i.tokens, i.m, gpt2._wanted(
            '{hook_resid_post}', NULL, i.m)) AS a), i.tokens, i.m, gpt2._shown(p.prompt, i.m))
    FROM (SELECT gpt2._prompt(gpt2_lens_svg.text, input_ids, special_tokens) AS prompt) AS p
    CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_lens_svg.model) AS i;
END;
COMMENT ON FUNCTION gpt2_lens_svg IS
    'picture of the logit lens: what each block would say next at each position, as SVG';


-- Surprisal

CREATE FUNCTION gpt2_surprisal_svg(
    text text DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH RECURSIVE token AS (
        SELECT s."position", s.bits, gpt2._level(s.bits / 16) AS level, l.label,
               gpt2._svg_width(gpt2._columns(l.label)) + 8 AS width, s.piece ~ '\n' AS ends_line
        FROM gpt2_score(gpt2_surprisal_svg.text, gpt2_surprisal_svg.model, NULL, input_ids,
                        special_tokens)
            AS s ("position", token, piece, logprob, rank, entropy, bits)
        CROSS JOIN LATERAL (SELECT gpt2._label(s.piece, 40) AS label OFFSET 0) AS l
    ), place AS (
        -- as many tokens as fit in a line, from 16 to 784
        SELECT t."position", 16 AS x, 0 AS line, t.width, t.ends_line
        FROM token AS t WHERE t."position" = 0
    UNION ALL
        SELECT t."position", CASE WHEN n.breaks THEN 16 ELSE p.x + p.width + 2 END,
               p.line + n.breaks::int, t.width, t.ends_line
        FROM place AS p
        JOIN token AS t ON t."position" = p."position" + 1
        CROSS JOIN LATERAL (
            SELECT p.ends_line OR p.x + p.width + 2 + t.width > 784 AS breaks) AS n
    ), layout AS (
        SELECT max(p.line) + 1 AS n_line, greatest(440, max(p.x + p.width) + 16) AS width,
               count(*) AS n, avg(t.bits) AS bits
        FROM place AS p JOIN token AS t ON t."position" = p."position"
        HAVING count(*) > 0
    )
    SELECT gpt2._svg(
        'surprisal', 'Surprisal',
        gpt2._shown(gpt2._prompt(gpt2_surprisal_svg.text, input_ids, special_tokens), m),
        'The ' || l.n::text || ' tokens of a text; the darker (in dark mode, the lighter) one is, '
        'the less the model expected it'
        || coalesce(': ' || round(l.bits::numeric, 2)::text || ' bits a token on average', '')
        || '. The first is not predicted.',
        l.width, 64 + l.n_line * 30 + 70,
        (SELECT string_agg(
             '<g><title>' || t."position"::text || ' ' || gpt2._escape(t.label) || ': '
             || coalesce(round(t.bits::numeric, 1)::text || ' bits', 'not predicted')
             || '</title><rect class="' || coalesce('c' || t.level, 'line') || '" x="' || p.x::text
             || '" y="' || (64 + p.line * 30)::text || '" width="' || p.width::text
             || '" height="26" rx="3"' || CASE WHEN t.bits IS NULL THEN ' stroke-dasharray="3"'
                                               ELSE '' END || '/>'
             || gpt2._svg_text(p.x + p.width / 2, 64 + p.line * 30 + 17, t.label,
                               ' text-anchor="middle"'
                               || coalesce(' class="t' || t.level || '"', ''))
             || '</g>', E'\n' ORDER BY t."position")
         FROM place AS p JOIN token AS t ON t."position" = p."position")
        || E'\n' || gpt2._svg_scale(16, 64 + l.n_line * 30 + 10, 'bits', '{0,0.25,0.5,0.75,1}',
                                    '{0,4,8,12,16+}'))
    FROM layout AS l
    CROSS JOIN gpt2._chosen_model(gpt2_surprisal_svg.model) AS m;
END;
COMMENT ON FUNCTION gpt2_surprisal_svg IS
    'picture of a text, each token coloured by how little it was expected, in bits, as SVG';
