"""What the functions do, on the tests' model: sampling, stopping, choosing a model, bad input.

Whether the numbers are GPT-2's is another matter: see test_fidelity.py and test_trace.py.
"""

from __future__ import annotations

import hashlib
import random
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from calls import count_calls
from conftest import cases, one, reads
from psycopg import errors

PROMPT = "PostgreSQL is"
GREEDY = " not implemented in PostgreSQL.\nSee Also\nCREATE CONVERSION, CREATE CONVERSION, C"
SAMPLED = (
    " not very helpful for the configuration to configuring their configuration, allowing"
    " this information to know this information.\nT"
)
ENDING = """Compatibility
This command is a PostgreSQL extension.
See Also
ALTER INDEX, DROP INDEX, REINDEX"""
N_CTX, N_VOCAB, EOS = 256, 8192, 8191
# linear rows: 6 blocks of 3 + 1 + 4 neurons for each of 128 activations, and mlp.c_proj in 4 slices
N_LINEAR = 6 * 128 * (3 + 1 + 4 + 4)
WORDS = [
    " table",
    " index",
    " function",
    " value",
    " column",
    " the",
    " of",
    " is",
    " and",
    " user",
    " row",
    " data",
    ",",
    " a",
    " to",
    " in",
    " server",
    " command",
    " name",
    " type",
]


def generate(conn: psycopg.Connection, prompt: str | None = PROMPT, **options) -> str:
    named = "".join(f", {name} => %s" for name in options)
    return one(conn, f"SELECT gpt2_generate(%s{named})", prompt, *options.values())


def next_token(conn: psycopg.Connection, prompt: str | None = PROMPT, **options) -> list[tuple]:
    named = "".join(f", {name} => %s" for name in options)
    return conn.execute(
        f"SELECT * FROM gpt2_next_token(%s{named})", [prompt, *options.values()]
    ).fetchall()


def matrix(conn: psycopg.Connection, query: str, *arguments) -> np.ndarray:
    """Rows of a query that gives one vector column."""
    cursor = conn.cursor(binary=True)
    cursor.execute(f"SELECT v::float4[] FROM ({query}) AS q (v)", arguments)
    return np.array([row[0] for row in cursor], dtype=np.float64)


def text_of_length(conn: psycopg.Connection, n: int, seed: int = 0) -> str:
    """A text of exactly n tokens, the first of every longer one with the same seed."""
    text = "".join(random.Random(seed).choices(WORDS, k=n))
    assert one(conn, "SELECT cardinality(gpt2_tokenize(%s))", text) == n
    return text


@pytest.fixture
def tx(demo_dsn: str) -> Iterator[psycopg.Connection]:
    """A connection in a transaction that leaves nothing behind."""
    with psycopg.connect(demo_dsn) as connection:
        yield connection
        connection.rollback()


@pytest.fixture(scope="module")
def wte(demo_dsn: str) -> np.ndarray:
    with psycopg.connect(demo_dsn) as connection:
        return matrix(connection, "SELECT weight FROM gpt2.wte ORDER BY token")


# ---- The golden texts: a seed means the same on every server


def test_greedy_text(demo):
    assert generate(demo) == PROMPT + GREEDY
    assert generate(demo, echo=False) == GREEDY


def test_sampled_text(demo):
    assert generate(demo, max_tokens=24, temperature=0.8, top_k=40, seed=42) == PROMPT + SAMPLED


# ---- Choosing a token


def test_greedy_is_the_argmax_of_forward(demo, wte):
    """Cached and sampled in SQL; all over again for every token, with the argmax in numpy."""
    tokens = one(demo, "SELECT gpt2_tokenize(%s)", PROMPT)
    n_prompt = len(tokens)
    for _ in range(8):
        y = matrix(demo, "SELECT unnest(gpt2_forward(%s::int[]))", tokens)[-1]
        tokens.append(int(np.argmax(wte @ y)))
    assert generate(demo, max_tokens=8, echo=False) == one(
        demo, "SELECT gpt2_detokenize(%s::int[])", tokens[n_prompt:]
    )


def test_greedy_is_the_first_of_next_token(demo):
    text = PROMPT
    for n in range(1, 6):
        text += next_token(demo, text, top_k=1)[0][2]
        assert generate(demo, max_tokens=n) == text


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1, "temperature": 1.0},
        {"temperature": 1e-300},
        {"temperature": 5e-324},
        {"temperature": 1e-9, "top_k": 5},
        {"temperature": 0, "top_k": 7, "seed": 3},
    ],
)
def test_same_as_greedy(demo, options):
    assert generate(demo, max_tokens=16, echo=False, **options) == generate(
        demo, max_tokens=16, echo=False
    )


