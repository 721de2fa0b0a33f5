"""Generation as it is asked for: streams, several completions, stops, and stored prefixes."""

from __future__ import annotations

import itertools
import re
import subprocess
import time

import psycopg
import pytest
from calls import count_calls
from conftest import DEMO, cases, examples, load_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors

PROMPT = "CREATE TABLE"
# inner products of a position in linear layers, the demo model's: see test_behaviour.py
N_LINEAR = 6 * 128 * (3 + 1 + 4 + 4)
SETTINGS = settings(
    max_examples=examples(40),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def call(function: str, columns: str = "*", **options) -> tuple[str, list]:
    """A call of a function with the prompt and these options, and its parameters; the text is
    the completion alone."""
    options = {"echo": False} | options
    types = {
        "stop": "::text[]",
        "choices": "::text[]",
        "logit_bias": "::jsonb",
        "allowed_tokens": "::int[]",
        "banned_tokens": "::int[]",
        "seed": "::bigint",
        "n": "::int",
        "max_tokens": "::int",
        "min_tokens": "::int",
        "pattern": "::text",
    }
    named = "".join(f", {name} => %s{types.get(name, '')}" for name in options if name != "prompt")
    values = [value for name, value in options.items() if name != "prompt"]
    return f"SELECT {columns} FROM {function}(%s{named})", [options.get("prompt", PROMPT), *values]


def rows(conn: psycopg.Connection, function: str, columns: str = "*", **options) -> list[tuple]:
    return conn.execute(*call(function, columns, **options)).fetchall()


def generate(conn: psycopg.Connection, **options) -> str | None:
    return rows(conn, "gpt2_generate", **options)[0][0]


def tokenize(conn: psycopg.Connection, text: str) -> list[int]:
    return conn.execute("SELECT gpt2_tokenize(%s)", [text]).fetchone()[0]


# ---- A stream


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 1.3, "top_k": 20, "seed": -1},
        {"stop": ["_options"]},
        {"choices": [" tables", " of things", " IF NOT EXISTS"]},
        {"max_tokens": 1},
        {"max_tokens": 0},
        {"prompt": ""},
        {"prompt": PROMPT * 9, "max_tokens": 40},
    ],
)
def test_stream_is_generate(demo, options):
    stream = rows(demo, "gpt2_stream", **options)
    texts = [row[3] for row in stream]
    assert texts[-1] == generate(demo, **options)
    # the text only grows
    assert all(b.startswith(a) for a, b in itertools.pairwise(texts))
    assert [row[5] is None for row in stream] == [True] * (len(stream) - 1) + [False]
    if options.get("max_tokens") != 0:
        assert [row[0] for row in stream] == list(range(1, len(stream) + 1))
    echoed = rows(demo, "gpt2_stream", echo=True, **options)
    assert [row[3] for row in echoed] == [options.get("prompt", PROMPT) + text for text in texts]


def test_stream_is_complete(demo):
    """The same tokens and log probabilities; those of gpt2_next_token, which test_fidelity knows."""
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 3}
    stream = rows(demo, "gpt2_stream", **options)
    complete = rows(demo, "gpt2_complete", **options)
    assert complete == [
        (
            1,
            stream[-1][3],
            [row[1] for row in stream],
            [row[4] for row in stream],
            "length",
            len(tokenize(demo, PROMPT)),
            12,
        )
    ]
    text = PROMPT
    for _, token, piece, so_far, logprob, _ in stream[:4]:
        probability = demo.execute(
            """SELECT piece, ln(probability) FROM gpt2_next_token(%s, NULL)
               WHERE token = %s""",
            [text, token],
        ).fetchone()
        assert probability == (piece, pytest.approx(logprob, abs=1e-6))
        text = PROMPT + so_far


