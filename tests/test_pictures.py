"""The pictures: what they draw is what the relations say, whatever the text; and how they look, in
a browser, in light and dark."""

from __future__ import annotations

import itertools
import re
import subprocess
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import browser
import html5lib
import psycopg
import pytest
from conftest import ROOT, cases, examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

SVG = "{http://www.w3.org/2000/svg}"
#: no space to break at, markup, and characters of double width
WIDE = "x" * 80 + "<b>" + "漢" * 9
SENTENCE = "To create an index on a table, use the CREATE INDEX command."
LONG = (
    "PostgreSQL is an object-relational database management system. It supports a large part of "
    "the SQL standard: complex queries, foreign keys, triggers, updatable views, transactional "
    f"integrity. {SENTENCE} The default value of work_mem is four megabytes (4MB). Autovacuum "
    "runs VACUUM and ANALYZE when enough rows of a table have changed."
)
HOSTILE = [
    "",
    "x",
    "]]>",
    "<script>alert(1)</script>",
    "</style></svg>\"'&amp;",
    "\x01\x0b\x1f\x7f\x85\r",
    "a\n\n\tb  ",
    "🐘 👩‍👩‍👧 🇩🇪",
    "שלום \u202e‮evil",
    "e\u0301\u0302\u0303\u0489 ﷽",
    "日本語 ｆｕｌｌ",
    "\ufffe\uffff\U0001ffff\ufdd0\ufffd\ufeff",
    "<!--<![CDATA[",
    "&#0;&#x1;&bogus;",
    "--" * 9,
]
PICTURES = {
    "attention": "SELECT gpt2_attention_svg(%s, 2, 1)",
    "heads": "SELECT gpt2_heads_svg(%s)",
    "lens": "SELECT gpt2_lens_svg(%s)",
    "surprisal": "SELECT gpt2_surprisal_svg(%s)",
}
#: what the pictures of surprisal draw
SURPRISAL = 'SELECT "position", token, piece, surprisal_bits FROM gpt2_score(%s)'
PROMPTS = {
    "short": "PostgreSQL is",
    "sentence": SENTENCE,
    "long": LONG,
    "one": "x",
    "mixed": "SELECT 'naïve café' AS \"a<b\";\n-- 🐘 elephants & כלב, 日本語\nCOMMIT;",
}


def value(conn: psycopg.Connection, query: str, *arguments: object):
    return conn.execute(query, arguments).fetchone()[0]


def parse(text: str) -> ET.Element:
    """The document, after what must hold for each: no script, nothing from elsewhere."""
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    ids = {element.get("id"): element for element in root.iter() if element.get("id")}
    for name in root.get("aria-labelledby").split():
        assert ids[name].text.strip()
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {
            "svg",
            "title",
            "desc",
            "style",
            "g",
            "rect",
            "path",
            "text",
        }
        for attribute in element.attrib:
            assert not re.search("href|src|^on|^style$", attribute), attribute
    style = root.find(f"{SVG}style").text
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme" in style
    return root


def titles(root: ET.Element) -> list[str]:
    """The tooltips, in the document's order."""
    return [
        element.find(f"{SVG}title").text
        for element in root.iter()
        if element is not root and element.find(f"{SVG}title") is not None
    ]


def level(element: ET.Element) -> int:
    return int(re.search(r"\bc([0-9a-f])\b", element.get("class"))[1], 16)


def texts(root: ET.Element) -> list[str]:
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def labels(conn: psycopg.Connection, pieces: list[str], columns: int) -> list[str]:
    return value(
        conn,
        """SELECT array_agg(gpt2._label(p, %s) ORDER BY n)
                          FROM unnest(%s::text[]) WITH ORDINALITY AS p (p, n)""",
        columns,
        pieces,
    )


# ---- What is drawn is what the relations say