def test_seeds(demo):
    def sample(seed):
        return generate(demo, max_tokens=12, temperature=1.5, seed=seed)

    seeds = [0, 1, 2, -1, 2**63 - 1, -(2**63)]
    texts = [sample(seed) for seed in seeds]
    assert texts == [sample(seed) for seed in seeds]
    assert len(set(texts)) == len(seeds)
    assert all(text.startswith(PROMPT) for text in texts)


def test_no_seed_is_a_fresh_one(demo):
    texts = demo.execute("SELECT gpt2_generate('The', 8, 3) FROM generate_series(1, 4)").fetchall()
    texts += [(generate(demo, "The", max_tokens=8, temperature=3.0),)]
    assert len(set(texts)) == 5


@pytest.mark.parametrize("temperature, top_k", [(1.0, None), (1.7, 50), (1e6, None)])
def test_sampling_follows_the_distribution(demo, temperature, top_k):
    """The token in whose share of [0, 1) the seed's number falls, in the order of rank."""
    rows = next_token(demo, "The", temperature=temperature, top_k=top_k)
    cumulative = np.cumsum([row[4] for row in rows])
    for seed in range(12):
        digest = hashlib.sha256(struct.pack(">qi", seed, 1)).digest()
        uniform = (int.from_bytes(digest[:8], "big") >> 12) / 2**52
        expected = rows[min(int(np.searchsorted(cumulative, uniform, "right")), len(rows) - 1)]
        piece = generate(
            demo, "The", max_tokens=1, temperature=temperature, top_k=top_k, seed=seed, echo=False
        )
        assert piece == ("" if expected[1] == EOS else expected[2])


def test_numbers_of_a_seed(demo):
    rows = demo.execute("""SELECT s, n, gpt2._uniform(s, n) FROM generate_series(-2, 500) AS s,
                                  generate_series(1, 4) AS n""").fetchall()
    for seed, n, uniform in rows:
        digest = hashlib.sha256(struct.pack(">qi", seed, n)).digest()
        assert uniform == (int.from_bytes(digest[:8], "big") >> 12) / 2**52
    assert 0.48 < np.mean([row[2] for row in rows]) < 0.52


# ---- gpt2_next_token


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5, 1e-3, 1e6])
@pytest.mark.parametrize("top_k", [1, 10, None, 2**31 - 1])
def test_probabilities(demo, temperature, top_k):
    rows = next_token(demo, top_k=top_k, temperature=temperature)
    assert [row[0] for row in rows] == list(range(1, min(top_k or N_VOCAB, N_VOCAB) + 1))
    logits, probabilities = np.array([row[3:] for row in rows]).T
    assert sorted(zip(-logits, [row[1] for row in rows], strict=False)) == [
        (-r[3], r[1]) for r in rows
    ]
    share = np.exp(np.maximum((logits - logits[0]) / temperature, -700))
    np.testing.assert_allclose(probabilities, share / share.sum(), rtol=1e-9)
    assert abs(probabilities.sum() - 1) < 1e-9


def test_next_token_defaults(demo):
    assert next_token(demo) == next_token(demo, top_k=10, temperature=1.0)


def test_next_token_all(demo):
    rows = next_token(demo, top_k=None)
    assert sorted(row[1] for row in rows) == list(range(N_VOCAB))
    pieces = {row[1]: row[2] for row in rows}
    assert pieces[EOS] == "<|endoftext|>"
    assert pieces[318] == " is"


def test_next_token_greedy(demo):
    rows = next_token(demo, temperature=0.0, top_k=3)
    assert [row[:4] for row in rows] == [row[:4] for row in next_token(demo, top_k=3)]
    assert [row[4] for row in rows] == [1, 0, 0]


def test_ties_go_to_the_lower_id(tx):
    """Two tokens with the same embedding have the same logit."""
    best = next_token(tx, top_k=1)[0][1]
    for twin in (best - 100, best + 100):
        tx.execute("SAVEPOINT before")
        tx.execute(
            """UPDATE gpt2.wte SET weight = (SELECT weight FROM gpt2.wte WHERE token = %s)
                      WHERE token = %s""",
            (best, twin),
        )
        rows = next_token(tx, top_k=2)
        assert [row[1] for row in rows] == sorted([best, twin])
        assert rows[0][3:] == rows[1][3:]
        assert generate(tx, max_tokens=1, echo=False) == rows[0][2]
        tx.execute("ROLLBACK TO before")


# ---- Where generation stops


def test_max_tokens(demo):
    assert generate(demo, max_tokens=0) == PROMPT
    assert generate(demo, max_tokens=0, echo=False) == ""
    tokens = one(demo, "SELECT gpt2_tokenize(%s)", GREEDY)
    for n in (1, 2, 5, 16):
        assert generate(demo, max_tokens=n, echo=False) == one(
            demo, "SELECT gpt2_detokenize(%s::int[])", tokens[:n]
        )