def test_cursor_gets_rows_as_they_are_made(demo_dsn):
    """Time order: the client has the first row before the server computes the last."""
    with psycopg.connect(demo_dsn) as conn, conn.cursor(name="stream") as cursor:
        cursor.itersize = 1
        cursor.execute("SELECT step, clock_timestamp() FROM gpt2_stream(%s, 60)", [PROMPT])
        received = [(step, made.timestamp(), time.time()) for step, made in cursor]
    assert [step for step, _, _ in received] == list(range(1, 61))
    for (_, _, arrived), (_, made, _) in itertools.pairwise(received):
        assert arrived < made


#: since 17 psql's FETCH_COUNT takes no cursor
PSQL_VERSION = int(
    re.search(
        r"\) (\d+)",
        subprocess.run(["psql", "--version"], capture_output=True, text=True, check=True).stdout,
    ).group(1)
)


def test_psql_prints_rows_as_they_are_made(demo_dsn):
    """psql, as docs/generation.md has it: its first line is here before the last row is made."""
    query = f"SELECT step, extract(epoch FROM clock_timestamp()) FROM gpt2_stream('{PROMPT}', 60)"
    if PSQL_VERSION < 17:
        script = f"\\set FETCH_COUNT 1\n{query};"
    else:
        script = f"BEGIN; DECLARE c CURSOR FOR {query};\nFETCH 1 FROM c \\watch i=0 min_rows=1\n"
    with subprocess.Popen(
        ["stdbuf", "-oL", "psql", "-X", "-q", "-A", "-t", demo_dsn],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdin.write(script)
        process.stdin.close()
        first, first_at = process.stdout.readline(), time.time()
        last = [line for line in process.stdout if line.strip()][-1]
    assert first.startswith("1|") and last.startswith("60|")
    assert first_at < float(last.split("|")[1])


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT * FROM gpt2_stream('{PROMPT}', 100) LIMIT 3",
        f"SELECT s.* FROM (VALUES ('{PROMPT}'), ('The')) AS v (prompt), gpt2_stream(v.prompt, 100) AS s"
        " LIMIT 3",
    ],
)
def test_limit_stops_the_work(demo, query):
    calls = count_calls(demo, query)["vector_negative_inner_product"]
    short = count_calls(demo, f"SELECT * FROM gpt2_stream('{PROMPT}', 3)")
    assert calls == short["vector_negative_inner_product"]


def test_closing_stops_the_work(demo):
    def calls(n_fetched: int) -> int:
        return count_calls(
            demo,
            f"""
            DECLARE c CURSOR FOR SELECT * FROM gpt2_stream('{PROMPT}', 100);
            FETCH {n_fetched} FROM c; CLOSE c""",
        )["vector_negative_inner_product"]

    one, two, three = (calls(n) for n in (1, 2, 3))
    # a token more each; at every position attention has a key more, of 4 heads in 6 blocks
    assert three - two == two - one + 4 * 6 > 0


CHARACTERS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


@given(choice=CHARACTERS)
@SETTINGS
def test_characters_appear_when_complete(demo, choice):
    """The one choice is spelt out, by bytes where no token has its characters."""
    stream = rows(demo, "gpt2_stream", choices=[choice], max_tokens=64)
    assert stream[-1][3:] == (choice, stream[-1][4], "stop")
    for _, _, _, text, _, _ in stream:
        assert choice.startswith(text)
    # each is shown at once: by its last byte
    n_bytes = 0
    for _, token, _, text, _, _ in stream:
        n_bytes += demo.execute(
            """SELECT length(t.bytes) FROM gpt2.token AS t
                                   WHERE t.tokenizer = 1 AND t.token = %s""",
            [token],
        ).fetchone()[0]
        whole = choice.encode()[:n_bytes].decode(errors="ignore")
        assert text == whole


# ---- How it ends


