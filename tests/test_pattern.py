"""Completions that match a pattern, against the `regex` package, which has partial matches.

Both have the same idea of the expressions here, but for the locale's letters and digits.
"""

from __future__ import annotations

import random
import re
from functools import cache

import psycopg
import pytest
import regex
from conftest import DEMO, has_icu, load_model
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import errors

#: (PostgreSQL's, regex's, characters it matches, characters it does not)
CHARACTERS = [
    ("a", "a", "a", "b"),
    ("b", "b", "b", "a"),
    ("c", "c", "c", "a"),
    ("-", "-", "-", "a"),
    ("é", "é", "é", "e"),
    ("日", "日", "日", "本"),
    (r"\.", r"\.", ".", "a"),
    (".", ".", "a\n日", ""),
    (r"\(", r"\(", "(", "a"),
    ("{", r"\{", "{", "a"),
    ("]", r"\]", "]", "a"),
    (r"\\", r"\\", "\\", "a"),
    ("[ab]", "[ab]", "ab", "c"),
    ("[^a]", "[^a]", "b\né", "a"),
    ("[]a]", r"[\]a]", "]a", "b"),
    ("[^]a]", r"[^\]a]", "b1", "]a"),
    (r"[a\]b]", r"[a\]b]", "a]b", "c"),
    ("[a-]", r"[a\-]", "a-", "b"),
    ("[[:digit:]b]", "[0-9b]", "1b", "a"),
    ("[[.-.]a]", r"[\-a]", "-a", "b"),
    ("[[=a=]1]", "[a1]", "a1", "b"),
    ("[[.].]]", r"[\]]", "]", "a"),
    ("[(|)]", r"[(|)]", "(|)", "a"),
    (r"[\w-]", r"[\w\-]", "ab-é", " "),
    (r"\w", r"\w", "aé1_", "- "),
    (r"\W", r"\W", "- ", "a"),
    (r"\s", r"\s", " \t", "a"),
    (r"(?:\x61)", "a", "a", "b"),
    (r"\u00e9", "é", "é", "e"),
    (r"\U0001F600", "😀", "😀", "😁"),
    ("[😀-😂]", "[😀-😂]", "😀😁", "a😃"),
    (r"\061", "1", "1", "a"),
    (r"\t", r"\t", "\t", "t"),
    (r"\cA", "\x01", "\x01", "A"),
    (r"\B", r"\\", "\\", "B"),
    (r"[\c]a]", r"[\x1da]", "\x1da", "]"),
    ("[[]", r"[\[]", "[", "a"),
    (r"[^\n]", r"[^\n]", "aé", "\n"),
    ("[+*?{|]", "[+*?{|]", "+*", "a"),
]
QUANTIFIERS = [
    ("*", 0, 3),
    ("+", 1, 3),
    ("?", 0, 1),
    ("*?", 0, 3),
    ("+?", 1, 3),
    ("??", 0, 1),
    ("{0}", 0, 0),
    ("{1}", 1, 1),
    ("{2}", 2, 2),
    ("{3}?", 3, 3),
    ("{0,}", 0, 3),
    ("{1,}", 1, 3),
    ("{2,}", 2, 4),
    ("{0,0}", 0, 0),
    ("{0,1}", 0, 1),
    ("{0,2}", 0, 2),
    ("{1,1}", 1, 1),
    ("{1,3}", 1, 3),
    ("{2,4}?", 2, 4),
    ("(?#x)*", 0, 2),
    ("(?#x){2,3}", 2, 3),
]
character = st.sampled_from(CHARACTERS).map(lambda c: ("character", c))


def extended(inner):
    repeatable = (
        character
        | inner.map(lambda e: ("group", "(?:", e))
        | inner.map(lambda e: ("group", "(", e))
    )
    return (
        st.lists(inner, max_size=4).map(lambda es: ("sequence", es))
        | st.lists(inner, min_size=1, max_size=3).map(lambda es: ("group", "(", ("either", es)))
        | repeatable
        | st.tuples(repeatable, st.sampled_from(QUANTIFIERS)).map(lambda p: ("repeat", *p))
        | repeatable.map(lambda e: ("comment", e))
    )