@pytest.mark.parametrize(
    "n_prompt, max_tokens, n_new",
    cases(
        [(256, 10, 0), (255, 10, 1), (250, 2**31 - 1, 6), (224, 32, 32), (223, 40, 33)],
        [(256, 10, 0), (255, 10, 1), (223, 40, 33)],
    ),
)
def test_end_of_the_context(demo, n_prompt, max_tokens, n_new):
    text = text_of_length(demo, n_prompt)
    whole = generate(demo, text, max_tokens=max_tokens)
    assert whole == generate(demo, text, max_tokens=n_new)
    if n_new:
        assert len(whole) > len(generate(demo, text, max_tokens=n_new - 1))


def test_endoftext(tx):
    """Whichever token the model takes for the end is not shown, and nothing comes after it."""
    new = one(tx, "SELECT gpt2_tokenize(%s)", GREEDY)
    for end in (0, 2, 5):
        tx.execute("UPDATE gpt2.model SET eos_tokens = %s", ([new[end]],))
        before = one(tx, "SELECT gpt2_detokenize(%s::int[], 'demo')", new[:end])
        assert generate(tx) == PROMPT + before
        assert generate(tx, max_tokens=end) == generate(tx, max_tokens=end + 1)


def test_own_endoftext(demo):
    """The manual's pages end so, and the model knows."""
    _, token, piece, _, share = next_token(demo, ENDING, top_k=None)[0]
    assert (token, piece) == (EOS, "<|endoftext|>")
    assert 0.4 < share < 0.6
    assert generate(demo, ENDING) == ENDING
    texts = [
        generate(demo, ENDING, max_tokens=1, temperature=1.0, seed=seed, echo=False)
        for seed in range(12)
    ]
    assert 0 < texts.count("") < 12


# ---- Prompts


def test_empty_prompt(demo):
    text = generate(demo, "", max_tokens=5)
    assert text == generate(demo, "", max_tokens=5, echo=False) != ""
    y = matrix(demo, "SELECT unnest(gpt2_forward(ARRAY[%s]))", EOS)
    best = int(np.argmax(matrix(demo, "SELECT weight FROM gpt2.wte ORDER BY token") @ y[-1]))
    assert next_token(demo, "", top_k=1)[0][1] == best
    assert generate(demo, "", max_tokens=0) == ""


def test_null_prompt(demo):
    assert generate(demo, None) is None
    assert next_token(demo, None) == []
    for function in ("gpt2_embeddings(NULL)", "gpt2_forward(NULL)", "gpt2_block(NULL, 0)"):
        assert one(demo, f"SELECT {function}") is None
    rows = demo.execute("""SELECT gpt2_generate(p, 3) FROM unnest(ARRAY['A', NULL, 'B', ''])
                           WITH ORDINALITY AS u (p, n) ORDER BY n""").fetchall()
    assert [text is None for (text,) in rows] == [False, True, False, False]
    assert rows[2] == (generate(demo, "B", max_tokens=3),)


def test_endoftext_in_a_prompt_is_text(demo):
    assert one(demo, "SELECT cardinality(gpt2_tokenize('<|endoftext|>'))") > 1
    assert generate(demo, "<|endoftext|>", max_tokens=3) != "<|endoftext|>" + generate(
        demo, "", max_tokens=3
    )


def test_batch(demo):
    """Rows do not influence each other."""
    prompts = ["The", PROMPT, "To create an index", "x", "\n", "😀 ünïcode"]
    rows = demo.execute(
        """SELECT gpt2_generate(p, 6) FROM unnest(%s::text[])
                           WITH ORDINALITY AS u (p, n) ORDER BY n""",
        (prompts,),
    ).fetchall()
    assert [text for (text,) in rows] == [generate(demo, p, max_tokens=6) for p in prompts]


# ---- The forward pass, with the cache and without


@pytest.fixture(scope="module")
def hidden(demo_dsn: str) -> np.ndarray:
    """gpt2_forward of the longest text. A position sees only those before it."""
    with psycopg.connect(demo_dsn) as connection:
        return matrix(
            connection,
            "SELECT unnest(gpt2_forward(gpt2_tokenize(%s)))",
            text_of_length(connection, N_CTX),
        )


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200, 255, 256])
def test_cached_equals_uncached(demo, wte, hidden, n):
    rows = next_token(demo, text_of_length(demo, n), top_k=None)
    logits = np.empty(N_VOCAB)
    logits[[row[1] for row in rows]] = [row[3] for row in rows]
    expected = wte @ hidden[n - 1]
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_causal(demo, hidden):
    """A prefix has the activations of the whole."""
    part = matrix(demo, "SELECT unnest(gpt2_forward(gpt2_tokenize(%s)))", text_of_length(demo, 20))
    np.testing.assert_allclose(part, hidden[:20], rtol=0, atol=1e-4 * np.abs(hidden).max())