@pytest.mark.parametrize("prompt", [SENTENCE, "x", PROMPTS["mixed"]])
def test_attention_draws_the_relation(demo, prompt):
    rows = demo.execute("SELECT * FROM gpt2_attention(%s, 2, 1)", (prompt,)).fetchall()
    pieces = [row[1] for row in rows if row[2] == 0]
    names = labels(demo, pieces, 16)
    root = parse(value(demo, PICTURES["attention"], prompt))
    cells = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(cells) == len(rows) == len(pieces) * (len(pieces) + 1) / 2
    corner = min(float(c.get("x")) for c in cells), min(float(c.get("y")) for c in cells)
    step = (float(cells[-1].get("x")) - corner[0]) / max(1, len(pieces) - 1)
    for cell, (query, _, key, _, weight) in zip(cells, rows, strict=True):
        name, percent = re.fullmatch(
            r"(.*): ([0-9.]+)%", cell.find(f"{SVG}title").text, re.DOTALL
        ).groups()
        assert name == f"{query} {names[query]} → {key} {names[key]}"
        assert float(percent) == pytest.approx(100 * weight, abs=0.051)
        assert level(cell) == pytest.approx(15 * weight**0.5, abs=0.51)
        assert float(cell.get("x")) == corner[0] + key * step
        assert float(cell.get("y")) == corner[1] + query * step
    # and each position has its labels, on both axes, where there is room
    if step >= 14:
        drawn = Counter(texts(root))
        assert all(drawn[name] >= 2 for name in names)


def test_heads_draw_the_relation(demo):
    weights = {
        (block, head, position, key): weight
        for block, head, position, key, weight in demo.execute(
            """SELECT t.block, t.head, t."position", w.n - 1, w.weight
               FROM gpt2_trace(%s, '{pattern}') AS t,
                    unnest(t.value::real[]) WITH ORDINALITY AS w (weight, n)""",
            (SENTENCE,),
        )
    }
    root = parse(value(demo, PICTURES["heads"], SENTENCE))
    drawn = {}
    for group in root.iter(f"{SVG}g"):
        block, head = map(
            int, re.fullmatch(r"block (\d+), head (\d+)", group.find(f"{SVG}title").text).groups()
        )
        rest, *paths = group.iter(f"{SVG}path")
        assert level(rest) == 0 and rest.get("d") == "M0 0" + "h1v1" * 18 + "H0z"
        for path in paths:
            for key, query in re.findall(r"M(\d+) (\d+)h1v1h-1z", path.get("d")):
                drawn[block, head, int(query), int(key)] = level(path)
    assert len(weights) == 6 * 4 * 18 * 19 / 2
    for cell, weight in weights.items():
        assert drawn.get(cell, 0) == pytest.approx(15 * weight**0.5, abs=0.51)
    assert drawn.keys() <= weights.keys()
    assert {*(f"head {i}" for i in range(4)), *(f"block {i}" for i in range(6))} <= set(texts(root))


def test_lens_draws_the_relation(demo):
    rows = demo.execute("SELECT * FROM gpt2_logit_lens(%s)", (SENTENCE,)).fetchall()
    tokens = value(demo, "SELECT gpt2_tokenize(%s)", SENTENCE)
    root = parse(value(demo, PICTURES["lens"], SENTENCE))
    cells = {}
    for group in root.iter(f"{SVG}g"):
        position, piece, block, prediction, percent = re.fullmatch(
            r"(\d+) (.*), block (\d+): (.*) ([0-9.]+)%", group.find(f"{SVG}title").text
        ).groups()
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert text.text == prediction
        cells[int(block), int(position)] = piece, prediction, float(percent), rect
    assert len(cells) == len(rows) == 6 * 18
    for block, position, piece, _, token, prediction, _, probability in rows:
        drawn = cells[block, position]
        assert list(drawn[:2]) == labels(demo, [piece, prediction], 12)
        assert drawn[2] == pytest.approx(100 * probability, abs=0.051)
        assert level(drawn[3]) == pytest.approx(15 * probability, abs=0.51)
        comes = position + 1 < len(tokens) and tokens[position + 1] == token
        assert ("framed" in drawn[3].get("class")) == comes


@pytest.mark.parametrize("prompt", [SENTENCE, "x", PROMPTS["mixed"]])
def test_surprisal_draws_the_relation(demo, prompt):
    rows = demo.execute(SURPRISAL, (prompt,)).fetchall()
    groups = list(parse(value(demo, PICTURES["surprisal"], prompt)).iter(f"{SVG}g"))
    names = labels(demo, [row[2] for row in rows], 40)
    place = (0.0, 0.0)
    for group, (position, _, _, bits), name in zip(groups, rows, names, strict=True):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert text.text == name
        said = group.find(f"{SVG}title").text.removeprefix(f"{position} {name}: ")
        if bits is None:
            assert said == "not predicted" and position == 0
        else:
            assert float(said.removesuffix(" bits")) == pytest.approx(bits, abs=0.051)
            assert level(rect) == pytest.approx(15 * min(bits / 16, 1), abs=0.51)
        # in the order of reading
        assert (float(rect.get("y")), float(rect.get("x"))) > place
        place = float(rect.get("y")), float(rect.get("x"))


