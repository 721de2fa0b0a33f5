-- One page about what the model makes of a prompt: its tokens, what comes next, attention, the
-- logit lens. HTML that holds all it needs, without a script.


CREATE FUNCTION gpt2._report_style()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ':root{color-scheme:light dark}'
    'body{margin:0 auto;max-width:54rem;padding:1.5rem 1rem 4rem;'
    'font:1rem/1.55 system-ui,"DejaVu Sans",sans-serif;color:#1f2328;background:#fff}'
    'h1{font-size:1.6rem;line-height:1.25;margin:0 0 .75rem}'
    'h2{font-size:1.25rem;margin:2.75rem 0 .5rem}p{margin:.5rem 0}'
    'blockquote{margin:0 0 .75rem;padding:.5rem 1rem;border-left:.25rem solid #0077a8;'
    'white-space:pre-wrap;overflow-wrap:anywhere}'
    'figure{margin:.75rem 0 2rem}figcaption,.note{color:#59636e;font-size:.9rem}'
    '.scroll{overflow-x:auto}.scroll svg{display:block;margin-left:-16px}'
    '.tokens{display:flex;flex-wrap:wrap;gap:3px;margin:.75rem 0;padding:0;list-style:none;'
    'line-height:1.3}'
    '.tokens li{padding:.25rem .4rem;border-radius:4px;text-align:center;font-size:.9rem;'
    'border:1px solid transparent;max-width:100%;overflow-wrap:anywhere}'
    '.tokens small{display:block;font-size:.7rem}.tokens .first{border:1px dashed #59636e}'
    'table{width:100%;border-collapse:collapse}th{text-align:left;font-weight:600}'
    'th,td{padding:.2rem .75rem .2rem 0;border-bottom:1px solid #d1d9e0}'
    '.n{text-align:right;font-variant-numeric:tabular-nums}'
    'td.bar{width:60%;min-width:5rem;padding-right:0}'
    '.bar div{height:.9rem;min-width:1px;border-radius:2px;background:#0077a8}'
    '@media (max-width:30rem){table{font-size:.85rem}th,td{padding-right:.4rem}'
    'td.bar{min-width:4rem}}'
    'code{font:.95em ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}'
    ':focus-visible{outline:2px solid #0077a8;outline-offset:2px}'
    '@media (prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}'
    'blockquote{border-color:#35beb7}figcaption,.note{color:#9198a1}'
    '.tokens .first{border-color:#9198a1}th,td{border-color:#3d444d}.bar div{background:#35beb7}'
    ':focus-visible{outline-color:#35beb7}}';
COMMENT ON FUNCTION gpt2._report_style IS 'style sheet of the report, beside that of its pictures';