def test_block_by_block(demo):
    """A reader walks the model by hand: embeddings, the blocks, ln_f."""
    tokens = one(demo, "SELECT gpt2_tokenize(%s)", text_of_length(demo, 40))
    demo.execute(
        """CREATE TEMPORARY TABLE walk AS
                    SELECT 0 AS block, gpt2_embeddings(%s::int[]) AS x""",
        (tokens,),
    )
    w = matrix(demo, "SELECT weight FROM gpt2.wte ORDER BY token")[tokens]
    p = matrix(demo, 'SELECT weight FROM gpt2.wpe ORDER BY "position"')[: len(tokens)]
    x = matrix(demo, "SELECT unnest(x) FROM walk WHERE block = 0")
    np.testing.assert_allclose(x, w + p, rtol=1e-6)
    for block in range(6):
        demo.execute(
            """INSERT INTO walk SELECT block + 1, gpt2_block(x, block) FROM walk
                        WHERE block = %s""",
            (block,),
        )
    x = matrix(demo, "SELECT unnest(x) FROM walk WHERE block = 6")
    weight, bias = matrix(
        demo,
        """SELECT unnest(ARRAY[weight, bias]) FROM gpt2.layer_norm
                                   WHERE layer = 'ln_f' AND block = 6""",
    )
    x = x - x.mean(1, keepdims=True)
    y = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * weight + bias
    expected = matrix(demo, "SELECT unnest(gpt2_forward(%s::int[]))", tokens)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# ---- Each weight is read once a position


#: pages of 15 neurons in the blocks' linear layers, and in wte
LINEAR_PAGES, TOKEN_PAGES = 6 * (26 + 9 + 35 + 4 * 9), 547


@pytest.mark.parametrize(
    "query, positions, choices",
    [
        ("SELECT gpt2_generate('The', 1)", 1, 1),
        ("SELECT gpt2_generate('The', 12)", 12, 12),
        ("SELECT gpt2_generate('The', 70)", 70, 70),
        ("SELECT gpt2_generate('The', 6, 1, seed => 1)", 6, 6),
        ("SELECT gpt2_generate('The', 6, 1, 5, seed => 1)", 6, 6),
        ("SELECT gpt2_generate(' table index the of', 5)", 8, 5),
        ("SELECT gpt2_generate('The', 0)", 0, 0),
        ("SELECT * FROM gpt2_next_token(' table index the of')", 4, 1),
        ("SELECT * FROM gpt2_next_token(repeat(' the', 65), NULL, 0)", 65, 1),
        ("SELECT gpt2_forward(array_fill(5, ARRAY[7]))", 7, 0),
    ],
)
def test_reads(tx, query, positions, choices):
    """The fences hold (OFFSET 0 in the SQL): no page of neurons is read twice, and none of wte."""
    assert tx.execute("""SELECT count(*) FILTER (WHERE block >= 0),
                                count(*) FILTER (WHERE layer = 'wte')
                         FROM gpt2.matrix_page""").fetchone() == (LINEAR_PAGES, TOKEN_PAGES)
    pages = positions * LINEAR_PAGES + choices * TOKEN_PAGES
    # and a few: a token's embedding, and the look whether there are weights at all
    assert pages <= reads(tx, query) <= pages + 2 * positions + 20


@pytest.mark.parametrize("positions", [1, 3, 16, 24])
def test_arithmetic(tx, positions):
    """And no vector is computed twice: 13 layer norms a position, 24 linear layers, 24 heads."""
    n = count_calls(tx, f"SELECT gpt2_generate('The', {positions})")
    late = max(positions - 16, 0)  # positions that have a past, which is read by inner product
    pairs = positions * (positions + 1) // 2
    recent = pairs if not late else 16 * 17 // 2 + late * (late + 1) // 2
    assert n["vector_sub"] == (13 + 24 + 1) * positions  # 1: what is projected, negated
    assert n["vector_add"] == (1 + 13 + 12) * positions
    assert n["vector_mul"] == 2 * 13 * positions + 24 * recent
    # of the past a head's 32 values, and the sum of their weights
    assert n["vector_negative_inner_product"] == (
        (N_LINEAR + N_VOCAB + 2 * 13) * positions + 24 * pairs + 24 * (32 + 1) * late
    )


def test_slices_are_cut_once(tx):
    n = count_calls(tx, "SELECT gpt2_generate('The', 3)")
    # queries of heads; queries, keys and values; slices of the linear layers; keys and values of heads
    assert n["subvector"] == 3 * (24 + 6 * 2 + 6 * (1 + 1 + 1 + 4)) + 2 * 24 * (1 + 2 + 3)