def test_cells_of_a_long_prompt(conn):
    """Of ten positions on a side of four, three share a cell: the largest weight counts."""
    rows = conn.execute("""
        SELECT c.query, c.key, c.weight
        FROM gpt2._attention_cells(ARRAY(
                 SELECT ROW(0, 0, q, 'attn.hook_pattern',
                            ARRAY(SELECT q + k / 10.0 FROM generate_series(0, q) AS k)::vector
                           )::gpt2.activation
                 FROM generate_series(0, 9) AS q), 4) AS c""").fetchall()
    assert {(q, k): round(w, 1) for q, k, w in rows} == {
        (0, 0): 2.2,
        (1, 0): 5.2,
        (1, 1): 5.5,
        (2, 0): 8.2,
        (2, 1): 8.5,
        (2, 2): 8.8,
        (3, 0): 9.2,
        (3, 1): 9.5,
        (3, 2): 9.8,
        (3, 3): 9.9,
    }


def test_report_has_what_the_relations_say(demo):
    page = value(demo, "SELECT gpt2_report(%s)", SENTENCE)
    document = html5lib.parse(page, namespaceHTMLElements=False)
    table = [["".join(cell.itertext()) for cell in row] for row in document.iter("tr")][1:]
    expected = demo.execute("SELECT * FROM gpt2_next_token(%s)", (SENTENCE,)).fetchall()
    for row, (_, token, piece, _, probability) in zip(table, expected, strict=True):
        assert row[:2] == [*labels(demo, [piece], 99), str(token)]
        assert float(row[2].removesuffix("%")) == pytest.approx(100 * probability, abs=0.051)
    bits = [item.find("small").text for item in document.iter("li")]
    for said, (_, _, _, number) in zip(
        bits, demo.execute(SURPRISAL, (SENTENCE,)).fetchall(), strict=True
    ):
        assert said == "first" if number is None else abs(float(said) - number) < 0.051
    # the pictures in it are those that the functions draw
    assert value(demo, PICTURES["heads"], SENTENCE) in page
    assert value(demo, PICTURES["lens"], SENTENCE) in page
    block, head = re.search(r"Attention of block (\d+), head (\d+)", page).groups()
    assert (
        value(demo, "SELECT gpt2_attention_svg(%s, %s, %s)", SENTENCE, int(block), int(head))
        in page
    )


# ---- NULL, and errors


@pytest.mark.parametrize(
    "call",
    [
        "gpt2_attention_svg(NULL, 0, 0)",
        "gpt2_heads_svg(NULL)",
        "gpt2_lens_svg(NULL)",
        "gpt2_surprisal_svg(NULL)",
        "gpt2_report(NULL)",
    ],
)
def test_null(demo, call):
    assert value(demo, f"SELECT {call}") is None


@pytest.mark.parametrize("call", ["gpt2_attention_text(NULL, 0, 0)", "gpt2_surprisal_text(NULL)"])
def test_null_in_the_terminal(demo, call):
    assert demo.execute(f"SELECT * FROM {call}").fetchall() == []


@pytest.mark.parametrize("function", ["gpt2_attention_svg", "gpt2_attention_text"])
@pytest.mark.parametrize(
    "arguments",
    [
        "'x', 6, 0",
        "'x', -1, 0",
        "'x', NULL, 0",
        "'x', 0, 4",
        "'x', 0, -1",
        "'x', 0, 0, 'none'",
        "repeat('x ', 300), 0, 0",
    ],
)
def test_errors_are_the_relations(demo, function, arguments):
    def error(call):
        with pytest.raises(psycopg.Error) as raised:
            demo.execute(f"SELECT * FROM {call}({arguments})")
        diagnostic = raised.value.diag
        return (
            diagnostic.sqlstate,
            diagnostic.message_primary,
            diagnostic.message_detail,
            diagnostic.message_hint,
        )

    assert error(function) == error("gpt2_attention")


