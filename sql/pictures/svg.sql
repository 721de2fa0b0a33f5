-- What the pictures are drawn with: text made safe and visible, one scale of 16 colours for light
-- and dark, and the frame of an SVG. Text is monospaced, so that SQL knows how wide it is.


CREATE FUNCTION gpt2._escape(text text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- What neither XML 1.0 nor HTML may hold, even escaped: controls and noncharacters.
RETURN replace(replace(replace(replace(replace(
    regexp_replace(text COLLATE "C",
        '[\u0001-\u0008\u000B\u000C\u000E-\u001F\u007F-\u009F\uFDD0-\uFDEF\uFFFE\uFFFF'
        '\U0001FFFE\U0001FFFF\U0002FFFE\U0002FFFF\U0003FFFE\U0003FFFF\U0004FFFE\U0004FFFF'
        '\U0005FFFE\U0005FFFF\U0006FFFE\U0006FFFF\U0007FFFE\U0007FFFF\U0008FFFE\U0008FFFF'
        '\U0009FFFE\U0009FFFF\U000AFFFE\U000AFFFF\U000BFFFE\U000BFFFF\U000CFFFE\U000CFFFF'
        '\U000DFFFE\U000DFFFF\U000EFFFE\U000EFFFF\U000FFFFE\U000FFFFF\U0010FFFE\U0010FFFF]',
        chr(65533), 'g'),
    '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;');
COMMENT ON FUNCTION gpt2._escape IS 'text for XML and HTML, as content or between quotes';


CREATE FUNCTION gpt2._visible(piece text, space text DEFAULT '·')
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- A space is a dot, a line's end an arrow, other controls their symbols (U+2400 and on). What is
-- invisible, or turns the direction of the text around it, is U+FFFD.
-- (Beyond ASCII no E'' strings: the script is read before a database's encoding is refused.)
RETURN translate(
    regexp_replace(regexp_replace(regexp_replace(piece COLLATE "C",
        '[\u0080-\u009F\u00AD\u061C\u180E\u200B-\u200F\u202A-\u202E\u2060-\u206F\uFE00-\uFE0F'
        '\uFEFF\uFFF0-\uFFFB\U000E0000-\U000E0FFF]', chr(65533), 'g'),
        '[\u00A0\u1680\u2000-\u200A\u202F\u205F\u3000]', '␣', 'g'),
        '[\u2028\u2029]', '¶', 'g'),
    E' \n\t\r'
    '\x01\x02\x03\x04\x05\x06\x07\x08\x0B\x0C\x0E\x0F\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19'
    '\x1A\x1B\x1C\x1D\x1E\x1F\x7F',
    space || '↵⇥␍␁␂␃␄␅␆␇␈␋␌␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝␞␟␡');
COMMENT ON FUNCTION gpt2._visible IS 'a piece of text with its whitespace made visible';


CREATE FUNCTION gpt2._columns(text text)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN length(text) + length(regexp_replace(text COLLATE "C",
    '[^\u1100-\u115F\u2E80-\u303E\u3041-\uA4CF\uAC00-\uD7A3\uF900-\uFAFF\uFE30-\uFE6F'
    '\uFF00-\uFF60\uFFE0-\uFFE6\U0001F300-\U0001FAFF\U00020000-\U0003FFFD]+', '', 'g'));
COMMENT ON FUNCTION gpt2._columns IS
    'how many columns of monospaced text, where East Asian characters and emoji take two';


CREATE FUNCTION gpt2._label(piece text, columns int, space text DEFAULT '·')
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN gpt2._columns(p.visible) <= columns THEN p.visible
                WHEN gpt2._columns(p.visible) = length(p.visible)
                    THEN left(p.visible, columns - 1) || '…'
                ELSE left(p.visible, (columns - 1) / 2) || '…' END
    FROM (SELECT gpt2._visible(piece, space) AS visible) AS p;
END;
COMMENT ON FUNCTION gpt2._label IS 'a piece of text made visible, and cut to a number of columns';


CREATE FUNCTION gpt2._percent(share float8)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN round(100 * share::numeric, 1)::text || '%';
COMMENT ON FUNCTION gpt2._percent IS 'a share of 1 in per cent';


-- Colours: level 0 is next to nothing, level 15 all; in light the page is white and more is darker,
-- in dark the same colours the other way round.

CREATE FUNCTION gpt2._level(share float8)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN share IS NOT NULL
            THEN to_hex(round(15 * least(greatest(share, 0), 1))::int) END;
COMMENT ON FUNCTION gpt2._level IS
    'colour of a share of 1: 0 to f; class c0 to cf is the fill, t0 to tf that of text on it';


CREATE FUNCTION gpt2._style()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    WITH colour AS (
        -- Even steps of lightness, from yellow over green to blue, in OKLCH. Black on the first
        -- nine and white on the others have a contrast of 5 or more.
        SELECT c.colour, c.n::int - 1 AS n, CASE WHEN c.n <= 9 THEN '#000' ELSE '#fff' END AS text
        FROM unnest('{#f6fae2,#d7f0cb,#b3e5bd,#8ddab7,#64cdb6,#35beb7,#00aeb7,#009cb6,
                      #008ab1,#0077a8,#0f649b,#24528a,#2b4176,#23355f,#1c2a48,#171f30}'::text[])
            WITH ORDINALITY AS c (colour, n)
    ), theme AS (
        SELECT t.dark, t.page || string_agg(
                   '.gpt2 .c' || l.level || '{fill:' || c.colour || ';background:' || c.colour
                   || '}.gpt2 .t' || l.level || '{fill:' || c.text || ';color:' || c.text || '}',
                   '' ORDER BY c.n) AS rules
        FROM (VALUES
            (false, '.gpt2{color:#1f2328}.gpt2 .page{fill:#fff}.gpt2 .quiet{fill:#59636e}'
                    '.gpt2 .line{stroke:#59636e}.gpt2 .framed{stroke:#d1491f}'),
            (true, '.gpt2{color:#e6edf3}.gpt2 .page{fill:#0d1117}.gpt2 .quiet{fill:#9198a1}'
                   '.gpt2 .line{stroke:#9198a1}.gpt2 .framed{stroke:#ff8a5c}')
        ) AS t (dark, page)
        CROSS JOIN colour AS c
        CROSS JOIN LATERAL (
            SELECT to_hex(CASE WHEN t.dark THEN 15 - c.n ELSE c.n END) AS level) AS l
        GROUP BY t.dark, t.page
    )
    SELECT '.gpt2{font:12px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}'
           '.gpt2 text{fill:currentColor}.gpt2 .line{fill:none}.gpt2 .framed{stroke-width:2}'
           '.gpt2 .heading{font:600 15px system-ui,"DejaVu Sans",sans-serif}'
           '.gpt2 .strong{font-weight:600}.gpt2 .number{font-size:11px;pointer-events:none}'
           || (SELECT t.rules FROM theme AS t WHERE NOT t.dark)
           || '@media (prefers-color-scheme:dark){'
           || (SELECT t.rules FROM theme AS t WHERE t.dark) || '}';
END;
COMMENT ON FUNCTION gpt2._style IS 'style sheet of the pictures, for light and dark';


-- Elements

CREATE FUNCTION gpt2._svg_width(columns int)
RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 0.602 em a column at 12 pixels, the widest of the common fonts
RETURN (columns * 73 + 9) / 10;
COMMENT ON FUNCTION gpt2._svg_width IS 'width of so many columns of text in a picture';


CREATE FUNCTION gpt2._svg_text(x int, y int, label text, attributes text DEFAULT '')
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Characters that the font lacks come from another, of any width: they are made to fit.
RETURN '<text x="' || x::text || '" y="' || y::text || '"' || attributes
    || CASE WHEN label COLLATE "C" ~ '[^\u0020-\u007E]'
            THEN ' textLength="' || (gpt2._columns(label) * 7.2)::text
                 || '" lengthAdjust="spacingAndGlyphs"'
            ELSE '' END
    || '>' || gpt2._escape(label) || '</text>';
COMMENT ON FUNCTION gpt2._svg_text IS 'a text element of 12 pixels';


CREATE FUNCTION gpt2._svg_scale(x int, y int, caption text, "at" float8[], labels text[])
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT gpt2._svg_text(x, y + 10, caption)
           || (SELECT string_agg('<rect class="c' || to_hex(i) || '" x="' || (x + 15 * i)::text
                                 || '" y="' || (y + 18)::text || '" width="15" height="12"/>',
                                 '' ORDER BY i)
               FROM generate_series(0, 15) AS i)
           || (SELECT string_agg(
                   gpt2._svg_text(x + (15 * (15 * a."at" + 0.5))::int, y + 44, a.label,
                                  ' text-anchor="middle" class="quiet"'), '' ORDER BY a.n)
               FROM unnest("at", labels) WITH ORDINALITY AS a ("at", label, n));
END;
COMMENT ON FUNCTION gpt2._svg_scale IS
    'legend of the colours, 240 wide and 48 high, with labels at shares of its width';


CREATE FUNCTION gpt2._svg(
    name text, title text, prompt text, description text, width int, height int, body text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- The two lines above the picture end at 56.
RETURN '<svg xmlns="http://www.w3.org/2000/svg" class="gpt2" role="img" aria-labelledby="'
    || name || '-title ' || name || '-desc" viewBox="0 0 ' || width::text || ' ' || height::text
    || '" width="' || width::text || '" height="' || height::text || E'">\n'
    || '<title id="' || name || '-title">' || gpt2._escape(title) || E'</title>\n'
    || '<desc id="' || name || '-desc">' || gpt2._escape(description || ' Prompt: ' || prompt)
    || E'</desc>\n<style>' || gpt2._style() || E'</style>\n'
    || E'<rect class="page" width="100%" height="100%"/>\n'
    || '<text class="heading" x="16" y="26">' || gpt2._escape(title) || E'</text>\n'
    || gpt2._svg_text(16, 45, gpt2._label(prompt, (width - 32) * 10 / 73, ' '), ' class="quiet"')
    || E'\n' || body || E'\n</svg>';
COMMENT ON FUNCTION gpt2._svg IS
    'an SVG document: title, description, style, page, the two lines at its head, and the body';