def test_arithmetic_of_forward(tx):
    n = count_calls(tx, "SELECT gpt2_forward('{1,2,3}')")
    assert n["vector_sub"] == (13 + 24) * 3
    assert n["vector_mul"] == 2 * 13 * 3
    # the scores of 6 pairs of positions, and a mean of values, an element at a time
    assert n["vector_negative_inner_product"] == ((N_LINEAR + 2 * 13) * 3 + 24 * 6 + 24 * 32 * 3)


@pytest.mark.parametrize(
    "settings",
    [
        "SET plan_cache_mode = force_generic_plan",
        "SET enable_hashjoin = off",
        "SET enable_nestloop = off",
        "SET enable_material = off",
        "SET from_collapse_limit = 1",
        "SET jit = on; SET jit_above_cost = 0",
        "SET enable_indexscan = off",
    ],
)
def test_planner_settings(demo, settings):
    """A caller's planner settings change the time and not the text."""

    def results():
        return (
            next_token(demo),
            generate(demo, max_tokens=6),
            one(demo, "SELECT gpt2_forward('{1,2}')"),
        )

    expected = results()
    demo.execute(settings)
    assert results() == expected


# ---- Where it runs


@pytest.mark.parametrize(
    "query",
    [
        "SELECT gpt2_generate('The', 4)",
        "SELECT gpt2_generate('The', 4, 1, seed => 1)",
        "SELECT * FROM gpt2_next_token('The')",
        "SELECT gpt2_forward('{1,2}')::text",
        "SELECT gpt2_block(gpt2_embeddings('{1,2}'), 0)::text",
        "SELECT gpt2_tokenize('Mississippilessly')",
        "SELECT * FROM gpt2_tokens('The x')",
        "SELECT * FROM gpt2_bpe('Mississippi')",
        "SELECT gpt2_detokenize('{1,2}')",
        "SELECT name FROM gpt2_models()",
        "SELECT * FROM gpt2_trace('The x')",
        "SELECT gpt2_generate('The', 4, steer => ARRAY[ROW(2, NULL, (gpt2_embeddings('{9}'))[1], 9)"
        "::gpt2.steering])",
        "SELECT * FROM gpt2_attention('The x', 2, 1)",
        "SELECT * FROM gpt2_head_summary('The x')",
        "SELECT * FROM gpt2_logit_lens('The x')",
        "SELECT * FROM gpt2_neurons('The x', 1)",
        "SELECT * FROM gpt2_direct_logit_attribution('The x')",
        "SELECT * FROM gpt2_score('The x')",
        "SELECT gpt2_perplexity('The x')",
        "SELECT * FROM gpt2_choose('The', '{x,\" x y\"}')",
        "SELECT gpt2_classify('The', '{x,y}')",
        "SELECT gpt2_embed('The x', 'max')::text",
        "SELECT gpt2_similarity('The x', 'x')",
        "SELECT * FROM gpt2_stream('The', 4, 1, seed => 1)",
        "SELECT * FROM gpt2_complete('The', 4, 2, 1, seed => 1, top_p => 0.9, stop => '{x}')",
        "SELECT gpt2_generate('The', 4, choices => '{\" x\",\" x y\"}')",
        "SELECT gpt2_generate('The', 4, pattern => ' [a-e]+', repetition_penalty => 2)",
        "SELECT gpt2_prefix('The x')::text",
        "SELECT gpt2_generate('The x', 4, prefix => gpt2_prefix('The'))",
        "SELECT * FROM gpt2_beam('The', 3, 2)",
        "SELECT gpt2_beam_search('The', 3, 2)",
    ],
)
class TestAnywhere:
    def test_read_only(self, demo, query):
        expected = demo.execute(query).fetchall()
        with demo.transaction():
            demo.execute("SET TRANSACTION READ ONLY")
            assert demo.execute(query).fetchall() == expected
            with pytest.raises(errors.ReadOnlySqlTransaction), demo.transaction():
                demo.execute("SELECT gpt2_drop_model('demo')")

    def test_parallel_worker(self, demo, query):
        expected = demo.execute(query).fetchall()
        name = (
            "debug_parallel_query" if demo.info.server_version >= 160000 else "force_parallel_mode"
        )
        demo.execute(f"SET {name} = on")
        assert demo.execute(query).fetchall() == expected
        if "gpt2_bpe" in query:
            return  # inlined here, and then it is a recursive query, which no worker runs
        (plan,) = one(demo, f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
        assert plan["Plan"]["Node Type"] == "Gather"
        assert plan["Plan"]["Workers Launched"] == 1

    def test_search_path(self, demo, query):
        """The functions find their own, whatever else the names mean to the caller."""
        expected = demo.execute(query).fetchall()
        demo.execute("""CREATE SCHEMA IF NOT EXISTS decoy;
            CREATE OR REPLACE FUNCTION decoy.gpt2_tokenize(text, text DEFAULT NULL) RETURNS int[]
                LANGUAGE sql AS 'SELECT ''{1}''::int[]';
            CREATE OR REPLACE FUNCTION decoy.exp(float8) RETURNS float8
                LANGUAGE sql AS 'SELECT 0.0::float8';
            CREATE OR REPLACE FUNCTION decoy.cardinality(anyarray) RETURNS int
                LANGUAGE sql AS 'SELECT 0'""")
        demo.execute("SET search_path = decoy, pg_catalog")
        qualified = query.replace("gpt2_", "public.gpt2_")
        assert demo.execute(qualified).fetchall() == expected


def test_parallel_scan(tx):
    """A table of prompts is divided among workers."""
    tx.execute("""CREATE TABLE prompts AS
                  SELECT n, 'chapter ' || n AS prompt FROM generate_series(1, 300) AS n""")
    tx.execute("ALTER TABLE prompts SET (parallel_workers = 2)")
    tx.execute("ANALYZE prompts")
    query = "SELECT n, gpt2_generate(prompt, 2) FROM prompts WHERE mod(n, 20) = 0"
    tx.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    expected = sorted(tx.execute(query).fetchall())
    tx.execute("""SET LOCAL max_parallel_workers_per_gather = 2; SET LOCAL parallel_setup_cost = 0;
                  SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0""")
    assert sorted(tx.execute(query).fetchall()) == expected
    (plan,) = one(tx, f"EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON) {query}")
    gather = plan["Plan"]
    assert gather["Node Type"] == "Gather" and gather["Workers Launched"] >= 1
    assert "gpt2._generate" in str(gather["Plans"][0]["Output"])


# ---- Stopping it


@pytest.mark.parametrize(
    "query",
    [
        "SELECT gpt2_generate('The', 250, 1, seed => 1)",
        "SELECT gpt2_generate(repeat(' the', 255), 1)",
        "SELECT gpt2_forward(array_fill(5, ARRAY[256]))",
        "SELECT gpt2_tokenize(repeat('ab', 1000000))",
    ],
)
@pytest.mark.parametrize("how", ["statement_timeout", "Ctrl-C", "pg_cancel_backend"])
def test_cancel(demo, demo_dsn, query, how):
    def after_a_while():
        time.sleep(0.3)
        if how == "Ctrl-C":  # psql's way
            demo.cancel_safe()
        else:
            with psycopg.connect(demo_dsn, autocommit=True) as other:
                other.execute("SELECT pg_cancel_backend(%s)", (demo.info.backend_pid,))

    thread = threading.Thread(target=after_a_while)
    if how == "statement_timeout":
        demo.execute("SET statement_timeout = 300")
    else:
        thread.start()
    start = time.monotonic()
    with pytest.raises(errors.QueryCanceled):
        demo.execute(query)
    assert time.monotonic() - start < 1.3
    if thread.ident:
        thread.join()
    demo.execute("SET statement_timeout = 0")
    assert GREEDY.startswith(generate(demo, max_tokens=2, echo=False))


# ---- Which model


@pytest.fixture
def two_models(tx) -> psycopg.Connection:
    """'demo' and 'small', its first block alone."""
    small = one(
        tx,
        """SELECT gpt2._add_model('small', jsonb_set(to_jsonb(m), '{n_layer}', '1'))
                       FROM gpt2.model AS m""",
    )
    for statement in (
        """INSERT INTO gpt2.matrix_page SELECT %s, block, layer, slice, page, weight
           FROM gpt2.matrix_page WHERE block <= 0""",
        'INSERT INTO gpt2.wpe SELECT %s, "position", weight FROM gpt2.wpe',
        "INSERT INTO gpt2.bias SELECT %s, block, layer, bias FROM gpt2.bias WHERE block = 0",
        """INSERT INTO gpt2.layer_norm SELECT %s, least(block, 1), layer, weight, bias
           FROM gpt2.layer_norm WHERE block = 0 OR layer = 'ln_f'""",
        "SELECT gpt2._finish_model(%s)",
    ):
        tx.execute(statement, (small,))
    return tx


def test_choosing_a_model(two_models):
    tx = two_models
    demo, small = (generate(tx, max_tokens=5, model=name) for name in ("demo", "small"))
    assert demo != small
    assert generate(tx, max_tokens=5) == demo
    tx.execute("SET LOCAL gpt2.model = 'small'")
    assert generate(tx, max_tokens=5) == small
    assert generate(tx, max_tokens=5, model="demo") == demo
    tx.execute("SET LOCAL gpt2.model = ''")
    assert generate(tx, max_tokens=5) == demo
    tx.execute("SELECT gpt2_default_model('small')")
    assert generate(tx, max_tokens=5) == small
    tx.execute("SET LOCAL gpt2.model = 'demo'")
    assert generate(tx, max_tokens=5) == demo


def test_every_function_takes_a_model(two_models):
    tx = two_models
    tokens = "'{1,2,3}'::int[]"
    for call in (
        f"gpt2_forward({tokens}, %s)::text",
        "(gpt2_next_token('The', 1, model => %s))::text",
        "gpt2_generate('The', 5, model => %s)",
    ):
        assert one(tx, f"SELECT {call}", "demo") != one(tx, f"SELECT {call}", "small")
    call = f"SELECT gpt2_block(gpt2_embeddings({tokens}), 5, %s)"
    assert one(tx, call, "demo")
    with pytest.raises(errors.InvalidParameterValue, match="block 5 does not exist"):
        one(tx, call, "small")


def test_models(two_models):
    rows = two_models.execute("""SELECT name, is_default, n_parameters, size, dtype, n_layer,
        n_embd, n_head, n_ctx, n_vocab FROM gpt2_models()""").fetchall()
    assert rows == [
        ("demo", True, 2271232, "8872 kB", "float32", 6, 128, 4, 256, 8192),
        ("small", False, 2271232, "8872 kB", "float32", 1, 128, 4, 256, 8192),
    ]


def test_drop_model(two_models):
    tx = two_models
    small = generate(tx, max_tokens=5, model="small")
    tx.execute("SELECT gpt2_drop_model('demo')")
    # the one that is left is the default
    assert tx.execute("SELECT name, is_default FROM gpt2_models()").fetchall() == [("small", True)]
    assert generate(tx, max_tokens=5) == small
    tx.execute("SELECT gpt2_drop_model('small')")
    for table in ("model", "wte", "wpe", "linear", "bias", "layer_norm", "lm_head"):
        assert one(tx, f"SELECT count(*) FROM gpt2.{table}") == 0
    assert one(tx, "SELECT array_agg(tokenizer) FROM gpt2.tokenizer") == [1]
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="no model is loaded"):
        generate(tx)


