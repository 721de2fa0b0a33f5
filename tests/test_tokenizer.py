"""The tokenizer in SQL against the `tokenizers` package: the same tokens for every text.

Many texts go to the server in one query, since a round trip costs more than a short text.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import sys
from pathlib import Path

import psycopg
import pytest
from conftest import DEMO, PROPERTY, ROOT, cases, examples, has_icu, one
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.errors import FeatureNotSupported, InvalidParameterValue
from tokenizers import ByteLevelBPETokenizer
from tokenizers.pre_tokenizers import ByteLevel

N_TOKEN = 50257
MERGES = [
    tuple(line.split(" "))
    for line in (ROOT / "sql/install/vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
]

# Where pre-tokenizers and byte-level encoders go wrong.
PIECES = """
    's 't 're 've 'm 'll 'd 'S 'T 'RE 'VE 'M 'LL 'D ' '' ’s 'x 'r 'l 'v 'sup don't WE'LL
    a Ab hello World Mississippilessly PostgreSQL SELECT 1 23 456 3.14 1e-5 0x7f
    . ... ! ?! -- — – $ € £ % @ # _ __init__ <|endoftext|> <| |> \\ \\n " “” () {} [[ ;; ``` == === ://
    é ñ ß ſ ı İ ŉ Ⅷ ⅷ ½ ² ٢ ४ 一 二 万 〇 𝟘 𝒳 e\u0301 \u0301 a\u0308\u0323 \u0e33 \u0e49 क्षि
    שלום مرحبا \u200f \u202e 你好 한국어 \u1112\u1161\u11ab にほん ไทย Ελλάδα Ж
    😀 👨\u200d👩\u200d👧 🇩🇪 👍🏽 ❤\ufe0f \u20e3 \ufffd \uffff \U0010ffff \U000e0001 \U000e0100 \ue000
    \u200b \u200d \u2060 \ufeff \u180e \xad \x01 \x1b \x7f \x80 \x9f
    aaaaaaaa aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ======= 0000000 !!!!!!!!!!!!!!!!!
""".split()
SPACES = [
    " ",
    " ",
    " ",
    "  ",
    "   ",
    " " * 17,
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\v",
    "\f",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x1f",
    "\x85",
    "\xa0",
    "\u1680",
    "\u2003",
    "\u2028",
    "\u2029",
    "\u202f",
    "\u205f",
    "\u3000",
]
RANGES = [
    (1, 0x80),
    (0x80, 0x300),
    (0x300, 0xD800),
    (0xE000, 0x10000),
    (0x10000, 0x20000),
    (0x20000, 0x110000),
]


def adversarial(rng: random.Random) -> str:
    def piece() -> str:
        kind = rng.random()
        if kind < 0.45:
            return rng.choice(PIECES)
        if kind < 0.8:
            return rng.choice(SPACES)
        return chr(rng.randrange(*rng.choice(RANGES)))

    return "".join(piece() for _ in range(rng.randrange(1, 24)))


def tokenize(conn, texts: list[str], model: str | None = None) -> list[tuple[list[int], str]]:
    """Tokens of each text, and the text of these tokens."""
    return conn.execute(
        """SELECT t.tokens, gpt2_detokenize(t.tokens, %(model)s)
           FROM unnest(%(texts)s::text[]) WITH ORDINALITY AS s (text, n)
           CROSS JOIN LATERAL (SELECT gpt2_tokenize(s.text, %(model)s) AS tokens OFFSET 0) AS t
           ORDER BY s.n""",
        {"texts": texts, "model": model},
    ).fetchall()


def check(conn, reference, texts: list[str], model: str | None = None) -> None:
    expected = [encoding.ids for encoding in reference.encode_batch(texts)]
    different = [
        (text, tokens, ids, again)
        for text, ids, (tokens, again) in zip(
            texts, expected, tokenize(conn, texts, model), strict=True
        )
        if tokens != ids or again != text
    ]
    assert different == []


def reference_of(n_token: int, eos_token: int) -> ByteLevelBPETokenizer:
    """The tokenizer of a vocabulary that is the first n_token tokens of GPT-2's."""
    merges = MERGES[: n_token - 256]
    tokens = sorted(ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)} | {"<|endoftext|>": eos_token}
    return ByteLevelBPETokenizer(vocabulary, merges)


# ---- Tokens of every text


