"""The playground in a browser: build/playground/site, served as any static host would.

`make test-playground` builds it and runs this. GPT2_SCREENSHOTS names a folder for pictures of it.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import browser
import psycopg
import pytest
from conftest import ROOT, one

playwright = pytest.importorskip("playwright.sync_api", reason="make test-playground")
expect = playwright.expect
pytestmark = pytest.mark.node

SITE = ROOT / "build" / "playground" / "site"
SCREENSHOTS = os.environ.get("GPT2_SCREENSHOTS")
#: milliseconds: a new page makes its database first, and the machine may be busy
START, CALL = 120_000, 60_000
PROMPT = "The default value is"


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(Handler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with playwright.sync_playwright() as p:
        launched = p.chromium.launch(executable_path=browser.path(), args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """A page, what it asked of the network, and what it complained of."""

    def __init__(self, chromium, address: str, **options):
        self.address = address
        self.context = chromium.new_context(viewport={"width": 1100, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(CALL)
        self.requests: list = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request))
        self.page.on("websocket", lambda socket: self.complaints.append(socket.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if message.type == "error" else None
            ),
        )

    def open(self, fragment: str = "") -> Visit:
        self.page.goto(self.address + fragment)
        expect(self.page.locator("body[data-ready]")).to_be_attached(timeout=START)
        return self

    def complete(self, prompt: str, **options: str) -> str:
        """Types a prompt and options, and gives the whole text when it has come."""
        self.page.fill("#prompt", prompt)
        self.page.evaluate("() => document.querySelector('#options-all').open = true")
        for field in self.page.locator(
            ".fields input:not([type=checkbox]), .fields textarea"
        ).all():
            name = field.get_attribute("name")
            field.fill(options.get(name, {"max_tokens": "8", "temperature": "0"}.get(name, "")))
        self.page.click("#go")
        return self.completed()

    def completed(self) -> str:
        expect(self.page.locator("#go")).to_be_visible(timeout=CALL)
        expect(self.page.locator("#output")).not_to_have_attribute("aria-busy", "true")
        return self.page.locator("#output-text").text_content()

    def show(self, tab: str):
        """Chooses a tab, and gives its panel when that has what it shows."""
        self.page.click(f"#tab-{tab}")
        panel = self.page.locator(f"#panel-{tab}")
        expect(panel).to_be_visible()
        self.idle(panel)
        return panel

    def idle(self, panel) -> None:
        self.page.wait_for_timeout(600)  # until what was typed is taken up
        expect(panel.locator("[aria-busy]")).to_have_count(0, timeout=CALL)

    def run(self, sql: str):
        """Runs SQL in the editor, and gives its results."""
        self.show("sql")
        self.page.locator("#editor-text .cm-content").fill(sql)
        self.page.click("#editor-run")
        expect(self.page.locator("#editor-run")).to_be_enabled(timeout=CALL)
        return self.page.locator("#editor-results")

    def screenshot(self, name: str) -> None:
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def visit(chromium, address) -> Iterator[Visit]:
    """One for all: a database takes seconds to make. The last test looks at its whole traffic."""
    visiting = Visit(chromium, address, permissions=["clipboard-read", "clipboard-write"]).open()
    yield visiting
    visiting.context.close()


@pytest.fixture(scope="module")
def server(bundled_dsn) -> Iterator[psycopg.Connection]:
    with psycopg.connect(bundled_dsn, autocommit=True) as connection:
        yield connection


def shape(server: psycopg.Connection) -> tuple[int, int, int]:
    return server.execute("SELECT n_layer, n_head, n_embd FROM gpt2.model").fetchone()


# ---- It completes


def test_completes_as_the_server(visit, server, capsys):
    text = visit.complete(PROMPT, max_tokens="32")
    assert text == one(server, "SELECT gpt2_generate(%s, 32)", PROMPT)
    status = visit.page.inner_text("#output-status")
    assert re.fullmatch(
        r"32 tokens, the first after [\d.]+ s, then [\d.]+ a second; ended by length", status
    )
    visit.screenshot("completion")
    with capsys.disabled():
        print(f"\nin the browser: {status}")


def test_tokens_are_chips(visit, server):
    prompt = "naïve café\n日本 🐘"
    visit.complete(prompt, max_tokens="3")
    pieces = [row[2] for row in server.execute("SELECT * FROM gpt2_tokens(%s)", [prompt])]
    chips = visit.page.locator("#prompt-tokens li")
    expect(chips).to_have_count(len(pieces))
    shown = [chip.evaluate("chip => chip.firstChild.textContent") for chip in chips.all()]
    assert shown == [piece.replace(" ", "·").replace("\n", "↵") for piece in pieces]
    expect(visit.page.locator("#output-tokens li")).to_have_count(3)
    assert "probability" in visit.page.locator("#output-tokens li").first.get_attribute("title")


@pytest.mark.parametrize(
    ("typed", "argument"),
    [
        ({"temperature": "1.5", "seed": "7"}, "temperature => 1.5, seed => 7"),
        (
            {"temperature": "1", "seed": "7", "top_k": "5"},
            "temperature => 1, seed => 7, top_k => 5",
        ),
        (
            {"temperature": "1", "seed": "3", "top_p": ".5"},
            "temperature => 1, seed => 3, top_p => .5",
        ),
        ({"repetition_penalty": "1.5"}, "repetition_penalty => 1.5"),
        ({"stop": ".\n\\n"}, r"stop => ARRAY['.', E'\n']"),
        ({"choices": ' it\'s\n a "b"'}, """choices => ARRAY[' it''s', ' a "b"']"""),
        ({"pattern": " [0-9]+"}, "pattern => ' [0-9]+'"),
        ({"logit_bias": '{" the": false}'}, """logit_bias => '{" the": false}'"""),
        ({"banned_tokens": "13, 198 257"}, "banned_tokens => '{13,198,257}'"),
    ],
)
def test_options(visit, server, typed, argument):
    expected = one(server, f"SELECT gpt2_generate('{PROMPT}', max_tokens => 8, {argument})")
    assert visit.complete(PROMPT, max_tokens="8", **typed) == expected


def test_every_option_has_a_field(visit, server):
    """But those that the page fills in itself, and what only SQL can make."""
    names = one(
        server,
        """SELECT array_agg(a.name) FROM pg_proc AS p, unnest(p.proargnames[:p.pronargs]) AS a (name)
           WHERE p.proname = 'gpt2_stream'""",
    )
    fields = [f.get_attribute("name") for f in visit.page.locator("[id^=option-]").all()]
    assert sorted(fields) == sorted(
        set(names) - {"prompt", "input_ids", "prefix", "steer", "patch", "echo", "model"}
    )
    for field in visit.page.locator("[id^=option-]").all():
        assert len(field.get_attribute("title")) > 10


def test_streams_and_stops(visit):
    """Tokens are seen before the last one is there; Escape ends the work."""
    visit.page.fill("#prompt", PROMPT)
    visit.page.fill("#option-max_tokens", "200")
    visit.page.press("#prompt", "Control+Enter")
    chips = visit.page.locator("#output-tokens li")
    expect(chips.nth(2)).to_be_attached(timeout=CALL)
    assert chips.count() < 150
    visit.page.keyboard.press("Escape")
    visit.completed()
    assert visit.page.inner_text("#output-status").endswith("stopped")
    made = chips.count()
    visit.page.wait_for_timeout(500)
    assert chips.count() == made < 200


def test_errors(visit):
    text = visit.complete(PROMPT, top_p="2")
    assert "top_p must be above 0 and at most 1" in text
    assert "It is 2." in text and "Use 1 or NULL to keep all tokens." in text
    text = visit.complete("x " * 2000)
    assert "the prompt is too long" in text
    text = visit.complete(PROMPT, temperature="warm")
    assert "invalid input syntax" in text
    assert visit.complete(PROMPT) != text


def test_constraint_that_cannot_be_met(visit):
    assert visit.complete(PROMPT, max_tokens="1", pattern=" [0-9]{8}").startswith("NULL")


# ---- It looks inside


def test_next_token(visit, server):
    visit.page.fill("#prompt", PROMPT)
    panel = visit.show("next")
    rows = server.execute(
        """SELECT piece, round(100 * probability::numeric, 1)
           FROM gpt2_next_token(%s, NULL) ORDER BY rank LIMIT 10""",
        [PROMPT],
    ).fetchall()
    bars = panel.locator(".bar")
    expect(bars).to_have_count(10)
    for bar, (piece, percent) in zip(bars.all(), rows, strict=True):
        assert bar.locator(".piece").text_content() == piece.replace(" ", "·").replace("\n", "↵")
        shown = float(bar.locator(".percent").text_content().removesuffix(" %"))
        assert shown == pytest.approx(float(percent), abs=0.11)
    bars.first.click()
    assert visit.page.input_value("#prompt") == PROMPT + rows[0][0]
    visit.idle(panel)


@pytest.mark.parametrize("name", ["lens", "surprisal"])
def test_picture(visit, server, name):
    visit.page.fill("#prompt", 'A <b>"table"</b> & a row')
    panel = visit.show(name)
    drawn = panel.locator("svg").evaluate("svg => svg.textContent")
    svg = one(server, f"SELECT gpt2_{name}_svg(%s)", 'A <b>"table"</b> & a row')
    titles = re.findall(r"<title[^>]*>(\w+[^<]*)</title>", svg)
    assert panel.locator("svg title").count() == len(titles)
    assert titles[0] in drawn
    visit.screenshot(name)


def test_attention(visit, server):
    blocks, heads, _ = shape(server)
    visit.page.fill("#prompt", PROMPT)
    panel = visit.show("attention")
    panel.locator("#attention-block").select_option("")
    visit.idle(panel)
    assert panel.locator("svg g").count() == blocks * heads
    visit.screenshot("heads")
    panel.locator("svg g", has_text="block 1, head 2").locator("path").first.dispatch_event("click")
    visit.idle(panel)
    assert panel.locator("#attention-block").input_value() == "1"
    expect(panel.locator("svg")).to_contain_text("Attention of block 1, head 2")
    panel.locator("#attention-head").select_option("0")
    visit.idle(panel)
    expect(panel.locator("svg")).to_contain_text("Attention of block 1, head 0")
    visit.screenshot("attention")


def test_ablation(visit, server):
    _, heads, width = shape(server)
    visit.page.fill("#prompt", PROMPT)
    panel = visit.show("heads")
    generate = "SELECT gpt2_generate(%s, 16, echo => false)"
    whole = one(server, generate, PROMPT)
    expect(panel.locator("#heads-before")).to_have_text(whole, use_inner_text=False)
    d = width // heads
    for head in range(heads):
        with server.transaction(force_rollback=True):
            server.execute(
                """UPDATE gpt2.linear SET bias = 0, weight = weight - weight
                   WHERE block = 1 AND layer = 'attn.c_attn' AND unit BETWEEN %s AND %s""",
                [2 * width + head * d, 2 * width + (head + 1) * d - 1],
            )
            without = one(server, generate, PROMPT)
        if without != whole:
            break
    assert without != whole  # else this shows nothing
    panel.get_by_role("button", name=f"block 1, head {head}").click()
    visit.idle(panel)
    assert panel.locator("#heads-after").text_content() == without
    assert panel.locator("mark").count() == 1
    visit.screenshot("ablation")
    # the model is as it was
    assert visit.complete(PROMPT, max_tokens="16") == PROMPT + whole
    visit.show("heads").locator("#heads-none").click()
    visit.idle(panel)
    assert "Switch a head off" in panel.locator("#heads-after").text_content()


# ---- Any SQL


def test_sql(visit):
    results = visit.run(
        "SELECT 1 AS one, NULL AS none, 'a' || chr(10) || '<b>' AS text; SELECT 2.50"
    )
    assert results.locator("td").all_text_contents() == ["1", "NULL", "a\n<b>", "2.50"]
    assert results.locator("th").all_text_contents() == ["one", "none", "text", "?column?"]
    results = visit.run("SELECT i FROM generate_series(1, 1000) AS i")
    expect(results.locator("figcaption")).to_have_text("1000 rows, of which 200 are shown")
    expect(visit.run("CREATE TABLE mine (a int)")).to_have_text("Done.")
    expect(visit.run("SELECT count(*) FROM mine").locator("td")).to_have_text("0")


def test_sql_errors(visit):
    results = visit.run("SELECT gpt2_generate('x', model => 'absent')")
    expect(results.locator(".error")).to_contain_text('model "absent" does not exist (22023)')
    expect(results.locator(".error")).to_contain_text("SELECT name FROM gpt2_models();")
    # a transaction that is left open is not left to the other panels
    results = visit.run("BEGIN; CREATE TABLE gone (a int)")
    expect(results).to_contain_text("is rolled back")
    results = visit.run("BEGIN; SELECT 1/0")
    expect(results).to_contain_text("division by zero")
    expect(results).to_contain_text("is rolled back")
    expect(visit.run("SELECT to_regclass('gone') IS NULL").locator("td")).to_have_text("t")


def test_sql_runs_nothing_of_a_result(visit):
    hostile = "<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"document.title = ''x''\"/>"
    visit.run(f"SELECT '{hostile}'")
    expect(visit.page.locator("#editor-results img")).to_be_attached()
    visit.run("SELECT '<!doctype html><script>top.document.title = \"x\"</script>'")
    expect(visit.page.locator("#editor-results iframe")).to_be_attached()
    visit.page.wait_for_timeout(300)
    assert visit.page.title().startswith("gpt2")
    visit.complaints[:] = [c for c in visit.complaints if "sandboxed" not in c]


def test_every_ready_query_runs(visit):
    ready = visit.page.locator("#editor-ready")
    visit.show("sql")
    values = [o.get_attribute("value") for o in ready.locator("optgroup option").all()]
    assert len(values) > 20
    for value in values:
        ready.select_option(value)
        expect(visit.page.locator("#editor-text")).not_to_contain_text(":model")
        visit.page.wait_for_timeout(200)
        visit.page.click("#editor-run")
        expect(visit.page.locator("#editor-run")).to_be_enabled(timeout=CALL)
        results = visit.page.locator("#editor-results")
        assert results.locator(".error").count() == 0, (value, results.text_content())
        assert results.locator("td").count() > 0, value
    visit.screenshot("sql")


def test_what_a_panel_runs_opens_in_the_editor(visit):
    visit.page.fill("#prompt", "It's a")
    visit.show("next").locator("summary").click()
    visit.page.locator("#next-sql button").click()
    expect(visit.page.locator("#editor-text")).to_contain_text("'It''s a'")
    visit.page.keyboard.press("Control+Enter")
    expect(visit.page.locator("#editor-results tbody tr")).to_have_count(10, timeout=CALL)


def test_a_query_that_does_not_end_is_stopped(visit):
    visit.show("sql")
    visit.page.locator("#editor-text .cm-content").fill(
        "SELECT count(*) FROM generate_series(1, 1e12)"
    )
    visit.page.click("#editor-run")
    visit.page.click("#editor-stop")
    expect(visit.page.locator("#editor-run")).to_be_enabled(timeout=START)
    assert visit.complete(PROMPT, max_tokens="2").startswith(PROMPT)
    # the database is another
    expect(visit.run("SELECT to_regclass('mine') IS NULL").locator("td")).to_have_text("t")


# ---- For everybody


def test_share(visit, chromium, address):
    visit.complete("CREATE <b>&#", max_tokens="5", stop="x\ny", temperature="0.5", seed="9")
    panel = visit.show("attention")
    panel.locator("#attention-block").select_option("2")
    visit.page.click("#share")
    expect(visit.page.locator("#share-status")).to_have_text("The link is copied.")
    link = visit.page.evaluate("() => navigator.clipboard.readText()")
    said = parse_qs(urlsplit(link).fragment)
    assert said["prompt"] == ["CREATE <b>&#"] and said["attention"] == ["2.0"]
    other = Visit(chromium, link).open()
    assert other.page.input_value("#prompt") == "CREATE <b>&#"
    assert other.page.input_value("#option-stop") == "x\ny"
    assert other.page.input_value("#option-seed") == "9"
    expect(other.page.locator("#panel-attention svg")).to_contain_text("block 2, head 0")
    other.context.close()


def test_shared_sql_is_shown_and_not_run(chromium, address):
    link = Visit(chromium, address).open("#show=sql&sql=CREATE+TABLE+shared+(a+int)")
    expect(link.page.locator("#editor-text")).to_contain_text("CREATE TABLE shared (a int)")
    link.page.wait_for_timeout(500)
    expect(link.page.locator("#editor-results")).to_be_empty()
    expect(link.run("SELECT to_regclass('shared') IS NULL").locator("td")).to_have_text("t")
    link.context.close()


def test_keyboard(visit):
    """From the top: the link to the prompt, the prompt, the button; and the arrow keys in the tabs."""
    page = visit.page
    page.evaluate("() => document.querySelector('.skip').focus()")
    focused = "() => document.activeElement.id || document.activeElement.className"
    seen = []
    for _ in range(3):
        seen.append(page.evaluate(focused))
        page.keyboard.press("Tab")
    assert seen == ["skip", "prompt", "go"]
    page.focus("[role=tab][aria-selected=true]")
    page.keyboard.press("Home")
    assert page.evaluate(focused) == "tab-next"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "tab-attention"
    expect(page.locator("#panel-attention")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "tab-sql"
    expect(page.locator("#panel-attention")).to_be_hidden()


def test_names_for_a_screen_reader(visit):
    """Whatever can be used has a name; what is a picture says what it shows."""
    nameless = visit.page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, [role=tabpanel]')]
            .filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')
                || e.labels?.[0]?.textContent.trim() || e.textContent.trim()))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    levels = visit.page.evaluate(
        "() => [...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert visit.page.locator("html").get_attribute("lang") == "en"


def contrast(page, selector: str) -> float:
    """Of an element's text with what is behind it, as WCAG 2 has it."""
    return page.locator(selector).first.evaluate(
        """(element) => {
            const canvas = document.createElement('canvas').getContext('2d');
            const light = (color) => {
                canvas.fillStyle = color;
                canvas.fillRect(0, 0, 1, 1);
                const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((x) => x / 255)
                    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            let behind = element;
            while (/rgba\\(0, 0, 0, 0\\)/.test(getComputedStyle(behind).backgroundColor)) {
                behind = behind.parentElement;
            }
            const [a, b] = [light(getComputedStyle(element).color),
                light(getComputedStyle(behind).backgroundColor)].sort();
            return (b + 0.05) / (a + 0.05);
        }"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(visit, scheme):
    visit.page.emulate_media(color_scheme=scheme)
    visit.complete(PROMPT)
    visit.show("heads")
    for selector in ("h1", "header p", "#go", "#output-text ins", "#output-status", ".chip small",
                     "#tab-next", "#tab-heads", ".grid button", "summary", "footer p"):  # fmt: skip
        assert contrast(visit.page, selector) >= 4.5, selector
    background = visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    visit.screenshot(scheme)
    visit.page.emulate_media(color_scheme="light")


def test_phone(visit):
    """Nothing is wider than the page, and a finger finds what can be pressed."""
    page = visit.page
    page.set_viewport_size({"width": 360, "height": 740})
    visit.complete(PROMPT)
    for tab in ("next", "attention", "lens", "surprisal", "heads", "sql"):
        visit.show(tab)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360, tab
        visit.screenshot(f"phone-{tab}")
    for button in page.locator("#go, [role=tab], .examples button, #share").all():
        assert button.bounding_box()["height"] >= 24
    page.set_viewport_size({"width": 1100, "height": 900})


# ---- Where it cannot be


def refused(chromium, address: str, script: str) -> str:
    visiting = Visit(chromium, address)
    visiting.page.add_init_script(script)
    visiting.page.goto(address)
    error = visiting.page.locator("#loading .error")
    expect(error).to_be_visible(timeout=CALL)
    expect(visiting.page.locator("#go")).to_be_disabled()
    text = error.inner_text()
    visiting.context.close()
    return text


def test_without_webassembly(chromium, address):
    assert "runs PostgreSQL as WebAssembly" in refused(chromium, address, "delete self.WebAssembly")


def test_without_memory(chromium, address):
    script = "WebAssembly.Memory = function () { throw new RangeError('out of memory') }"
    assert "needs 512 MB of memory" in refused(chromium, address, script)


def test_old_browser(chromium, address):
    assert "too old" in refused(chromium, address, "delete self.DecompressionStream")


def test_a_file_is_missing(chromium, address):
    visiting = Visit(chromium, address)
    visiting.context.route("**/gpt2-sql-*", lambda route: route.fulfill(status=404))
    visiting.page.goto(address)
    error = visiting.page.locator("#loading .error")
    expect(error).to_contain_text("could not be loaded: HTTP 404", timeout=START)
    visiting.context.close()


def test_progress(chromium, address):
    """In bytes, while they come."""
    visiting = Visit(chromium, address)
    held: list = []
    visiting.context.route("**/matrix_page-*", lambda route: held.append(route))
    visiting.page.goto(address)
    bar = visiting.page.locator("#loading-bar")
    expect(visiting.page.locator("#loading-step")).to_have_text("Loading the model", timeout=START)
    value, most = float(bar.get_attribute("value")), float(bar.get_attribute("max"))
    assert 5e6 < value < most < 25e6
    assert re.fullmatch(r"\d+\.\d of \d+\.\d MB", visiting.page.inner_text("#loading-bytes"))
    visiting.screenshot("loading")
    # asked for meanwhile, it comes when it can
    visiting.page.click("#go")
    held[0].continue_()
    expect(visiting.page.locator("#output-tokens li").first).to_be_attached(timeout=START)
    visiting.context.close()


# ---- Last: of all that the page did


def test_nothing_is_sent_anywhere(visit):
    """The page's files are fetched from where the page is, and nothing else is asked of anybody."""
    assert len(visit.requests) > 10
    for request in visit.requests:
        url = urlsplit(request.url)
        if url.scheme in ("blob", "data"):
            continue
        assert f"{url.scheme}://{url.netloc}/" == visit.address, request.url
        assert (request.method, request.post_data, url.query) == ("GET", None, ""), request.url
        assert (SITE / (url.path.lstrip("/") or "index.html")).is_file(), request.url


def test_nothing_went_wrong_unseen(visit):
    assert visit.complaints == []


def test_policy(visit):
    """The browser itself would refuse it."""
    refused = visit.page.evaluate(
        "() => fetch('http://127.0.0.2:9/').then(() => 'sent', (error) => String(error))"
    )
    assert refused != "sent"
    expect(visit.page.locator("meta[http-equiv=Content-Security-Policy]")).to_be_attached()
    visit.complaints.clear()