def test_finish_reasons(demo):
    def reason(**options) -> str:
        return rows(demo, "gpt2_complete", "finish_reason", **options)[0][0]

    eos = 8191
    assert reason(max_tokens=3) == "length"
    assert reason(stop=["_"]) == "stop"
    assert reason(choices=[" x"]) == "stop"
    assert reason(choices=[]) == "constraint"
    assert reason(allowed_tokens=[eos]) == "eos"
    assert reason(max_tokens=1000) == "context"
    n_prompt = len(tokenize(demo, PROMPT))
    assert reason(max_tokens=256 - n_prompt) == "length"
    assert reason(max_tokens=257 - n_prompt) == "context"
    full = " table" * 256
    assert reason(prompt=full) == "context"
    assert rows(demo, "gpt2_stream", prompt=full) == [(0, None, None, "", None, "context")]
    assert reason(prompt=full, max_tokens=0) == "length"
    assert reason(prompt=full, choices=[" x"]) == "constraint"
    assert reason(max_tokens=0, choices=[" x"]) == "constraint"
    assert reason(max_tokens=0, choices=["", "x"]) == "length"


def test_eos_is_a_token_without_text(demo):
    assert rows(
        demo,
        "gpt2_complete",
        "text, tokens, finish_reason, completion_tokens",
        allowed_tokens=[8191],
    ) == [("", [8191], "eos", 1)]
    step = rows(
        demo, "gpt2_stream", "step, token, piece, text, finish_reason", allowed_tokens=[8191]
    )
    assert step == [(1, 8191, "<|endoftext|>", "", "eos")]


def test_min_tokens_and_ignore_eos(demo):
    # the bias makes <|endoftext|> the likeliest
    bias = '{"8191": 100}'
    assert generate(demo, logit_bias=bias) == ""
    plain = generate(demo, max_tokens=5)
    for n in (1, 5):
        assert rows(
            demo,
            "gpt2_complete",
            "text, finish_reason, completion_tokens",
            logit_bias=bias,
            min_tokens=n,
        ) == [(generate(demo, max_tokens=n), "eos", n + 1)]
    assert generate(demo, logit_bias=bias, ignore_eos=True, max_tokens=5) == plain


GREEDY_40 = (
    " tables (protable_options AS primary_options AS primary_options | date_options"
    " | date_options | date_options"
)


def test_greedy_text(demo):
    assert generate(demo, max_tokens=40) == GREEDY_40


@given(data=st.data())
@SETTINGS
def test_stop(demo, data):
    """The text before the first of them, whatever the tokens are."""

    def part() -> str:
        first = data.draw(st.integers(0, len(GREEDY_40) - 1))
        return GREEDY_40[first : first + data.draw(st.integers(1, 12))]

    stop = [part() for _ in range(data.draw(st.integers(1, 3)))] + ["§", None]
    expected = min((GREEDY_40[: GREEDY_40.find(s)] for s in stop[:-1] if s in GREEDY_40), key=len)
    text, reason, n = rows(
        demo, "gpt2_complete", "text, finish_reason, completion_tokens", stop=stop, max_tokens=40
    )[0]
    assert (text, reason) == (expected, "stop")
    # and no token more was asked for than shows it
    plain = rows(demo, "gpt2_stream", "text", max_tokens=n)
    assert not any(s in plain[-2][0] for s in stop[:-1]) if n > 1 else True
    texts = [row[3] for row in rows(demo, "gpt2_stream", stop=stop, max_tokens=40)]
    assert texts[-1] == expected and all(expected.startswith(t) for t in texts)


def test_stop_that_does_not_come(demo):
    assert generate(demo, max_tokens=40, stop=["_options§", "| dates"]) == GREEDY_40


# ---- Several completions


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}])
def test_each_choice_has_its_seed(demo, options):
    complete = rows(demo, "gpt2_complete", "choice, text", n=4, seed=11, max_tokens=9, **options)
    assert complete == [
        (i + 1, generate(demo, seed=11 + i, max_tokens=9, **options)) for i in range(4)
    ]
    assert len({text for _, text in complete}) == 4


def test_fresh_choices(demo):
    texts = rows(demo, "gpt2_complete", "text", n=3, temperature=2.0, max_tokens=8)
    assert len(set(texts)) == 3