CREATE FUNCTION gpt2._report_figure(label text, svg text, caption text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- What is wider than the page scrolls by itself, with the keyboard too.
RETURN '<figure><div class="scroll" role="region" tabindex="0" aria-label="' || label || E'">\n'
    || svg || E'\n</div><figcaption>' || caption || E'</figcaption></figure>\n';
COMMENT ON FUNCTION gpt2._report_figure IS 'a picture in the report, with its caption';


CREATE FUNCTION gpt2_report(
    text text DEFAULT NULL, model text DEFAULT NULL,
--@include ../arguments/prompt.sql
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
--@include ../model/settings.sql
BEGIN ATOMIC
    WITH input AS (
        SELECT i.m, i.tokens, gpt2._shown(p.prompt, i.m) AS shown,
               ARRAY(SELECT p.piece FROM gpt2._pieces(i.tokens, i.m) AS p ORDER BY p."position")
                   AS pieces
        FROM (SELECT gpt2._prompt(gpt2_report.text, input_ids, special_tokens) AS prompt) AS p
        CROSS JOIN LATERAL gpt2._input(p.prompt, gpt2_report.model) AS i
    ), activation AS (
        -- one pass for all of the page
        SELECT a.*
        FROM input AS i
        CROSS JOIN LATERAL gpt2._forward(i.tokens, i.m, gpt2._wanted(
            '{attn.hook_pattern, hook_resid_post, ln_final.hook_out}', NULL, i.m)) AS a
    ), read AS (
        SELECT ARRAY(SELECT a::gpt2.activation FROM activation AS a
                     WHERE a.hook = 'attn.hook_pattern') AS pattern,
               ARRAY(SELECT a::gpt2.activation FROM activation AS a
                     WHERE a.hook = 'hook_resid_post') AS resid_post,
               -- [n_seq, n_embd]
               ARRAY(SELECT a.value FROM activation AS a
                     WHERE a.hook = 'ln_final.hook_out' ORDER BY a."position") AS y
    ), shown AS (
        -- in large: the head that looks least at itself and at the first token
        SELECT p.block, p.head
        FROM read AS a
        CROSS JOIN unnest(a.pattern) AS p
        CROSS JOIN LATERAL (SELECT p.value::real[] AS weight) AS w
        GROUP BY p.block, p.head
        ORDER BY avg(w.weight[1] + w.weight[p."position" + 1]) FILTER (WHERE p."position" > 0),
                 p.block, p.head
        LIMIT 1
    ), token AS (
        SELECT string_agg(
                   '<li' || coalesce(' class="c' || gpt2._level(s.bits / 16) || ' t'
                                     || gpt2._level(s.bits / 16) || '"', ' class="first"')
                   || '><code>' || gpt2._escape(gpt2._visible(s.piece)) || '</code><small>'
                   || coalesce(round(s.bits::numeric, 1)::text, 'first') || '</small></li>',
                   E'\n' ORDER BY s."position") AS items,
               avg(s.bits) AS bits
        FROM input AS i
        CROSS JOIN read AS a
        CROSS JOIN LATERAL gpt2._score_tokens(a.y, i.tokens, i.m)
            AS s ("position", token, piece, logprob, rank, entropy, bits)
    ), next AS (
        SELECT string_agg(
                   '<tr><td><code>'
                   || gpt2._escape(gpt2._visible(t.piece)) || '</code></td><td class="n">'
                   || n.token::text || '</td><td class="n">' || gpt2._percent(n.probability)
                   || '</td><td class="bar"><div style="width:' || gpt2._percent(n.probability)
                   || '"></div></td></tr>', E'\n' ORDER BY n.rank) AS rows
        FROM input AS i
        CROSS JOIN read AS a
        CROSS JOIN LATERAL (
            -- as gpt2_next_token has them, among the ten
            SELECT l.rank, l.token, l.probability / sum(l.probability) OVER () AS probability
            FROM gpt2._top_tokens(a.y[cardinality(i.tokens)], i.m, 10) AS l
        ) AS n
        CROSS JOIN LATERAL gpt2._pieces(ARRAY[n.token], i.m) AS t
    )
    SELECT E'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>'
        || gpt2._escape((i.m).name || ' reads: ' || gpt2._label(i.shown, 60, ' '))
        || E'</title>\n<style>' || gpt2._style() || gpt2._report_style()
        || E'</style>\n</head>\n<body>\n<main>\n<h1>What ' || gpt2._escape((i.m).name)
        || E' makes of a text</h1>\n<blockquote>'
        || CASE i.shown WHEN '' THEN '(the empty text: a document begins)'
                ELSE gpt2._escape(i.shown) END
        || E'</blockquote>\n<p class="note">' || cardinality(i.tokens)::text || ' of at most '
        || (i.m).n_ctx::text || ' tokens; a model of ' || (i.m).n_layer::text || ' blocks of '
        || (i.m).n_head::text || ' heads, ' || (i.m).n_embd::text || E' wide.</p>\n'

        || E'<h2>Its tokens, and how surprising each is</h2>\n<p>'
        || coalesce('The number under a token is its surprisal in bits, '
                    || round(t.bits::numeric, 2)::text || ' on average: 0 is certain, each bit '
                    'more is half as likely.', 'The first token is not predicted.')
        || E'</p>\n<ol class="tokens gpt2">\n' || t.items || E'\n</ol>\n'
        || '<svg class="gpt2" role="img" aria-label="Colours from 0 to 16 bits and more" '
        || 'width="256" height="50">' || gpt2._svg_scale(0, 0, 'bits', '{0,0.25,0.5,0.75,1}',
                                                        '{0,4,8,12,16+}')
        || E'</svg>\n'

        || E'<h2>What comes next</h2>\n<div class="scroll" role="region" tabindex="0" '
        || E'aria-label="Next tokens">\n<table>\n<thead><tr>'
        || '<th scope="col">token</th><th scope="col" class="n">id</th>'
        || '<th scope="col" class="n">probability</th><td class="bar"></td></tr></thead>'
        || E'\n<tbody>\n' || n.rows || E'\n</tbody>\n</table>\n</div>\n'

        || E'<h2>Attention</h2>\n'
        || gpt2._report_figure('All heads', gpt2._draw_heads(a.pattern, i.shown),
               'What each position (row) looks at: itself and those before (columns).')
        || gpt2._report_figure('One head',
               gpt2._draw_attention(a.pattern, s.block, s.head, i.pieces, i.shown),
               'One head in large: the one that looks least at itself and at the first token. For '
               'another: <code>gpt2_attention_svg(prompt, block, head)</code>.')

        || E'<h2>The logit lens</h2>\n'
        || gpt2._report_figure('Logit lens',
               gpt2._draw_lens(a.resid_post, i.tokens, i.m, i.shown),
               'What the model would say next if it stopped after a block. The last block is what '
               'it does say.')
        || E'</main>\n</body>\n</html>'
    FROM input AS i
    CROSS JOIN read AS a
    CROSS JOIN shown AS s
    CROSS JOIN token AS t
    CROSS JOIN next AS n;
END;
COMMENT ON FUNCTION gpt2_report IS
    'one HTML page about a prompt: tokens and surprisal, what comes next, attention, logit lens';