def test_prewarm(two_models):
    """Every page of the model is read, and none of another's."""
    tx = two_models
    tables = ("matrix_page", "wpe", "bias", "layer_norm")
    for name in ("demo", "small"):
        counts = [
            one(
                tx,
                f"""SELECT count(*) FROM gpt2.{table} JOIN gpt2.model USING (model)
                              WHERE name = %s""",
                name,
            )
            for table in tables
        ]
        query = f"""SELECT relname::text, coalesce(idx_tup_fetch, 0) + seq_tup_read
                    FROM pg_stat_xact_user_tables
                    WHERE relname IN {tables} AND schemaname = 'gpt2'"""
        before = dict(tx.execute(query).fetchall())
        n_bytes = one(tx, "SELECT gpt2_prewarm(%s)", name)
        after = dict(tx.execute(query).fetchall())
        for table, count in zip(tables, counts, strict=False):
            # a few rows more of matrix_page: the look whether there are weights at all
            assert 0 <= after[table] - before[table] - count <= 2 * (table == "matrix_page")
        n_weights = one(
            tx,
            """SELECT sum(vector_dims(weight)) FROM gpt2.linear
                               JOIN gpt2.model USING (model) WHERE name = %s""",
            name,
        )
        assert 4 * (n_weights + N_VOCAB * 128) < n_bytes < 1.2 * 4 * (n_weights + N_VOCAB * 128)