EXPRESSIONS = st.recursive(character, extended, max_leaves=8)


def greedy(quantifier: str) -> str:
    return quantifier[0] + quantifier[1:].removesuffix("?")


def written(e, for_server: bool) -> str:
    """The expression as text, for PostgreSQL or for the `regex` package."""
    match e:
        case ("character", forms):
            return forms[0 if for_server else 1]
        case ("sequence", es):
            return "".join(written(x, for_server) for x in es)
        case ("either", es):
            # The package is wrong where two excluding sets are alternatives, unless each is a
            # group of its own: its [^a]|[^b] matches neither a nor b.
            return "|".join(
                written(x, for_server) if for_server else f"({written(x, for_server)})" for x in es
            )
        case ("group", opening, inner):
            return f"{opening}{written(inner, for_server)})"
        case ("repeat", inner, (quantifier, _, _)):
            # The package's partial matches are wrong for lazy quantifiers: it says that "ab" begins
            # a match of a*?a. What matches as a whole is the same for greedy ones.
            return written(inner, for_server) + (
                quantifier if for_server else greedy(quantifier.removeprefix("(?#x)"))
            )
        case ("comment", inner):
            return (
                f"(?#n(1){written(inner, for_server)}" if for_server else written(inner, for_server)
            )
    raise AssertionError(e)


def matching(e, rng: random.Random) -> str:
    """Some text that the expression matches."""
    match e:
        case ("character", forms):
            return rng.choice(forms[2])
        case ("sequence", es):
            return "".join(matching(x, rng) for x in es)
        case ("either", es):
            return matching(rng.choice(es), rng)
        case ("group", _, inner) | ("comment", inner):
            return matching(inner, rng)
        case ("repeat", inner, (_, least, most)):
            return "".join(matching(inner, rng) for _ in range(rng.randint(least, most)))
    raise AssertionError(e)


def texts(e, rng: random.Random) -> list[str]:
    """Matches, beginnings of them, and both with a character changed, added or left out."""
    found = {""}
    others = "".join(matches + others for _, _, matches, others in CHARACTERS)
    for _ in range(6):
        text = matching(e, rng)[:40]
        found |= {text, text[: rng.randint(0, len(text))]}
        i = rng.randint(0, len(text))
        found.add(text[:i] + rng.choice(others) + text[i + rng.randint(0, 1) :])
        found.add(text + rng.choice(others))
        found.add(text[:i] + text[i + 1 :])
    return sorted(found)


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(EXPRESSIONS, min_size=1, max_size=3).map(lambda es: ("either", es)),
    st.integers(0, 2**32),
)
def test_beginnings(conn, e, seed):
    """A text begins a match, and is one, where the `regex` package says so."""
    pattern, reference = written(e, True), regex.compile(written(e, False), regex.DOTALL)
    rows = conn.execute(
        """SELECT t.text, t.text ~ p.prefix, t.text ~ p.whole, t.text ~ ('^(?:' || %(p)s || ')$')
           FROM gpt2._prefix_pattern(%(p)s) AS p CROSS JOIN unnest(%(t)s::text[]) AS t (text)""",
        {"p": pattern, "t": texts(e, random.Random(seed))},
    ).fetchall()
    for text, begins, whole, server in rows:
        try:
            expected = (
                reference.fullmatch(text, partial=True, timeout=2) is not None,
                reference.fullmatch(text, timeout=2) is not None,
            )
        except TimeoutError:
            continue
        if (begins, whole, server) != (*expected, expected[1]):
            # where Python's own engine differs from the package, the package proves nothing
            assume((re.fullmatch(reference.pattern, text, re.DOTALL) is not None) == expected[1])
        assert (begins, whole, server) == (*expected, expected[1]), (pattern, text)


# ---- Tokens