# ---- Any text


def check_report(page: str) -> None:
    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    assert document.get("lang") == "en" and document.find("head/title").text.strip()
    ids = [element.get("id") for element in document.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in document.iter():
        assert element.tag not in {"script", "link", "img", "iframe", "object", "base", "a"}
        for attribute in element.attrib:
            assert not re.search("href|src|^on", str(attribute)), attribute
        if element.get("aria-labelledby"):
            assert set(element.get("aria-labelledby").split()) <= set(ids)
    headings = [element.tag for element in document.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert headings[0] == "h1" and set(headings[1:]) == {"h2"}
    figures = list(document.iter("figure"))
    assert len(figures) == 3
    for figure in figures:
        assert "".join(figure.find("figcaption").itertext()).strip()
    for style in document.iter("style"):
        assert "url(" not in style.text and "@import" not in style.text


@pytest.mark.parametrize("prompt", cases(HOSTILE, HOSTILE[:6]))
def test_hostile_prompts(demo, prompt):
    for query in PICTURES.values():
        parse(value(demo, query, prompt))
    check_report(value(demo, "SELECT gpt2_report(%s)", prompt))


ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
SLOW = settings(deadline=None, max_examples=examples(10), suppress_health_check=list(HealthCheck))


@SLOW
@given(ANY_TEXT)
def test_any_prompt(demo, prompt):
    for query in PICTURES.values():
        parse(value(demo, query, prompt))
    check_report(value(demo, "SELECT gpt2_report(%s)", prompt))


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
@example("".join(map(chr, range(1, 0x300))))
@example("".join(chr(i) for i in range(0x2000, 0x2100)))
@example("\ufffe\uffff\ufdd0\ufdef\U0001fffe\U0010ffff\U000e0001")
def test_escape(conn, text):
    escaped, visible = conn.execute(
        "SELECT gpt2._escape(%s), gpt2._visible(%s)", (text, text)
    ).fetchone()
    read = ET.fromstring(f"<a b=\"{escaped}\" c='{escaped}'>{escaped}</a>")
    lines = text.replace("\r\n", "\n").replace("\r", "\n")  # as XML has it
    for before, after in zip(lines, read.text or "", strict=True):
        assert after in (before, "\ufffd")
    for quoted in (read.get("b"), read.get("c")):
        assert quoted == (read.text or "").replace("\n", " ").replace("\t", " ")
    html5lib.HTMLParser(strict=True).parse(
        f"<!DOCTYPE html><html><head><title>{escaped}</title></head><body><p>{escaped}</p></body>"
    )
    # a character for each, none that is invisible or that turns the text around it
    for before, after in zip(text, visible, strict=True):
        assert unicodedata.category(after) not in ("Cc", "Cf", "Zs", "Zl", "Zp") or (
            unicodedata.category(after) == "Cf" and before == after
        )
        assert unicodedata.bidirectional(after) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
            "B",
            "S",
        )


# ---- In the terminal


def psql(uri: str, query: str) -> list[str]:
    return subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", "--dbname", uri, "--command", query],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@pytest.mark.parametrize("prompt", [*PROMPTS.values(), *HOSTILE])
def test_terminal_is_aligned(demo_dsn, prompt):
    quoted = "'" + prompt.replace("'", "''") + "'"
    for call in (f"gpt2_attention_text({quoted}, 2, 1)", f"gpt2_surprisal_text({quoted})"):
        lines = psql(demo_dsn, f"SELECT * FROM {call}")
        _, rule, *rows = lines[:-2]
        bars = [i for i, c in enumerate(rule) if c == "+"]
        assert rows
        for row in rows:
            assert all(unicodedata.combining(c) == 0 and c.isprintable() for c in row)
            at = [columns(row[:i]) for i, c in enumerate(row) if c == "|"]
            assert set(bars) <= set(at), row


def test_terminal_shows_the_relation(demo):
    rows = demo.execute("SELECT * FROM gpt2_attention(%s, 2, 1)", (SENTENCE,)).fetchall()
    for position, _, bars, most in demo.execute(
        "SELECT * FROM gpt2_attention_text(%s, 2, 1)", (SENTENCE,)
    ).fetchall():
        weights = [row[4] for row in rows if row[0] == position]
        assert len(bars) == position + 1
        for bar, weight in zip(bars, weights, strict=True):
            if bar == "·":
                assert weight < 0.01
            else:
                assert 0 <= "▁▂▃▄▅▆▇█".index(bar) + 1 - 8 * weight**0.5 < 1 + 1e-9
        assert int(most.split("%")[0]) == pytest.approx(100 * max(weights), abs=0.51)
    for (position, _, bits, bar), (_, _, _, exact) in zip(
        demo.execute("SELECT * FROM gpt2_surprisal_text(%s)", (SENTENCE,)).fetchall(),
        demo.execute(SURPRISAL, (SENTENCE,)).fetchall(),
        strict=True,
    ):
        if position == 0:
            assert bits is None and bar is None
            continue
        eighths = sum("▏▎▍▌▋▊▉█".index(c) + 1 for c in bar)
        assert float(bits) == pytest.approx(exact, abs=0.051)
        assert eighths == pytest.approx(8 * exact, abs=0.51)


def test_terminal_of_a_long_prompt(demo):
    rows = demo.execute("SELECT * FROM gpt2_attention_text(%s, 0, 0)", (LONG,)).fetchall()
    assert max(len(row[2]) for row in rows) <= 64 < len(rows)


# ---- How they look

#: of each text: is it within the picture, does it touch another, its contrast with what it is on
LOOK = """
    const rgb = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
    const luminance = (colour) => rgb(colour)
        .map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (a, b) => {
        const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
        return (x + 0.05) / (y + 0.05);
    };
"""
LOOK_SVG = (
    LOOK
    + """
    return [...document.querySelectorAll("div[id]")].map((div) => {
        const svg = div.firstElementChild, frame = svg.getBoundingClientRect();
        const rects = [...svg.querySelectorAll("rect")].map((r) =>
            [r.getBoundingClientRect(), getComputedStyle(r).fill]);
        const texts = [...svg.querySelectorAll("text")].map((t) =>
            [t.getBoundingClientRect(), t.textContent, getComputedStyle(t).fill]);
        const page = getComputedStyle(svg.querySelector(".page")).fill;
        let lowest = 99;
        const outside = [], overlapping = [];
        texts.forEach(([box, text, fill], i) => {
            const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
            const on = rects.filter(([r, f]) => f != "none" && r.left <= x && x <= r.right
                                                && r.top <= y && y <= r.bottom).pop();
            lowest = Math.min(lowest, contrast(fill, on[1]));
            if (box.left < frame.left || box.right > frame.right || box.top < frame.top
                || box.bottom > frame.bottom) outside.push(text);
            // text on a cell stays on it
            if (on[1] != page && (box.left < on[0].left - 1 || box.right > on[0].right + 1))
                outside.push("cell: " + text);
            texts.slice(i + 1).forEach(([other, label]) => {
                if (box.left < other.right - 1 && other.left < box.right - 1
                    && box.top < other.bottom - 1 && other.top < box.bottom - 1)
                    overlapping.push(text + " | " + label);
            });
        });
        return {id: div.id, n: texts.length, page, lowest, outside, overlapping};
    });
"""
)


@pytest.fixture(scope="module")
def drawn(demo_dsn) -> dict[str, str]:
    """All pictures of all prompts."""
    with psycopg.connect(demo_dsn, autocommit=True) as conn:
        return {
            f"{name} {picture}": value(conn, query, prompt)
            for name, prompt in PROMPTS.items()
            for picture, query in PICTURES.items()
        }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_is_legible(drawn, dark, tmp_path):
    """Text lies within the picture and within its cell, touches no other, and has contrast."""
    page = "<!DOCTYPE html><meta charset=utf-8>" + "".join(
        f'<div id="{name}">{svg}</div>' for name, svg in drawn.items()
    )
    looks = browser.evaluate(page, LOOK_SVG, tmp_path, dark)
    assert [look["id"] for look in looks] == list(drawn)
    for look in looks:
        assert look["n"] > 6, look
        assert look["page"] == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
        assert look["lowest"] >= 4.5, look
        assert look["outside"] == [] and look["overlapping"] == [], look


PALETTE = [
    "f6fae2",
    "d7f0cb",
    "b3e5bd",
    "8ddab7",
    "64cdb6",
    "35beb7",
    "00aeb7",
    "009cb6",
    "008ab1",
    "0077a8",
    "0f649b",
    "24528a",
    "2b4176",
    "23355f",
    "1c2a48",
    "171f30",
]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("picture", PICTURES)
def test_picture_has_its_colours(drawn, picture, dark, tmp_path):
    """As a file of its own it is shown with its page and each colour that it uses, and no other."""
    svg = drawn[f"sentence {picture}"]
    root = parse(svg)
    file = tmp_path / "picture.svg"
    file.write_text(svg, encoding="utf-8")
    width, height = int(root.get("width")), int(root.get("height"))
    image = browser.screenshot(file, width, height, dark)
    assert image.size == (width, height)
    colours = {colour: n for n, colour in image.getcolors(width * height)}

    def rgb(colour: str) -> tuple[int, ...]:
        return tuple(bytes.fromhex(colour))

    assert image.getpixel((2, height - 3)) == rgb("0d1117" if dark else "ffffff")
    palette = PALETTE[::-1] if dark else PALETTE
    for element in root.iter():
        if re.search(r"\bc[0-9a-f]\b", element.get("class") or ""):
            assert colours.get(rgb(palette[level(element)]), 0) >= 20, level(element)
    assert colours.get(rgb("e6edf3" if dark else "1f2328"), 0) > 10  # text


LOOK_PAGE = (
    LOOK
    + """
    const doc = document.querySelector("iframe").contentDocument;
    const background = (e) => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (colour != "rgba(0, 0, 0, 0)") return colour;
        }
    };
    const low = [];
    doc.querySelectorAll("body *:not(svg, svg *)").forEach((e) => {
        if ([...e.childNodes].some((n) => n.nodeType == 3 && n.textContent.trim())
            && contrast(getComputedStyle(e).color, background(e)) < 4.5)
            low.push(e.outerHTML.slice(0, 200));
    });
    return {low, width: doc.documentElement.scrollWidth, height: doc.documentElement.scrollHeight,
            svg: [...doc.querySelectorAll("svg")].map((s) => s.getBoundingClientRect().width),
            bar: doc.querySelector("td.bar").getBoundingClientRect(),
            background: background(doc.body)};
"""
)


@pytest.mark.parametrize(
    ("prompt", "dark"),
    cases(itertools.product([SENTENCE, WIDE], [False, True]), [(SENTENCE, False), (WIDE, True)]),
)
def test_report_on_a_phone(demo, prompt, dark, tmp_path):
    """The page is as wide as the phone (what is wider scrolls by itself), and has contrast."""
    page = value(demo, "SELECT gpt2_report(%s)", prompt)
    frame = page.replace("&", "&amp;").replace('"', "&quot;")
    scheme = "dark" if dark else "light"
    look = browser.evaluate(
        f'<!DOCTYPE html><meta charset=utf-8><meta name="color-scheme" content="{scheme}">'
        f'<iframe style="width:375px;height:800px;border:0" srcdoc="{frame}"></iframe>',
        LOOK_PAGE,
        tmp_path,
        dark,
    )
    assert look["width"] == 375 and look["height"] > 1500, look
    assert look["background"] == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    assert look["low"] == []
    assert look["bar"]["width"] > 60 and look["bar"]["right"] <= 360, look
    assert len(look["svg"]) == 4 and min(look["svg"]) > 200


# ---- The documentation


@pytest.mark.parametrize("file", sorted((ROOT / "docs/images").glob("*.svg")), ids=lambda f: f.stem)
def test_documented_picture(bundled_dsn, file: Path):
    """An image in the documentation is what the command above it draws, but for roundings."""
    page = (ROOT / "docs/pictures.md").read_text(encoding="utf-8")
    query = re.search(rf'"([^"]*)" > docs/images/{re.escape(file.name)}', page)[1]

    def outline(text):
        return [
            re.sub(r"[0-9.]+%|c[0-9a-f]|t[0-9a-f]\b", "", f"{e.tag} {e.get('class')} {e.text}")
            for e in parse(text).iter()
        ]

    with psycopg.connect(bundled_dsn) as conn:
        assert outline(value(conn, query)) == outline(file.read_text(encoding="utf-8"))