def test_incomplete_model(tx):
    tx.execute('DELETE FROM gpt2.wpe WHERE "position" = 7')
    with pytest.raises(errors.DataException) as error:
        tx.execute("SELECT gpt2._finish_model(model) FROM gpt2.model")
    assert error.value.diag.message_primary == 'the weights of model "demo" are incomplete'
    assert error.value.diag.message_detail == "wpe has 255 rows of 256."


# ---- Bad input


LONG = "repeat(' the', 257)"
BAD = [
    # call, SQLSTATE, message
    (f"gpt2_generate({LONG})", "54000", 'the prompt is too long for model "demo"'),
    (f"gpt2_next_token({LONG})", "54000", 'the prompt is too long for model "demo"'),
    (
        "gpt2_forward(array_fill(1, ARRAY[257]))",
        "54000",
        '257 tokens are too long for model "demo"',
    ),
    (
        "gpt2_embeddings(array_fill(1, ARRAY[257]))",
        "54000",
        '257 tokens are too long for model "demo"',
    ),
    (
        "gpt2_block(array_fill(array_fill(1, ARRAY[128])::vector, ARRAY[257]), 0)",
        "54000",
        '257 positions are too long for model "demo"',
    ),
    ("gpt2_generate('x', -1)", "22023", "max_tokens must be 0 or more"),
    ("gpt2_generate('x', NULL)", "22023", "max_tokens must be 0 or more"),
    *[
        (call, "22023", "temperature must be 0 or more")
        for value in ("-0.1", "'NaN'", "'Infinity'", "'-Infinity'", "NULL", "1000001")
        for call in (f"gpt2_generate('x', 1, {value})", f"gpt2_next_token('x', 1, {value})")
    ],
    *[
        (call, "22023", "top_k must be 1 or more")
        for value in ("0", "-1")
        for call in (f"gpt2_generate('x', 1, 1, {value})", f"gpt2_next_token('x', {value})")
    ],
    *[
        (call, "22023", 'model "absent" does not exist')
        for call in (
            "gpt2_generate('x', model => 'absent')",
            "gpt2_next_token('x', model => 'absent')",
            "gpt2_forward('{1}', 'absent')",
            "gpt2_embeddings('{1}', 'absent')",
            "gpt2_block('{\"[1]\"}', 0, 'absent')",
            "gpt2_tokenize('x', 'absent')",
            "gpt2_default_model('absent')",
            "gpt2_drop_model('absent')",
        )
    ],
    *[
        (
            f"gpt2_block(gpt2_embeddings('{{1}}'), {block})",
            "22023",
            f'block {block} does not exist in model "demo"',
        )
        for block in ("-1", "6", "NULL")
    ],
    *[
        (f"gpt2_block({x}, 0)", "22023", 'the activations do not fit model "demo"')
        for x in (
            "'{\"[1,2,3]\"}'",
            "array_append(gpt2_embeddings('{1}'), '[1]')",
            "array_append(gpt2_embeddings('{1}'), NULL)",
        )
    ],
    ("gpt2_block('{}', 0)", "22023", "the list of activations is empty"),
    *[
        (
            f"{function}('{{5,{token}}}')",
            "22023",
            f'token {token} is not in the vocabulary of model "demo"',
        )
        for function in ("gpt2_forward", "gpt2_embeddings")
        for token in ("8192", "-1", "NULL")
    ],
    ("gpt2_forward('{}')", "22023", "the list of tokens is empty"),
    ("gpt2_embeddings('{}')", "22023", "the list of tokens is empty"),
    ("gpt2_detokenize('{1,NULL}')", "22023", "token NULL is not in the vocabulary"),
    ("gpt2._add_model('demo', '{}')", "42710", 'model "demo" already exists'),
]