#: pattern, and completions so far: some end inside a character
STEPS = [
    (r"[0-9]{4}-[0-9]{2}-[0-9]{2}", [b"", b"20", b"2001-1", b"2001-10-10", b"x"]),
    (
        ".*",
        [b"", b"any", "é".encode()[:1], "日".encode()[:2], "😀".encode()[:1], "😀".encode()[:3]],
    ),
    ("[A-Za-z ]+", [b"", b"The server"]),
    ("é+", [b"", "é".encode(), b"\xc3", "éé".encode()[:3], b"\xc2"]),
    ("[а-я]{3}", [b"", "пр".encode(), "пр".encode() + b"\xd0", "про".encode(), b"\xd1"]),
    ("[😀-😅]{1,2}!", [b"", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", "😀".encode(), "😀😅".encode()]),
    ("[^a-z]+", [b"", b"1", b"\xe2", b"\xe2\x80", b"\xf4", b"\xed", b"\xe0"]),
    ("(Hello|Help|你好|ни хао)[.!]*", [b"", b"Hel", b"Help", b"\xe4", b"\xe4\xbd", "你".encode()]),
    (
        "a|[\ud700-\ud7ff\ue000-\ue0ff]|[\U00020010-\U00020020\U0010fffe]b",
        [
            b"",
            b"\xed",
            b"\xed\x9f",
            b"\xee",
            b"\xf0",
            b"\xf0\xa0",
            b"\xf0\xa0\x80",
            b"\xf4\x8f\xbf",
        ],
    ),
    ("x", [b"", b"x"]),
    ("", [b""]),
    (r'\{"name": "[^"]*", "age": [0-9]+\}', [b"", b'{"name": "Zo', b'{"name": "Zo", "a']),
    ("(?i)р+", [b"", b"\xd0", b"\xd1"]),  # its letter cases begin with different bytes
    # no s, no k: the `regex` package takes U+017F and U+212A for them
    ("(?i)hello|[a-e]+é", [b"", b"heL", b"aB", b"b\xc3", b"\xe9"]),
]
LEADS = {2: 0xC0, 3: 0xE0, 4: 0xF0}


def split(data: bytes) -> tuple[str, bytes] | None:
    """The text, and what is left of a last character; None where no text begins so."""
    for n in range(4):
        tail = data[len(data) - n :]
        try:
            text = data[: len(data) - n].decode()
        except UnicodeDecodeError:
            continue
        return (text, tail) if "\0" not in text and (not tail or beginning(tail)) else None
    return None


@cache
def beginning(tail: bytes) -> str:
    """All characters whose UTF-8 begins so, but is longer."""
    if tail[0] < 0xC0:
        return ""
    size = 2 if tail[0] < 0xE0 else 3 if tail[0] < 0xF0 else 4
    bits = tail[0] - LEADS[size]
    for byte in tail[1:]:
        bits = bits << 6 | byte & 0x3F
    missing = size - len(tail)
    if missing < 1:
        return ""
    found = (
        chr(c)
        for c in range(bits << 6 * missing, (bits + 1) << 6 * missing)
        if c < 0x110000 and not 0xD800 <= c < 0xE000
    )
    return "".join(c for c in found if c.encode().startswith(tail))


def allowed(pattern: str, so_far: bytes, tokens: dict[int, bytes]) -> list[int]:
    """Token ids by trying each, and each character that a token could be the beginning of."""
    reference = regex.compile(pattern, regex.DOTALL)
    near = {chr(ord(c) + i) for c in pattern for i in (-1, 0, 1) if "\U00010000" < c < "\U0010ffff"}

    @cache
    def begins(text: str, tail: bytes) -> bool:
        if not tail:
            return reference.fullmatch(text, partial=True) is not None
        candidates = beginning(tail)
        if len(candidates) > 5000:
            # each 16th, and those near a character that the pattern names
            candidates = "".join(near & set(candidates)) + candidates[::16]
        return begins(text, b"") and any(
            reference.fullmatch(text + c, partial=True) for c in candidates
        )

    found = []
    for token, data in tokens.items():
        parts = split(so_far + data)
        if parts is not None and begins(*parts):
            found.append(token)
    return sorted(found)


TOKENS = """
    SELECT t.token, t.bytes FROM gpt2.token AS t JOIN gpt2.model AS m USING (tokenizer)
    WHERE m.name = 'demo' AND t.token < m.n_token AND t.token <> ALL (m.eos_tokens)"""
PATTERN_TOKENS = """
    WITH prepared AS MATERIALIZED (
        SELECT m.m, gpt2._pattern(%s, m.m) AS p
        FROM (SELECT c AS m FROM gpt2._chosen_model('demo'::text) AS c OFFSET 0) AS m
    )
    SELECT b.bytes, coalesce(t.tokens, '{}'), s.is_complete, s.goes_on
    FROM prepared AS p
    CROSS JOIN unnest(%s::bytea[]) AS b (bytes)
    CROSS JOIN LATERAL gpt2._pattern_tokens(b.bytes, p.p, p.m) AS t (tokens)
    CROSS JOIN LATERAL gpt2._pattern_state(b.bytes, p.p) AS s"""


@pytest.mark.parametrize(("pattern", "completions"), STEPS, ids=[p for p, _ in STEPS])
def test_tokens(demo, pattern, completions):
    """The tokens after which a match is possible, and whether there is one."""
    tokens = dict(demo.execute(TOKENS).fetchall())
    assert len(tokens) == 8191
    rows = demo.execute(PATTERN_TOKENS, [pattern, completions]).fetchall()
    assert [row[0] for row in rows] == completions
    for so_far, ids, is_complete, goes_on in rows:
        expected = allowed(pattern, so_far, tokens)
        assert sorted(ids) == expected, so_far
        assert goes_on == bool(expected), so_far
        text, tail = split(so_far)
        assert is_complete == (
            not tail and regex.fullmatch(pattern, text, regex.DOTALL) is not None
        ), so_far


@pytest.mark.parametrize(
    ("pattern", "at_most"),
    [(".*", 50), ("[A-Za-z ]+", 50), (r"[0-9]{4}-[0-9]{2}", 60), ("[A-Z][a-z ]+[.]", 250)],
)
def test_kinds_are_few(demo, pattern, at_most):
    """A step tries a text for each kind of token: 8,191 tokens would take it as many."""
    ((n,),) = demo.execute(
        """SELECT sum(cardinality(s.kinds))
           FROM (SELECT gpt2._pattern(%s, m) AS p FROM gpt2._chosen_model('demo') AS m OFFSET 0) AS p
           CROSS JOIN unnest((p.p).starts) AS s""",
        [pattern],
    ).fetchall()
    assert 0 < n <= at_most


LOCALES = {
    "C.UTF-8": "LOCALE 'C.UTF-8'",
    "C": "LOCALE 'C'",
    "ICU": "LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'",
}


@pytest.fixture(scope="module", params=LOCALES)
def in_locale(request, cluster, new_database):
    """A connection to a database of another locale, with the tests' model."""
    with psycopg.connect(cluster) as connection:
        if request.param == "ICU" and not has_icu(connection):
            pytest.skip("no database of this server can have an ICU locale")
    uri = new_database(LOCALES[request.param])
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2 CASCADE")
        load_model(uri, DEMO, "demo")
        yield connection


@pytest.mark.parametrize(
    ("pattern", "so_far"),
    [
        (r"\w+", b""),
        (r"\d{2}", b""),
        (r"[[:upper:]]\S*", b""),
        (r"[[:space:]]+", b""),
        (r"\w+", b"\xf0\x9d"),
        (r"\d{2}", b"\xf0"),
        (r"[^[:alpha:]]*", b"\xf0"),
        (r"\W", b"\xf3"),
        ("[^[:print:]]", b"\xf3"),
        ("[[:print:]]", b"\xf3"),
        ("[^[:print:]]", b"\xf4"),
        ("(?i)É[α-ω]{3}", b"\xc3"),
    ],
)
def test_locale(in_locale, pattern, so_far):
    """What letters and digits are is the database's affair: each token, and each character that it
    could be the beginning of, against the server's own test."""
    tokens = dict(in_locale.execute(TOKENS).fetchall())
    parts = {token: split(so_far + data) for token, data in tokens.items()}
    begins = {
        (text, ""): begins
        for text, begins in in_locale.execute(
            """SELECT t.text, t.text ~ p.prefix
           FROM gpt2._prefix_pattern(%s) AS p, unnest(%s::text[]) AS t (text)""",
            [pattern, list({p[0] for p in parts.values() if p})],
        )
    }
    for text, tail in {p for p in parts.values() if p and p[1]}:
        begins[text, tail] = (
            begins[text, ""]
            and in_locale.execute(
                """SELECT EXISTS (
                   SELECT FROM gpt2._prefix_pattern(%s) AS p, string_to_table(%s, NULL) AS c (c)
                   WHERE %s || c.c ~ p.prefix)""",
                [pattern, beginning(tail), text],
            ).fetchone()[0]
        )
    ((_, ids, _, _),) = in_locale.execute(PATTERN_TOKENS, [pattern, [so_far]]).fetchall()
    assert sorted(ids) == sorted(
        token for token, p in parts.items() if p and begins[p[0], p[1] or ""]
    )


# ---- Errors


@pytest.mark.parametrize(
    ("pattern", "message", "detail", "hint"),
    [
        (
            r"(a|b)\1",
            "a back reference",
            r"Character 6 of the pattern begins \1.",
            r"Write what may be there, as in (?:aa|bb) for (a|b)\1; a character by its number is \x and "
            "hexadecimal digits.",
        ),
        (
            r"a(?=b)",
            "a lookahead",
            "Character 2 of the pattern begins (?=.",
            "Write what may be there, as in [^b] for (?!b).",
        ),
        (
            r"a(?!b)",
            "a lookahead",
            "Character 2 of the pattern begins (?!.",
            "Write what may be there, as in [^b] for (?!b).",
        ),
        (
            r"(?<=a)b",
            "a lookbehind",
            "Character 1 of the pattern begins (?<=.",
            "Write what may be there, as in [^b] for (?!b).",
        ),
        (
            r"a(?<!a)b",
            "a lookbehind",
            "Character 2 of the pattern begins (?<!.",
            "Write what may be there, as in [^b] for (?!b).",
        ),
        *[
            (
                f"[]$^]b{c}a",
                "a constraint",
                f"Character 7 of the pattern begins {c}.",
                "Leave it out: the whole completion must match the pattern.",
            )
            for c in (r"\y", r"\Y", r"\m", r"\M", r"\A", r"\Z", "^", "$")
        ],
        (
            "a|^b",
            "a constraint",
            "Character 3 of the pattern begins ^.",
            "Leave it out: the whole completion must match the pattern.",
        ),
        (
            "a[[:<:]]b",
            "a constraint",
            "Character 2 of the pattern begins [[:<:]].",
            "Leave it out: the whole completion must match the pattern.",
        ),
        (
            "a[[:>:]]",
            "a constraint",
            "Character 2 of the pattern begins [[:>:]].",
            "Leave it out: the whole completion must match the pattern.",
        ),
        (
            "***=a+",
            "a director",
            "Character 1 of the pattern begins ***=.",
            "Write an advanced regular expression, without a director.",
        ),
        (
            "***:a+",
            "a director",
            "Character 1 of the pattern begins ***:.",
            "Write an advanced regular expression, without a director.",
        ),
        (
            "(?x)a b",
            "such options",
            "Character 1 of the pattern begins (?x).",
            "Only (?i), for any letter case, may begin a pattern.",
        ),
        (
            "(?iq)a b",
            "such options",
            "Character 1 of the pattern begins (?iq).",
            "Only (?i), for any letter case, may begin a pattern.",
        ),
    ],
)
def test_not_supported(conn, pattern, message, detail, hint):
    with pytest.raises(errors.FeatureNotSupported) as error:
        conn.execute("SELECT * FROM gpt2._prefix_pattern(%s)", [pattern])
    assert error.value.sqlstate == "0A000"
    assert error.value.diag.message_primary == f"a pattern with {message} is not supported"
    assert error.value.diag.message_detail == detail
    assert error.value.diag.message_hint == hint


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "a)(b",
        "[",
        "[]",
        "[^]",
        "a{2,1}",
        "a{1",
        "a{256}",
        "*",
        "a**",
        "(?#",
        r"a\1",
        "[[:foo:]]",
        "\\",
        r"\q",
        "(?z)a",
        "***x",
        "[z-a]",
        "(?i",
        "a(?i)",
        "(?",
        r"(a)\2",
        "(?=a",
        "^*",
        "a(?#",
    ],
)
def test_invalid(conn, pattern):
    """The server says what is wrong, as it says it of the same text anywhere."""
    whole = "^(?:" + pattern + ")$"
    with pytest.raises(errors.InvalidRegularExpression) as expected:
        conn.execute("SELECT '' ~ %(p)s, '' ~ ('^(?:' || %(p)s || ')$')", {"p": pattern})
    with pytest.raises(errors.InvalidRegularExpression) as error:
        conn.execute("SELECT * FROM gpt2._prefix_pattern(%s)", [pattern])
    assert error.value.sqlstate == "2201B"
    assert str(error.value).splitlines()[0] == str(expected.value).splitlines()[0], whole