def test_adversarial_strings(conn, reference):
    rng = random.Random(0)
    check(conn, reference, [adversarial(rng) for _ in range(examples(8000))])


@settings(PROPERTY, max_examples=20)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        min_size=10,
        max_size=50,
    )
)
def test_any_text(dsn, reference, texts):
    with psycopg.connect(dsn, autocommit=True) as connection:
        check(connection, reference, texts)


@pytest.mark.parametrize(
    "last", cases([0x3FFFF, sys.maxunicode], [0x3FFFF]), ids=["assigned", "all"]
)
def test_every_code_point_is_split(conn, last):
    """Letter, number, space or other: of the four, each makes other words of this text. What lies
    above U+3FFFF has no characters but tags, variation selectors and private use."""
    split = ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    points = [chr(c) for c in range(1, last + 1) if not 0xD800 <= c < 0xE000]
    texts = [
        "".join(f"a{c}1{c}!\n" for c in points[i : i + 20_000])
        for i in range(0, len(points), 20_000)
    ]
    rows = conn.execute(
        """SELECT ARRAY(SELECT length(w.match[1])
                        FROM regexp_matches(text COLLATE "C", gpt2._split_pattern(), 'g')
                            WITH ORDINALITY AS w (match, n) ORDER BY w.n)
           FROM unnest(%s::text[]) WITH ORDINALITY AS u (text, i) ORDER BY u.i""",
        (texts,),
    ).fetchall()
    for text, (lengths,) in zip(texts, rows, strict=True):
        assert lengths == [last - first for _, (first, last) in split(text)]


@pytest.mark.parametrize("form", ["{}\n", " {}{}'s", "\n{} {}\t"])
def test_code_points(conn, reference, form):
    points = [*range(1, 0x3200), *range(0x3200, 0xD800, 97), *range(0xE000, 0x110000, 977)]
    texts = [
        "".join(form.replace("{}", chr(c)) for c in points[i : i + 1000])
        for i in range(0, len(points), 1000)
    ]
    check(conn, reference, texts)


def test_real_text(conn, reference):
    files = [
        ROOT / "sql/install/vocab.bpe",
        DEMO / "README.md",
        ROOT / "LICENSE",
        *sorted(ROOT.glob("*.md")),
        *sorted(ROOT.glob("sql/**/*.sql")),
        Path(random.__file__),
    ]
    check(conn, reference, [path.read_text(encoding="utf-8") for path in files])