def test_choices_share_the_prompt(demo):
    """Inner products: of n completions those of one, and n - 1 times those after the prompt."""

    def calls(n: int, max_tokens: int) -> int:
        query = f"SELECT * FROM gpt2_complete(repeat('{PROMPT} ', 12), {max_tokens}, {n})"
        return count_calls(demo, query)["vector_negative_inner_product"]

    # the first token costs its logits, the second a position too
    logits = calls(2, 1) - calls(1, 1)
    assert logits == 8192
    more = calls(3, 2) - calls(2, 2)
    assert more == calls(2, 2) - calls(1, 2)
    assert 2 * 8192 + N_LINEAR < more < 2 * 8192 + 1.5 * N_LINEAR


# ---- A stored prefix


@pytest.fixture(scope="module")
def prefixes(demo_dsn):
    with psycopg.connect(demo_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE gpt2_test_prefix (text text PRIMARY KEY, prefix gpt2.prefix)")
        yield conn
        conn.execute("DROP TABLE gpt2_test_prefix")


LONG = "CREATE TABLE cities (name text, location point);\n" * 4
TEXTS = [LONG + "SELECT", LONG, LONG[:70] + " and so on", "CREATE INDEX", "", LONG[:-3]]
PREFIXES = [LONG, LONG[:40], LONG[:20], "CREATE", "", LONG + "SELECT now()"]


@pytest.mark.parametrize("apart", cases([3, 1], [3]), ids=["one function", "each"])
def test_prefix_changes_nothing(prefixes, apart):
    """To the last bit, whatever the two texts have in common."""
    for prefix in PREFIXES:
        prefixes.execute(
            """INSERT INTO gpt2_test_prefix VALUES (%s, gpt2_prefix(%s))
                            ON CONFLICT DO NOTHING""",
            [prefix, prefix],
        )
    functions = ["gpt2_generate", "gpt2_stream", "gpt2_complete"]
    for t, text in enumerate(TEXTS):
        for f, function in enumerate(functions):
            call = f"SELECT f FROM {function}(%s, max_tokens => 6, temperature => 1, seed => 5"
            without = prefixes.execute(f"{call}) AS f", [text]).fetchall()
            assert without
            for prefix in PREFIXES[(t + f) % apart :: apart]:
                stored = "(SELECT p.prefix FROM gpt2_test_prefix AS p WHERE p.text = %s)"
                given_prefix = prefixes.execute(
                    f"{call}, prefix => {stored}) AS f", [text, prefix]
                ).fetchall()
                assert given_prefix == without, (function, text, prefix)


def test_prefix_is_not_computed_again(prefixes):
    prefixes.execute(
        """INSERT INTO gpt2_test_prefix VALUES (%s, gpt2_prefix(%s))
                        ON CONFLICT DO NOTHING""",
        [LONG, LONG],
    )
    n = len(tokenize(prefixes, LONG))

    def calls(text: str, extra: str = ", prefix => p.prefix") -> int:
        return count_calls(
            prefixes,
            f"""
            SELECT gpt2_generate('{text}', 1{extra}) FROM gpt2_test_prefix AS p
            WHERE p.text = '{LONG}'""",
        )["vector_negative_inner_product"]

    # the whole prompt is in the prefix: only the logits are left
    assert calls(LONG) == 8192
    without = calls(LONG, "")
    assert without - 8192 > n * N_LINEAR
    # the neurons of one position more, and its attention
    assert calls(LONG + "x") - 8192 < (without - 8192) / n * 2


def test_prefix_of_another_model(new_database):
    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as conn:
        for name in ("one", "other"):
            load_model(uri, DEMO, name)
        conn.execute("CREATE TABLE p AS SELECT gpt2_prefix('CREATE TABLE', 'one') AS prefix")
        query = "SELECT gpt2_generate('CREATE TABLE', 2, model => '{}', prefix => prefix) FROM p"
        text = conn.execute(query.format("one")).fetchone()
        with pytest.raises(errors.InvalidParameterValue) as info:
            conn.execute(query.format("other"))
        assert info.value.diag.message_primary == 'the prefix was not made for model "other"'
        assert info.value.diag.message_detail == 'It was made for model "one".'
        assert info.value.diag.message_hint == "Make one: SELECT gpt2_prefix(prompt, 'other');"
        # of a variant of it neither: its weights are its own
        conn.execute("SELECT gpt2_create_variant('variant', 'one')")
        with pytest.raises(errors.InvalidParameterValue):
            conn.execute(query.format("variant"))
        # and none after its weights have changed, or those of a variant's base
        conn.execute("CREATE TABLE v AS SELECT gpt2_prefix('CREATE TABLE', 'variant') AS prefix")
        of_variant = query.format("variant").replace("FROM p", "FROM v")
        assert conn.execute(of_variant).fetchone() == text
        with conn.transaction(force_rollback=True):
            conn.execute("""UPDATE gpt2.wpe SET weight = weight + weight WHERE "position" = 200
                            AND model = (SELECT model FROM gpt2.model WHERE name = 'one')""")
            for name, stale in (("one", query.format("one")), ("variant", of_variant)):
                with pytest.raises(errors.ObjectNotInPrerequisiteState) as info, conn.transaction():
                    conn.execute(stale)
                assert info.value.diag.message_primary == (
                    f'the weights of model "{name}" have changed since the prefix was made'
                )
                assert info.value.diag.message_detail == (
                    "What it holds is not what the model computes now."
                )
                assert info.value.diag.message_hint == (
                    f"Make it again: SELECT gpt2_prefix(prompt, '{name}');"
                )
        # what was rolled back has not happened
        assert conn.execute(query.format("one")).fetchone() == text
        conn.execute("SELECT gpt2_drop_model('variant')")
        load_model(uri, DEMO, "one", "--replace")
        with pytest.raises(errors.InvalidParameterValue) as info:
            conn.execute(query.format("one"))
        assert info.value.diag.message_detail == "The model that it was made for is gone."


def test_prefix_and_steering(demo):
    with pytest.raises(errors.FeatureNotSupported) as info:
        demo.execute("""SELECT gpt2_generate('x', 1, prefix => gpt2_prefix('x'), steer => ARRAY[
            ROW(0, NULL, array_fill(1, ARRAY[128])::vector, 1)::gpt2.steering])""")
    assert info.value.diag.message_primary == "a prefix cannot be steered or patched"


@pytest.mark.parametrize("function", ["gpt2_stream", "gpt2_complete"])
def test_null_prompt(demo, function):
    assert rows(demo, function, prompt=None) == []


def test_null_prefix(demo):
    assert demo.execute("SELECT gpt2_prefix(NULL)").fetchone() == (None,)
    assert generate(demo, prompt="The", max_tokens=3, prefix=None) == generate(
        demo, prompt="The", max_tokens=3
    )


def test_prefix_survives_a_dump(demo_dsn, new_database):
    """It is data: pg_dump writes it, and it goes with the model that is in the same dump."""
    with psycopg.connect(demo_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE gpt2_test_dump AS SELECT gpt2_prefix(%s) AS p", [LONG])
        expected = generate(conn, prompt=LONG, max_tokens=3)
        dump = subprocess.run(["pg_dump", demo_dsn], capture_output=True, text=True, check=True)
        conn.execute("DROP TABLE gpt2_test_dump")
    uri = new_database()
    subprocess.run(
        ["psql", "-X", "-q", uri], input=dump.stdout, capture_output=True, text=True, check=True
    )
    with psycopg.connect(uri) as conn:
        assert (
            conn.execute(
                "SELECT gpt2_generate(%s, 3, echo => false, prefix => p) FROM gpt2_test_dump",
                [LONG],
            ).fetchone()[0]
            == expected
        )


def test_each_row_of_a_table_has_its_own_sample(demo):
    """Without a seed; the planner would keep the rows of a prompt for the next with the same."""
    demo.execute("""CREATE TEMP TABLE same AS SELECT i, 'CREATE'::text AS p FROM generate_series(1, 6) AS i;
                    ANALYZE same""")
    texts = demo.execute("""SELECT i, text FROM same, gpt2_stream(p, 4, 2)
                            WHERE finish_reason IS NOT NULL""").fetchall()
    demo.execute("DROP TABLE same")
    assert len(texts) == 6 and len({text for _, text in texts}) > 1