@pytest.mark.parametrize("call, code, message", BAD, ids=[row[0][:60] for row in BAD])
def test_bad_input(demo, call, code, message):
    with pytest.raises(psycopg.Error) as error:
        demo.execute(f"SELECT {call}")
    diag = error.value.diag
    assert (diag.sqlstate, diag.message_primary) == (code, message)
    assert diag.message_detail and diag.message_detail.endswith(".")
    assert diag.message_hint


def test_bad_input_comes_before_the_work(tx):
    """Of all pages of weights at most one is looked at, whatever else the call would cost."""
    read = """SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::int
              FROM pg_stat_xact_user_tables WHERE relname = 'matrix_page'"""
    for call in (
        "gpt2_generate(repeat(' the', 255), 1, 'NaN')",
        "gpt2_generate(repeat(' the', 255), -1)",
        "gpt2_next_token(repeat(' the', 255), 0)",
        "gpt2_forward(array_fill(1, ARRAY[255]) || 8192)",
    ):
        tx.execute("SAVEPOINT before")
        with pytest.raises(errors.InvalidParameterValue):
            tx.execute(f"SELECT {call}")
        tx.execute("ROLLBACK TO before")
    assert one(tx, read) <= 4
    tx.execute("SELECT gpt2_generate('The', 1)")
    assert one(tx, read) > 1000


@pytest.mark.parametrize(
    "call",
    [
        "gpt2_generate('x')",
        "gpt2_next_token('x')",
        "gpt2_forward('{1}')",
        "gpt2_embeddings('{1}')",
        "gpt2_block('{\"[1]\"}', 0)",
    ],
)
def test_no_model(conn, call):
    with pytest.raises(errors.ObjectNotInPrerequisiteState) as error:
        conn.execute(f"SELECT {call}")
    assert error.value.diag.message_primary == "no model is loaded"
    assert "gpt2-loader load" in error.value.diag.message_hint


def test_setting_names_no_model(demo):
    demo.execute("SET gpt2.model = 'absent'")
    for call in ("gpt2_generate('x')", "gpt2_tokenize('x')"):
        with pytest.raises(errors.InvalidParameterValue, match='"absent" does not exist') as error:
            demo.execute(f"SELECT {call}")
        assert error.value.diag.message_detail == "The setting gpt2.model names it."


@pytest.mark.parametrize("options", [{}, {"model": "demo"}])
def test_model_without_weights(tx, options):
    tx.execute("DELETE FROM gpt2.matrix_page")
    with pytest.raises(psycopg.Error) as error:
        generate(tx, **options)
    assert error.value.diag.sqlstate == "55000"
    assert error.value.diag.message_primary == 'model "demo" has no weights'
    assert "gpt2-loader load SOURCE --name demo --replace" in error.value.diag.message_hint