def test_megabyte_of_english(conn, reference):
    text = "\n".join(pydoc_data.topics.topics.values())
    text = (text * (1_000_000 // len(text) + 1))[:1_000_000]
    check(conn, reference, [text])


def test_many_words_that_are_no_token(conn, reference):
    """30,000 distinct words of many scripts: their rules must be hashed once, not at every step.

    That takes half a second; hashing each word's pairs instead would take some minutes.
    """
    rng = random.Random(8)
    letters = [
        range(0x61, 0x7B),
        range(0x430, 0x450),
        range(0x3B1, 0x3CA),
        range(0x4E00, 0x9000),
        range(0xAC00, 0xD7A3),
        range(0x621, 0x63B),
        range(0x905, 0x93A),
        range(0x1F600, 0x1F64F),
        range(0x30, 0x3A),
    ]
    words = [
        "".join(map(chr, rng.choices(rng.choice(letters), k=rng.randint(3, 9))))
        for _ in range(30_000)
    ]
    conn.execute("SET statement_timeout = '60s'")
    check(conn, reference, [" ".join(words)])
    # the same words a few at a time, which takes the rules one by one from the index
    check(conn, reference, [" ".join(words[i : i + 50]) for i in range(0, 3000, 50)])


@pytest.mark.parametrize(
    "unit, size",
    [
        ("a", 1_000_000),
        (" ", 100_000),
        ("\n", 100_000),
        ("!", 100_000),
        ("0", 100_000),
        ("\x85", 100_000),
        ("漢", 100_000),
        ("😀", 100_000),
        (" a", 100_000),
        ("ab", 100_000),
    ],
)
def test_long_runs(conn, reference, unit, size):
    check(conn, reference, [unit * (size // len(unit))])


def test_long_word(conn, reference):
    check(conn, reference, ["".join(random.Random(0).choices("etaoinshrdlu", k=3000))])


@pytest.mark.parametrize("step", cases([10, 1], [10]), ids=["a tenth", "all"])
def test_every_token(conn, reference, step):
    """A token's own text gives what it gives there: this proves gpt2.token.mergeable."""
    rows = conn.execute(
        """SELECT token, bytes, gpt2_detokenize(ARRAY[token]) AS text FROM gpt2.token
           WHERE tokenizer = 1 AND token %% %s = 0 ORDER BY token""",
        (step,),
    ).fetchall()
    assert [token for token, _, _ in rows] == list(range(0, N_TOKEN, step))
    texts = []
    for token, value, text in rows:
        assert text == value.decode("utf-8", "replace").replace("\0", "\ufffd"), token
        if b"\0" not in value and "\ufffd" not in text:
            texts.append(text)
    assert len(texts) > 49_000 // step
    # an end of line parts them, but for white space, which runs into it
    words = [text for text in texts if text.strip()]
    check(
        conn,
        reference,
        [text for text in texts if not text.strip()]
        + ["\n".join(words[i : i + 1000]) for i in range(0, len(words), 1000)],
    )


def test_every_token_is_itself(conn):
    """Each of GPT-2's tokens but <|endoftext|> is what its bytes are merged to."""
    assert conn.execute(
        """SELECT count(*), count(DISTINCT bytes), array_agg(token) FILTER (WHERE NOT mergeable)
           FROM gpt2.token WHERE tokenizer = 1"""
    ).fetchone() == (N_TOKEN, N_TOKEN, [50256])


@pytest.mark.parametrize(
    "prompt, tokens",
    [
        ("PostgreSQL is great", [6307, 47701, 318, 1049]),
        ("Happy New Year!", [25082, 968, 6280, 0]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        ("", []),
        (None, None),
    ],
)
def test_examples(conn, prompt, tokens):
    assert conn.execute("SELECT gpt2_tokenize(%s)", (prompt,)).fetchone() == (tokens,)
    assert conn.execute("SELECT gpt2_detokenize(%s::int[])", (tokens,)).fetchone() == (prompt,)


# ---- Step by step


def test_tokens(conn):
    assert conn.execute("SELECT * FROM gpt2_tokens('PostgreSQL is ☃')").fetchall() == [
        (0, 6307, "Post"),
        (1, 47701, "greSQL"),
        (2, 318, " is"),
        (3, 34719, " \ufffd"),
        (4, 225, "\ufffd"),
    ]
    for prompt in (None, ""):
        assert conn.execute("SELECT * FROM gpt2_tokens(%s)", (prompt,)).fetchall() == []


def test_bpe(conn):
    rows = conn.execute(
        "SELECT step, token, merged, pieces FROM gpt2_bpe('Mississippilessly')"
    ).fetchall()
    merges = [row for row in rows if row[0] > 0]
    assert [row[:3] for row in merges] == [
        (i, *pair)
        for i, pair in enumerate(
            [
                (271, "is"),
                (274, "es"),
                (306, "ly"),
                (346, "il"),
                (381, "pp"),
                (408, "ess"),
                (747, "iss"),
                (3974, "ipp"),
                (17140, "Miss"),
                (30608, "iless"),
            ],
            1,
        )
    ]
    assert merges[0][3] == list("M") + ["is", "s", "is", *"sippilessly"]
    assert merges[-1][3] == ["Miss", "iss", "ipp", "iless", "ly"]
    assert conn.execute("SELECT * FROM gpt2_bpe(NULL)").fetchall() == []


def test_bpe_ends_in_the_tokens(conn):
    words = ["Mississippilessly", " hello", "aaaaaaaaaaaaaaa", "日本語"]
    assert (
        conn.execute(
            """SELECT word FROM unnest(%s::text[]) AS word
           WHERE (SELECT array_agg(piece ORDER BY position) FROM gpt2_tokens(word))
                 IS DISTINCT FROM
                 (SELECT pieces FROM gpt2_bpe(word) ORDER BY step DESC LIMIT 1)""",
            (words,),
        ).fetchall()
        == []
    )
    # a row a merge: none here
    assert conn.execute("SELECT * FROM gpt2_bpe('x')").fetchall() == []


# ---- Text of tokens


@pytest.mark.parametrize("lowest, highest", [(0, 255), (0, N_TOKEN - 1), (94, 255)])
def test_detokenize_any_list(conn, reference, lowest, highest):
    """Tokens that cut characters: what is not UTF-8 becomes U+FFFD."""
    rng = random.Random(lowest + highest)
    lists = [
        [rng.randint(lowest, highest) for _ in range(rng.randrange(1, 12))]
        for _ in range(examples(6000))
    ]
    compare_decoded(conn, reference, lists)


def test_detokenize_cut_characters(conn, reference):
    rng = random.Random(1)
    lists = []
    for _ in range(3000):
        ids = reference.encode(adversarial(rng)).ids
        first, last = sorted(rng.choices(range(len(ids) + 1), k=2))
        lists.append(ids[first:last])
    compare_decoded(conn, reference, lists)


def compare_decoded(conn, reference, lists: list[list[int]]) -> None:
    got = conn.execute(
        """SELECT gpt2_detokenize(l::int[])
           FROM unnest(%s::text[]) WITH ORDINALITY AS t (l, n) ORDER BY n""",
        (["{" + ",".join(map(str, ids)) + "}" for ids in lists],),
    ).fetchall()
    different = []
    for ids, (text,) in zip(lists, got, strict=True):
        # text cannot hold NUL
        expected = reference.decode(ids, skip_special_tokens=False).replace("\0", "\ufffd")
        if text != expected:
            different.append((ids, text, expected))
    assert different == []


def test_detokenize_endoftext(conn):
    assert conn.execute("SELECT gpt2_detokenize('{50256,15496,50256}')").fetchone() == (
        "<|endoftext|>Hello<|endoftext|>",
    )


@pytest.mark.parametrize(
    "tokens, message",
    [
        ([50257], "token 50257 is not in the vocabulary"),
        ([1, -1, 60000], "token -1 is not in the vocabulary"),
        ([2**31 - 1], "token 2147483647 is not in the vocabulary"),
        ([1, None], "token NULL is not in the vocabulary"),
    ],
)
def test_detokenize_refuses(conn, tokens, message):
    with pytest.raises(InvalidParameterValue) as error:
        conn.execute("SELECT gpt2_detokenize(%s::int[])", (tokens,))
    assert error.value.diag.message_primary == message
    assert error.value.diag.message_detail == "Tokens are 0 to 50256."


@pytest.mark.parametrize(
    "function",
    [
        "gpt2_tokenize('x', 'absent')",
        "gpt2_detokenize('{1}', 'absent')",
        "gpt2_tokens('x', 'absent')",
        "gpt2_bpe('x', 'absent')",
    ],
)
def test_unknown_model(conn, function):
    with pytest.raises(InvalidParameterValue, match='model "absent" does not exist'):
        conn.execute(f"SELECT * FROM {function}")


# ---- Other databases


@pytest.mark.parametrize(
    "options",
    [
        "ENCODING 'UTF8' LOCALE 'C'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'",
    ],
)
def test_database_collation(conn, new_database, reference, options):
    if "icu" in options and not has_icu(conn):
        pytest.skip("no database of this server can have an ICU locale")
    with psycopg.connect(new_database(options), autocommit=True) as other:
        other.execute("CREATE EXTENSION gpt2 CASCADE")
        rng = random.Random(5)
        check(other, reference, [adversarial(rng) for _ in range(examples(1500))])
        # the catalogs are the same too: the vocabulary is made by queries over text
        same = """SELECT (SELECT sha256(string_agg(t::text, ',' ORDER BY t.token)::bytea)
                          FROM gpt2.token AS t),
                         (SELECT sha256(string_agg(m::text, ',' ORDER BY m.rank)::bytea)
                          FROM gpt2.merge AS m)"""
        assert other.execute(same).fetchall() == conn.execute(same).fetchall()


@pytest.mark.parametrize("collation", ['"C"', "case_blind", '"tr-x-icu"', '"ja-x-icu"'])
def test_column_collation(conn, reference, collation):
    """The argument's collation does not decide which characters are equal, or letters."""
    if collation != '"C"' and not one(conn, "SELECT to_regcollation('\"tr-x-icu\"') IS NOT NULL"):
        pytest.skip("the server has no ICU")
    if collation == "case_blind":
        conn.execute("""CREATE COLLATION IF NOT EXISTS case_blind
                        (provider = icu, locale = 'und-u-ks-level1', deterministic = false)""")
    rng = random.Random(6)
    texts = [adversarial(rng) for _ in range(examples(500))]
    conn.execute(f"CREATE TEMPORARY TABLE texts (n int, text text COLLATE {collation})")
    conn.execute(
        """INSERT INTO texts
                    SELECT n, t FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, n)""",
        (texts,),
    )
    rows = conn.execute("""SELECT gpt2_tokenize(text), gpt2_detokenize(gpt2_tokenize(text))
                           FROM texts ORDER BY n""").fetchall()
    assert rows == [(reference.encode(text).ids, text) for text in texts]
    last = """SELECT b.pieces FROM gpt2_bpe('ﬀ Naïve İstanbul'{}) AS b
              ORDER BY b.step DESC LIMIT 1"""
    assert (
        conn.execute(last.format(f" COLLATE {collation}")).fetchone()
        == conn.execute(last.format("")).fetchone()
    )


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_other_encoding(new_database, encoding):
    uri = new_database(f"ENCODING '{encoding}' LOCALE 'C'")
    with psycopg.connect(uri, autocommit=True) as connection:
        with pytest.raises(FeatureNotSupported, match="database with encoding UTF8") as error:
            connection.execute("CREATE EXTENSION gpt2 CASCADE")
        assert encoding in error.value.diag.message_detail
        assert "ENCODING 'UTF8'" in error.value.diag.message_hint
        assert connection.execute("SELECT to_regnamespace('gpt2')").fetchone() == (None,)


def test_byte_without_token(conn):
    """No importer makes such a vocabulary; whoever edits gpt2.token can."""
    with conn.transaction(force_rollback=True):
        conn.execute("DELETE FROM gpt2.token WHERE tokenizer = 1 AND bytes = 'q'")
        assert one(conn, "SELECT gpt2_tokenize('a')") == [64]
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
            conn.execute("SELECT gpt2_tokenize('xqz')")
    assert error.value.diag.message_primary == "the text has bytes that the vocabulary lacks"


# ---- A model's vocabulary: the tests' model has the first 8,191 tokens, then <|endoftext|>


def test_truncated_vocabulary(demo):
    rng = random.Random(7)
    reference = reference_of(8191, 8191)
    texts = [adversarial(rng) for _ in range(examples(1000))]
    texts += ["PostgreSQL is great", "Mississippilessly", pydoc_data.topics.topics["if"]]
    check(demo, reference, texts)
    check(demo, reference, texts[-3:], "demo")
    tokens = [token for ids, _ in tokenize(demo, texts) for token in ids]
    assert max(tokens) < 8191


def test_truncated_vocabulary_ids(demo):
    assert demo.execute("SELECT gpt2_detokenize('{8191}')").fetchone() == ("<|endoftext|>",)
    with pytest.raises(InvalidParameterValue) as error:
        demo.execute("SELECT gpt2_detokenize('{1,8192}')")
    assert error.value.diag.message_primary == "token 8192 is not in the vocabulary"
    assert error.value.diag.message_detail == "Tokens are 0 to 8191."
    assert all(
        token < 8191
        for (token,) in demo.execute(
            "SELECT token FROM gpt2_bpe('Mississippilessly') WHERE token IS NOT NULL"
        )
    )


def test_a_new_vocabulary_is_read_a_few_times(conn):
    """Not once a token: what the planner knows of the table is from before the import."""
    rows = """SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int
              FROM pg_stat_xact_user_tables
              WHERE relid IN ('gpt2.merge'::regclass, 'gpt2.token'::regclass)"""
    with conn.transaction(force_rollback=True):
        tokenizer = one(conn, "SELECT gpt2._add_tokenizer('a new one', 3000)")
        conn.execute(
            """INSERT INTO gpt2.token SELECT %s, token, bytes, false, NULL FROM gpt2.token
               WHERE tokenizer = 1 AND token < 3000""",
            [tokenizer],
        )
        conn.execute(
            """INSERT INTO gpt2.merge SELECT %s, rank, "left", "right", token FROM gpt2.merge
               WHERE tokenizer = 1 AND token < 3000""",
            [tokenizer],
        )
        before = one(conn, rows)
        conn.execute("SELECT gpt2._finish_tokenizer(%s)", [tokenizer])
        assert one(conn, rows) - before < 20 * 50_000
        mergeable = "SELECT count(*) FROM gpt2.token WHERE tokenizer = %s AND mergeable"
        assert one(conn, mergeable, tokenizer) == 3000
