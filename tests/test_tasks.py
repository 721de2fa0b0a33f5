"""Texts scored, chosen and embedded: transformers' numbers for the same texts (fixtures by
tests/oracle/make_task_fixtures.py), and what must hold for any text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pytest
from calls import count_calls
from conftest import examples, load_model
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.checkpoints import SHAPES
from oracle.compare import TOLERANCE, assert_close
from test_behaviour import (  # noqa: F401
    LINEAR_PAGES,
    N_LINEAR,
    N_VOCAB,
    TOKEN_PAGES,
    WORDS,
    one,
    reads,
    text_of_length,
    tx,
)

FIXTURES = np.load(Path(__file__).parent / "oracle" / "tasks.npz")
#: as in make_task_fixtures.py
PROMPTS = ["", "The", "The rows of a table are"]
CHOICES = [" in", " not", "x", " the order of the table", "é 😀", " 1234567890 1234567890"]
POOLINGS = ["mean", "weighted", "max", "last"]
#: each word is a token, with any other before it
WORD_LISTS = st.lists(
    st.sampled_from([word for word in WORDS if word != ","]), min_size=1, max_size=6
)
#: whatever PostgreSQL can hold
TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)


def rows(conn: psycopg.Connection, query: str, *arguments) -> list[tuple]:
    return conn.execute(query, arguments).fetchall()


def embedding(conn: psycopg.Connection, *arguments) -> np.ndarray:
    call = ", ".join(["%s"] * len(arguments))
    return np.array(one(conn, f"SELECT gpt2_embed({call})::real[]", *arguments))


@pytest.fixture(scope="module", params=[*SHAPES, "demo"])
def model(request, demo_dsn, shapes):
    """(connection, name of a model that it has)."""
    if request.param == "demo":
        with psycopg.connect(demo_dsn, autocommit=True) as conn:
            yield conn, "demo"
    else:
        yield shapes, request.param


# ---- As transformers


def test_score(model):
    conn, name = model
    text = FIXTURES[f"{name}/text"].item()
    scores = rows(conn, "SELECT * FROM gpt2_score(%s, %s)", text, name)
    assert [row[:2] for row in scores] == list(enumerate(FIXTURES[f"{name}/tokens"].tolist()))
    assert scores[0][3:] == (None,) * 4
    logprobs, ranks, entropies, surprisals = np.array([row[3:] for row in scores[1:]]).T
    assert_close(logprobs, FIXTURES[f"{name}/logprobs"])
    assert_close(entropies * np.log(2), FIXTURES[f"{name}/entropies"])
    assert_close(surprisals * np.log(2), -FIXTURES[f"{name}/logprobs"])
    least, largest = FIXTURES[f"{name}/ranks"].T
    assert np.all((least <= ranks) & (ranks <= largest)) and np.mean(least == largest) > 0.7
    np.testing.assert_allclose(-logprobs.mean(), FIXTURES[f"{name}/loss"], rtol=TOLERANCE)


def test_perplexity(model):
    conn, name = model
    perplexity = one(
        conn, "SELECT gpt2_perplexity(%s, model => %s)", FIXTURES[f"{name}/text"].item(), name
    )
    np.testing.assert_allclose(np.log(perplexity), FIXTURES[f"{name}/loss"], rtol=TOLERANCE)


def test_perplexity_of_a_long_text(model):
    conn, name = model
    text = FIXTURES[f"{name}/long/text"].item()
    strides = FIXTURES[f"{name}/long/strides"].tolist()
    for i, stride in enumerate(strides):
        # the first is the default
        ours = [
            one(conn, "SELECT gpt2_perplexity(%s, %s::int, %s)", text, s, name)
            for s in ([stride, None] if i == 0 and name != "demo" else [stride])
        ]
        np.testing.assert_allclose(
            np.log(ours), np.log(FIXTURES[f"{name}/long/perplexities"][i]), rtol=TOLERANCE
        )


def test_choose(model):
    conn, name = model
    for n, prompt in enumerate(PROMPTS):
        expected = {
            choice: logprob
            for choice, logprob in zip(CHOICES, FIXTURES[f"{name}/choices/{n}"], strict=False)
            if not np.isnan(logprob)
        }
        chosen = rows(conn, "SELECT * FROM gpt2_choose(%s, %s, %s)", prompt, list(expected), name)
        assert sorted(row[0] for row in chosen) == sorted(expected)
        assert [row[3] for row in chosen] == list(range(1, len(expected) + 1))
        theirs = np.array([expected[row[0]] for row in chosen])
        ours, probabilities = np.array([row[1:3] for row in chosen]).T
        assert_close(ours, theirs)
        assert np.all(np.diff(ours) <= 0)
        share = np.exp(ours - ours.max())
        np.testing.assert_allclose(probabilities, share / share.sum(), rtol=1e-9)
        assert chosen[0][0] == one(
            conn, "SELECT gpt2_classify(%s, %s, %s)", prompt, list(expected), name
        )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embed(model, pooling):
    conn, name = model
    text = FIXTURES[f"{name}/text"].item()
    keys = [key for key in FIXTURES if key.startswith(f"{name}/embedded/{pooling}/")]
    assert keys
    for key in keys:
        block = key.rsplit("/", 1)[1]
        ours = embedding(conn, text, pooling, None if block == "last" else int(block), name)
        assert_close(ours, FIXTURES[key], key)


def test_similarity(model):
    """One minus the cosine distance, of what numpy computes of the embeddings."""
    conn, name = model
    a, b = FIXTURES[f"{name}/text"].item(), "The table"
    for pooling, block in (("mean", None), ("weighted", 0)):
        x, y = (embedding(conn, text, pooling, block, name).astype(float) for text in (a, b))
        ours = one(
            conn, "SELECT gpt2_similarity(%s, %s, %s, %s::int, %s)", a, b, pooling, block, name
        )
        np.testing.assert_allclose(ours, x @ y / np.linalg.norm(x) / np.linalg.norm(y), atol=1e-6)


def test_last_block(demo):
    """Its output is before ln_f; transformers shows it only after."""
    text = "PostgreSQL is an object"
    residual = one(
        demo,
        """SELECT array_agg(value::real[] ORDER BY "position") FROM gpt2_trace(%s,
                            '{blocks.5.hook_resid_post}')""",
        text,
    )
    np.testing.assert_allclose(
        embedding(demo, text, "mean", 5), np.mean(residual, 0), rtol=1e-5, atol=1e-5
    )


# ---- What must hold for any text


@given(TEXTS)
@settings(max_examples=examples(25), deadline=None)
def test_scores_of_any_text(demo_dsn, text):
    with psycopg.connect(demo_dsn, autocommit=True) as conn:
        scores = rows(conn, "SELECT * FROM gpt2_score(%s)", text)
        tokens = rows(conn, "SELECT * FROM gpt2_tokens(%s)", text)
        assert [row[:3] for row in scores] == (tokens or [(0, N_VOCAB - 1, "<|endoftext|>")])
        for _, _, _, logprob, rank, entropy, bits in scores[1:]:
            assert logprob <= 0 and 1 <= rank <= N_VOCAB and 0 <= entropy <= 13
            # this many tokens are at least as likely
            assert rank * np.exp(logprob) <= 1 + 1e-9
            assert bits == pytest.approx(-logprob / np.log(2))
        perplexity = one(conn, "SELECT gpt2_perplexity(%s)", text)
        if len(scores) < 2:
            assert perplexity is None
        else:
            assert np.log(perplexity) == pytest.approx(-np.mean([row[3] for row in scores[1:]]))


@given(st.lists(WORD_LISTS, min_size=1, max_size=4), WORD_LISTS)
@settings(max_examples=examples(12), deadline=None)
def test_choices_of_words(demo_dsn, choices, prompt):
    """log P(choice | prompt) is the sum of the scores of its tokens in prompt || choice."""
    texts = ["".join(words) for words in choices]
    with psycopg.connect(demo_dsn, autocommit=True) as conn:
        chosen = rows(conn, "SELECT * FROM gpt2_choose(%s, %s)", "".join(prompt), texts)
        assert {row[0] for row in chosen} == set(texts) and len(chosen) == len(set(texts))
        assert sum(row[2] for row in chosen) == pytest.approx(1)
        for choice, logprob, *_ in chosen:
            total = one(
                conn,
                'SELECT sum(logprob) FROM gpt2_score(%s) WHERE "position" >= %s',
                "".join(prompt) + choice,
                len(prompt),
            )
            assert logprob == pytest.approx(total, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 33])
def test_choices_at_the_end_of_a_chunk(demo, n):
    """The prompt ends anywhere in a chunk of positions; choices of 16 and 20 cross its end."""
    prompt = text_of_length(demo, n)
    choices = [text_of_length(demo, k, seed=k) for k in (1, 2, 16, 20)]
    for choice, logprob, *_ in rows(demo, "SELECT * FROM gpt2_choose(%s, %s)", prompt, choices):
        total = one(
            demo,
            'SELECT sum(logprob) FROM gpt2_score(%s) WHERE "position" >= %s',
            prompt + choice,
            n,
        )
        assert logprob == pytest.approx(total, rel=1e-5)


def test_choices_of_one_token_are_the_next_token(demo):
    expected = {row[2]: row[4] for row in rows(demo, "SELECT * FROM gpt2_next_token('The', NULL)")}
    for choice, logprob, _, _ in rows(
        demo, "SELECT * FROM gpt2_choose('The', '{\" table\",\" index\",s}')"
    ):
        assert np.exp(logprob) == pytest.approx(expected[choice], rel=1e-6)


def test_ranks_are_those_of_the_next_token(demo):
    for position, prompt in ((1, "The"), (2, "The table")):
        token, rank = rows(
            demo,
            """SELECT token, rank FROM gpt2_score('The table is')
                                    WHERE "position" = %s""",
            position,
        )[0]
        assert rank == one(
            demo, "SELECT rank FROM gpt2_next_token(%s, NULL) WHERE token = %s", prompt, token
        )


@given(TEXTS, TEXTS, st.sampled_from(POOLINGS), st.sampled_from([None, 0, 5]))
@settings(max_examples=examples(12), deadline=None)
def test_similarity_of_any_texts(demo_dsn, a, b, pooling, block):
    with psycopg.connect(demo_dsn, autocommit=True) as conn:

        def similarity(a, b):
            return one(conn, "SELECT gpt2_similarity(%s, %s, %s, %s::int)", a, b, pooling, block)

        assert similarity(a, b) == pytest.approx(similarity(b, a), abs=1e-9)
        assert -1 <= similarity(a, b) <= 1
        assert similarity(a, a) == pytest.approx(1, abs=1e-9)


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=40
    )
)
@settings(max_examples=60, deadline=None)
def test_pooling(dsn, values):
    x = np.array(values)
    weight = np.arange(1, len(x) + 1)[:, None]
    expected = {
        "mean": x.mean(0),
        "last": x[-1],
        "max": x.max(0),
        "weighted": (x * weight).sum(0) / weight.sum(),
    }
    with psycopg.connect(dsn, autocommit=True) as conn:
        for pooling in POOLINGS:
            ours = one(
                conn,
                """SELECT p.y::real[] FROM gpt2._pool(
                ARRAY(SELECT v::vector FROM unnest(%s::text[]) AS v), %s) AS p""",
                [str(v) for v in values],
                pooling,
            )
            np.testing.assert_allclose(
                ours, expected[pooling], rtol=1e-4, atol=1e-5 * max(1, np.abs(x).max())
            )


# ---- The logits of one position


# no numbers whose products underflow: logits have the precision of float32
LOGITS = st.floats(-800, 800).map(lambda x: round(x, 12))


@given(
    st.lists(
        st.one_of(LOGITS, st.sampled_from([0.0, 1.5, -1e308, -np.inf])), min_size=1, max_size=12
    ),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_log_softmax(dsn, logits, data):
    """Against numpy, with ties, and where exp() would raise an error; ids that only pad the
    vocabulary have -Infinity."""
    finite = [i for i, logit in enumerate(logits) if logit > -1e300]
    if not finite:
        return
    token = data.draw(st.sampled_from(finite))
    x = np.array(logits)
    with np.errstate(under="ignore"):
        share = np.exp(x - x.max())
    total = x.max() + np.log(share.sum())
    p = share / share.sum()
    entropy = -sum(q * np.log2(q) for q in p if q > 0)
    order = sorted(range(len(x)), key=lambda i: (-x[i], i))
    with psycopg.connect(dsn, autocommit=True) as conn:
        log_total, logprob, rank, bits = rows(
            conn, "SELECT * FROM gpt2._score(%s::float8[], %s)", x.tolist(), token
        )[0]
    assert log_total == pytest.approx(total)
    assert logprob == pytest.approx(x[token] - total, abs=1e-9)
    assert rank == 1 + order.index(token)
    assert bits == pytest.approx(entropy, abs=1e-9)


# ---- NULL and odd arguments


@pytest.mark.parametrize("text", ["", "x", " the"])
def test_too_short_for_a_perplexity(demo, text):
    assert one(demo, "SELECT gpt2_perplexity(%s)", text) is None


def test_null(demo):
    for call in (
        "gpt2_score(NULL)",
        "gpt2_choose(NULL, '{a}')",
        "gpt2_choose('a', NULL)",
        "gpt2_choose('a', '{}')",
        "gpt2_choose('a', '{NULL}')",
    ):
        assert rows(demo, f"SELECT * FROM {call}") == []
    for call in (
        "gpt2_perplexity(NULL)",
        "gpt2_classify(NULL, '{a}')",
        "gpt2_classify('a', NULL)",
        "gpt2_classify('a', '{}')",
        "gpt2_embed(NULL)",
        "gpt2_embed(NULL, 'max')",
        "gpt2_similarity(NULL, 'a')",
        "gpt2_similarity('a', NULL)",
    ):
        assert one(demo, f"SELECT {call}") is None


def test_choices_are_distinct(demo):
    """NULL and repeated elements count for nothing; an array may have more dimensions."""
    expected = rows(demo, "SELECT * FROM gpt2_choose('The', '{b,a,c}')")
    for choices in ("{b,a,c,a,NULL,b}", "{NULL,b,NULL,a,c,c}", "{{b,a},{c,b}}"):
        assert rows(demo, "SELECT * FROM gpt2_choose('The', %s)", choices) == expected


def test_equal_choices_by_position(tx):  # noqa: F811
    """Two tokens with the same embedding are equally likely."""
    table, index = one(tx, "SELECT gpt2_tokenize(' table index')")
    tx.execute(
        """UPDATE gpt2.wte SET weight = (SELECT weight FROM gpt2.wte WHERE token = %s)
                  WHERE token = %s""",
        (table, index),
    )
    for choices in ([" index", " table"], [" table", " index"]):
        chosen = rows(tx, "SELECT * FROM gpt2_choose('The', %s)", choices)
        assert [row[0] for row in chosen] == choices
        assert chosen[0][1:3] == chosen[1][1:3]


def test_choices_differ_in_case_and_form(demo):
    """Distinct is what has other bytes."""
    choices = ["é", "e\u0301", "E", "e", "e "]
    assert len(rows(demo, "SELECT * FROM gpt2_choose('x', %s)", choices)) == 5


def test_empty_text_begins_a_document(demo):
    assert rows(demo, "SELECT * FROM gpt2_score('')") == [
        (0, N_VOCAB - 1, "<|endoftext|>", None, None, None, None)
    ]
    y = one(demo, "SELECT (gpt2_forward(ARRAY[%s::int]))[1]::real[]", N_VOCAB - 1)
    for pooling in POOLINGS:
        np.testing.assert_allclose(embedding(demo, "", pooling), y, rtol=1e-5)


def test_every_function_takes_a_model(shapes):
    """A name or the setting: of two models, the numbers are not the same."""
    for call in (
        "(SELECT sum(logprob) FROM gpt2_score('the table'{}))",
        "gpt2_perplexity('the table'{})",
        "gpt2_embed('the table'{})::text",
        "(SELECT sum(logprob) FROM gpt2_choose('the', '{{a,b}}'{}))",
        "gpt2_similarity('a', 'the'{})",
    ):
        by_name = [
            one(shapes, "SELECT " + call.format(f", model => '{name}'"))
            for name in ("one_block", "untied")
        ]
        assert by_name[0] != by_name[1]
        for name, expected in zip(("one_block", "untied"), by_name, strict=False):
            with shapes.transaction(force_rollback=True):
                shapes.execute(f"SET LOCAL gpt2.model = '{name}'")
                assert one(shapes, "SELECT " + call.format("")) == expected


def test_float16(new_database):
    """Rounded weights change a score by little."""
    from conftest import DEMO

    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as conn:
        load_model(uri, DEMO, "half", "--dtype", "float16")
        text = FIXTURES["demo/text"].item()
        ours = [row[0] for row in rows(conn, "SELECT logprob FROM gpt2_score(%s)", text)][1:]
        np.testing.assert_allclose(ours, FIXTURES["demo/logprobs"], rtol=0.01, atol=0.01)


# ---- What it costs


@pytest.mark.parametrize(
    "query, positions, logits",
    [
        ("SELECT * FROM gpt2_score(' table index the of')", 4, 3),
        ("SELECT * FROM gpt2_score(repeat(' the', 40))", 40, 39),
        ("SELECT gpt2_perplexity(' table index the of')", 4, 3),
        ("SELECT gpt2_perplexity(repeat(' the', 260), 200)", 256 + 60, 255 + 4),
        # choices of 1, 1 and 3 tokens: the prompt once, and the two that follow the third's first
        (
            'SELECT * FROM gpt2_choose(\' table index the of\', \'{" table"," of"," is the of"}\')',
            4 + 2,
            1 + 2,
        ),
        (
            'SELECT gpt2_classify(\' table index the of\', \'{" table"," of"," is the of"}\')',
            4 + 2,
            1 + 2,
        ),
        ("SELECT * FROM gpt2_choose('The', '{}')", 0, 0),
        ("SELECT gpt2_embed(' table index the of')", 4, 0),
        ("SELECT gpt2_embed(' table index the of', 'max', 2)", 4 * 3 / 6, 0),
        ("SELECT gpt2_similarity(' table index the of', ' table')", 5, 0),
    ],
)
def test_reads(tx, query, positions, logits):  # noqa: F811
    """The weights are read once a position, the token embeddings once for each distribution."""
    tx.execute("SET LOCAL max_parallel_workers_per_gather = 0")  # a worker's are not counted
    pages = LINEAR_PAGES * positions + TOKEN_PAGES * logits
    assert pages <= reads(tx, query) <= pages + 2 * positions + 20


def test_arithmetic_of_score(tx):  # noqa: F811
    """One pass over 24 positions and 23 distributions: see test_behaviour.test_arithmetic."""
    n = count_calls(tx, "SELECT * FROM gpt2_score(repeat(' the', 24))")
    assert n["_run"] == 1
    assert n["vector_sub"] == (13 + 24) * 24 + 23
    assert n["vector_negative_inner_product"] == (
        (N_LINEAR + 2 * 13) * 24 + 24 * (24 * 25 // 2) + 24 * (32 + 1) * 8 + N_VOCAB * 23
    )


def test_arithmetic_of_choose(tx):  # noqa: F811
    """The prompt's 4 positions and the 2 that follow; a run for it, and one for the long choice."""
    n = count_calls(
        tx, 'SELECT * FROM gpt2_choose(\' table index the of\', \'{" table"," of"," is the of"}\')'
    )
    assert n["_run"] == 2
    assert n["vector_sub"] == (13 + 24) * 6 + 3
    assert n["vector_negative_inner_product"] == (
        (N_LINEAR + 2 * 13) * 6 + 24 * (6 * 7 // 2) + N_VOCAB * 3
    )


# ---- Where it runs


CALLS = [
    "gpt2_perplexity({})",
    'gpt2_classify({}, \'{{" is"," the"}}\')',
    "gpt2_embed({})::text",
    "gpt2_similarity({}, 'The table')",
]
SET_CALLS = ["gpt2_score({})", 'gpt2_choose({}, \'{{" is"," the table"}}\')']
#: of a table t (n, text); as docs/tasks.md: a call in FROM is not divided among workers
QUERIES = [
    *(f"SELECT n, {call.format('text')} FROM t WHERE true" for call in CALLS),
    *(
        f"SELECT n, (s).* FROM (SELECT n, {call.format('text')} AS s FROM t WHERE true) AS q"
        for call in SET_CALLS
    ),
]


@pytest.mark.parametrize("query", QUERIES)
def test_parallel_scan(tx, query):  # noqa: F811
    """A table of texts is divided among workers."""
    tx.execute("""CREATE TABLE t AS
                  SELECT n, 'chapter ' || n AS text FROM generate_series(1, 300) AS n""")
    tx.execute("ALTER TABLE t SET (parallel_workers = 2)")
    tx.execute("ANALYZE t")
    query = query.replace("true", "mod(n, 20) = 0")
    tx.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    expected = sorted(tx.execute(query).fetchall(), key=str)
    assert len(expected) >= 15
    tx.execute("""SET LOCAL max_parallel_workers_per_gather = 2; SET LOCAL parallel_setup_cost = 0;
                  SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0""")
    assert sorted(tx.execute(query).fetchall(), key=str) == expected
    (plan,) = one(tx, f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {query}")
    gather = plan["Plan"]
    if gather["Node Type"] == "Subquery Scan":
        (gather,) = gather["Plans"]
    assert gather["Node Type"] == "Gather" and gather["Workers Launched"] >= 1
    assert "gpt2_" in str(gather["Plans"][0])


def test_nearest_rows_by_an_index(tx):  # noqa: F811
    """As in docs/tasks.md: the index gives the order, and the question is read once."""
    tx.execute("CREATE TABLE page (id int PRIMARY KEY, body text, embedding vector(128))")
    tx.execute(
        """INSERT INTO page SELECT n, w || ' is a word', gpt2_embed(w || ' is a word')
                  FROM unnest(%s::text[]) WITH ORDINALITY AS u (w, n)""",
        (WORDS,),
    )
    query = """SELECT id FROM page
               ORDER BY embedding <=> (SELECT gpt2_embed('a table is a word')) LIMIT 3"""
    expected = rows(tx, query)
    tx.execute("CREATE INDEX page_hnsw ON page USING hnsw (embedding vector_cosine_ops)")
    tx.execute("SET LOCAL enable_seqscan = off")
    assert "page_hnsw" in str(one(tx, f"EXPLAIN (FORMAT JSON) {query}"))
    assert rows(tx, query) == expected
    assert count_calls(tx, query)["gpt2_embed"] == 1


@pytest.mark.parametrize("query", QUERIES)
def test_batch(tx, query):  # noqa: F811
    """Rows do not influence each other."""
    texts = ["The table", "To create an index, use", "x y", "\n\n", "😀 ünïcode"]
    tx.execute("CREATE TABLE t (n int, text text)")
    apart = []
    for n, text in enumerate(texts):
        tx.execute("INSERT INTO t VALUES (%s, %s)", (n, text))
        apart += rows(tx, query)
        tx.execute("DELETE FROM t")
    for n, text in enumerate(texts):
        tx.execute("INSERT INTO t VALUES (%s, %s)", (n, text))
    assert rows(tx, query) == apart


# ---- Bad input


LONG = "repeat(' the', 257)"
HALF = "repeat(' the', 200)"
ABSENT = (
    'model "absent" does not exist',
    "The argument model names it.",
    "SELECT name FROM gpt2_models(); lists the models.",
)
TOO_LONG = (
    'the prompt is too long for model "demo"',
    "It has 257 tokens, the context is 256.",
    "Shorten the prompt; SELECT count(*) FROM gpt2_tokens(prompt); counts its tokens.",
)
BAD = [
    # call, SQLSTATE, message, detail, hint
    *[
        (call, "54000", *TOO_LONG)
        for call in (
            f"gpt2_score({LONG})",
            f"gpt2_choose({LONG}, '{{a}}')",
            f"gpt2_classify({LONG}, '{{a}}')",
            f"gpt2_embed({LONG})",
            f"gpt2_similarity({LONG}, 'x')",
            f"gpt2_similarity('x', {LONG})",
        )
    ],
    *[
        (call, "22023", *ABSENT)
        for call in (
            "gpt2_score('x', 'absent')",
            "gpt2_perplexity('x', model => 'absent')",
            "gpt2_choose('x', '{a}', 'absent')",
            "gpt2_classify('x', '{a}', 'absent')",
            "gpt2_embed('x', model => 'absent')",
            "gpt2_similarity('x', 'x', model => 'absent')",
        )
    ],
    *[
        (
            f"gpt2_perplexity('x', {stride})",
            "22023",
            'stride must be 1 to 256 for model "demo"',
            f"It is {stride}.",
            "Use NULL for half the context.",
        )
        for stride in (0, -1, 257)
    ],
    *[
        (
            f"{function}('x', '{{a,NULL,\"\",\"\",b}}')",
            "22023",
            "choice 3 is empty",
            "The empty text has no token, hence no probability.",
            "Leave it out: array_remove(choices, '').",
        )
        for function in ("gpt2_choose", "gpt2_classify")
    ],
    (
        f"gpt2_choose({HALF}, ARRAY['a', repeat(' the', 57)])",
        "54000",
        'the prompt with choice 2 is too long for model "demo"',
        "They have 200 and 57 tokens, the context is 256.",
        "Shorten the prompt; SELECT count(*) FROM gpt2_tokens(prompt); counts its tokens.",
    ),
    *[
        (
            call,
            "22023",
            f'pooling "{pooling}" does not exist',
            "It says how the positions of a text become one vector.",
            "Use mean, weighted (by position), max or last.",
        )
        for pooling in ("cls", "Mean", "", "NULL")
        for value in ("NULL" if pooling == "NULL" else f"'{pooling}'",)
        for call in (f"gpt2_embed('x', {value})", f"gpt2_similarity('x', 'y', {value})")
    ],
    *[
        (
            call,
            "22023",
            f'block {block} does not exist in model "demo"',
            "Its blocks are 0 to 5.",
            "Use NULL for what the last layer norm gives.",
        )
        for block in (-1, 6)
        for call in (
            f"gpt2_embed('x', block => {block})",
            f"gpt2_similarity('x', 'y', block => {block})",
        )
    ],
]


@pytest.mark.parametrize("call, code, message, detail, hint", BAD, ids=[row[0][:60] for row in BAD])
def test_bad_input(demo, call, code, message, detail, hint):
    with pytest.raises(psycopg.Error) as error:
        demo.execute(f"SELECT {call}")
    diag = error.value.diag
    assert (diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint) == (
        code,
        message,
        detail,
        hint,
    )


def test_longest_that_fits(demo):
    """256 tokens, and not one more: see BAD."""
    assert one(demo, "SELECT gpt2_embed(repeat(' the', 256), block => 0)")
    assert len(rows(demo, f"SELECT * FROM gpt2_choose({HALF}, ARRAY[repeat(' the', 56)])")) == 1


@pytest.mark.parametrize(
    "call",
    [
        f"gpt2_choose({HALF}, '{{a,b,\"\"}}')",
        f"gpt2_choose({HALF}, ARRAY['a', {HALF}])",
        f"gpt2_embed({HALF}, 'absent')",
        f"gpt2_embed({HALF}, block => 6)",
        f"gpt2_perplexity({HALF}, 0)",
    ],
)
def test_bad_input_comes_before_the_work(tx, call):  # noqa: F811
    """Also where only the last choice is bad: but for a look whether there are weights, none is
    read."""

    def read():
        return one(
            tx,
            """SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables
                          WHERE relid = 'gpt2.matrix_page'::regclass""",
        )

    before = read()
    with pytest.raises(psycopg.Error), tx.transaction():
        tx.execute(f"SELECT {call}")
    assert read() <= before + 10


@pytest.mark.parametrize("call", [call.format("'x'") for call in CALLS + SET_CALLS])
def test_no_model(conn, call):
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as error:
        conn.execute(f"SELECT {call}")
    assert error.value.diag.message_primary == "no model is loaded"