@pytest.mark.parametrize(
    ("pattern", "same"),
    [("^ab$", "ab"), ("^a|b$", "a|b"), ("(?i)^ab$", "(?i)ab"), ("(?s)ab", "ab"), ("(?c)ab", "ab")],
)
def test_anchors(conn, pattern, same):
    """The whole completion must match anyway."""
    rows = conn.execute(
        """SELECT ARRAY[t.text ~ a.prefix, t.text ~ a.whole],
                  ARRAY[t.text ~ b.prefix, t.text ~ b.whole]
           FROM gpt2._prefix_pattern(%s) AS a, gpt2._prefix_pattern(%s) AS b,
                unnest('{"",a,b,A,B,ab,aB,AB,abc,ba}'::text[]) AS t (text)""",
        [pattern, same],
    ).fetchall()
    assert len(rows) == 10 and all(a == b for a, b in rows)


def test_null(conn):
    assert conn.execute("SELECT count(*) FROM gpt2._prefix_pattern(NULL)").fetchone() == (0,)


def test_joined_lexemes(conn):
    """Where a comment or parenthesis falls away, no digit becomes a part of what is before."""
    for pattern, text in (
        (r"\x4(?#)1", "\x041"),
        (r"\x4(?:1)*", "\x0411"),
        (r"\0(?#)61?", None),
        (r"a{(?#)2}", "a{2}"),
        (r"{(?:1)?}", "{1}"),
        (r"(\x4(?#)1){2}b", "\x041\x041b"),
        (r"(a{(?#)2})+b", "a{2}a{2}b"),
    ):
        row = conn.execute(
            """SELECT %(t)s ~ whole, %(t)s ~ prefix, left(%(t)s, 2) ~ prefix, 'A' ~ prefix
               FROM gpt2._prefix_pattern(%(p)s)""",
            {"p": pattern, "t": text},
        ).fetchone()
        assert row == ((True, True, True, False) if text else (None, None, None, False)), pattern


def test_collation(conn):
    """That of the database, whatever the argument's."""
    for collation in ('"C"', '"default"', '"POSIX"'):
        assert (
            conn.execute(
                f"SELECT 'é' ~ prefix FROM gpt2._prefix_pattern('\\w' COLLATE {collation})"
            ).fetchone()
            == conn.execute("SELECT 'é' ~ '\\w'").fetchone()
        )
