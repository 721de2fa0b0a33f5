"""Odd arguments of the right types, to every public function: a result, or an error that says what is
wrong and what to do. tests/arguments.py makes calls up; here are those that were once found.

GPT2_CALLS is how many are made up, GPT2_SEED from which number; `make fuzz` makes more."""

from __future__ import annotations

import os
from collections.abc import Iterator

import arguments
import psycopg
import pytest
from arguments import PREFIXES, VECTOR, VECTORS
from conftest import PROPERTY, one
from hypothesis import given, settings
from hypothesis import strategies as st
from test_extension import READERS, WRITERS

N_CALLS = int(os.environ.get("GPT2_CALLS", "300"))
SEED = int(os.environ.get("GPT2_SEED", "1"))


@pytest.fixture(scope="module")
def database(new_database) -> str:
    """URI of a database with a small model m, and a prefix by it in the table p."""
    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as connection:
        if one(
            connection, "SELECT count(*) FROM pg_available_extensions WHERE name = 'plpython3u'"
        ):
            connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
    arguments.prepare(uri)
    return uri


@pytest.fixture(scope="module")
def db(database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def session(database) -> Iterator[arguments.Session]:
    with arguments.Session(database) as session:
        yield session


@pytest.fixture(scope="module")
def functions(db) -> list[arguments.Function]:
    found = arguments.public_functions(db)
    assert {function.name for function in found} - {"gpt2_load_model"} == READERS | WRITERS
    return found


def test_odd_arguments(session, functions):
    """No error of the server's own, and none without DETAIL; every function is among them."""
    called = arguments.check(session, functions, N_CALLS, SEED)
    assert called.keys() == {function.name for function in functions} or N_CALLS < 2000


def bad(session: arguments.Session, body: str) -> list[arguments.Function]:
    """A function that somebody has added, of which nobody thought here."""
    session.connection.execute(
        "CREATE OR REPLACE FUNCTION bad(top_k int DEFAULT 1, word text DEFAULT '') RETURNS int "
        f"LANGUAGE plpgsql AS $$ BEGIN {body} RETURN 1; END; $$"
    )
    return [arguments.Function("bad", ["top_k", "word"], ["integer", "text"], 2)]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("IF top_k = 300 THEN PERFORM repeat('x', -1) FROM absent; END IF;", "gave 42P01 "),
        ("IF top_k = 300 THEN PERFORM 1 / 0; END IF;", "gave 22012 division by zero"),
        ("IF top_k = 300 THEN RAISE 'no' USING ERRCODE = '22023'; END IF;", "gave 22023 no (None)"),
        (
            "IF top_k = 300 THEN PERFORM pg_terminate_backend(pg_backend_pid()); "
            "PERFORM pg_sleep(9); END IF;",
            "ended the session: ",
        ),
    ],
)
def test_the_shortest_bad_call_is_shown(database, body, complaint):
    """With the one argument that it takes, as a statement."""
    with arguments.Session(database) as session, pytest.raises(AssertionError) as error:
        arguments.check(session, bad(session, body), 1000, 1)
    said, statement = f"{error.value}".rsplit("\n", 1)
    assert said.startswith(complaint)
    assert statement == "SELECT f.* FROM bad(top_k => (300)::integer) AS f;"


def test_a_call_that_goes_on_is_given_up(database, monkeypatch):
    monkeypatch.setattr(arguments, "PATIENCE", 0.5)
    with arguments.Session(database) as session:
        assert "went on" in session.end_of("SELECT pg_sleep(5)").complaint
        assert session.end_of("SELECT 1") == arguments.Ending("00000", None)


def test_a_call_that_its_timeout_ends_is_none(database, monkeypatch):
    monkeypatch.setattr(arguments, "TIMEOUT", 0.2)
    with arguments.Session(database) as session:
        assert session.end_of("SELECT pg_sleep(5)") == arguments.Ending("57014", None)


def test_a_call_that_takes_much_memory_is_found(database, monkeypatch):
    with arguments.Session(database) as session:
        if session._private() is None:
            pytest.skip("/proc does not tell what a process takes")
        monkeypatch.setattr(arguments, "MEMORY", session._private() + 100)
        sort = "SELECT count(*) FROM (SELECT repeat('x', {}) OFFSET 0) AS t (x) WHERE x <> ''"
        assert session.end_of(sort.format(100)).complaint is None
        assert session.end_of(sort.format(250_000_000)).complaint.startswith("took ")
        assert session.end_of(sort.format(100)).complaint is None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(PROPERTY, max_examples=100)
def test_literals(db, text):
    """What is printed is what was meant."""
    assert db.execute(f"SELECT {arguments.literal(text)}").fetchall() == [(text,)]
    assert "\n" not in arguments.literal(text)


#: calls with a text that has letters beyond ASCII
TEXT_CALLS = (
    "SELECT gpt2_tokenize($1::text)",
    "SELECT array_agg(token) FROM gpt2_tokens($1::text)",
    "SELECT array_agg(round(surprisal_bits::numeric, 4)) FROM gpt2_score($1::text)",
    "SELECT array_agg(choice) FROM gpt2_choose('a', ARRAY[$1::text, 'b'])",
    "SELECT gpt2_tokenize(gpt2_generate($1::text, 3, stop => ARRAY[$1::text]))",
)


@pytest.mark.parametrize("call", TEXT_CALLS)
def test_the_encoding_of_the_client_changes_nothing(database, call):
    """A client of LATIN1: its text is the same text, by the text protocol and by the binary."""
    answers = []
    for encoding in ("utf8", "latin1"):
        with psycopg.connect(database, client_encoding=encoding) as connection:
            for form in (0, 1):
                answers.append(
                    connection.pgconn.exec_params(
                        call.encode(), ["née".encode(encoding)], [25], [form]
                    ).get_value(0, 0).decode(encoding)
                )  # fmt: skip
    assert answers[0] and len(set(answers)) == 1


@pytest.mark.parametrize("call", TEXT_CALLS)
@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("sent", [b"a\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_bytes_that_are_no_text_do_not_come_in(db, call, form, sent):
    """The server refuses them; the session goes on."""
    result = db.pgconn.exec_params(call.encode(), [sent], [25], [form])
    assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"22021"
    assert one(db, "SELECT gpt2_tokenize('a')") == [64]


def test_text_that_the_client_lacks(database):
    """Of a client of LATIN1, a text that comes out is refused by the server; the session goes on."""
    with psycopg.connect(database, client_encoding="latin1", autocommit=True) as connection:
        tokens = one(connection, "SELECT gpt2_tokenize(U&'\\20AC')")
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            connection.execute("SELECT gpt2_detokenize(%s)", [tokens])
        assert one(connection, "SELECT gpt2_detokenize(gpt2_tokenize('é'))") == "é"


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        (
            f"gpt2_block(ARRAY[ARRAY[{VECTORS[3]}], ARRAY[{VECTORS[3]}]], 0)",
            "22023",
            "the list of activations has 2 dimensions",
        ),
        (f"gpt2_block(ARRAY[{VECTORS[4]}], 0)", "22023", 'the activations do not fit model "m"'),
        ("gpt2_forward('{{1,2},{3,4}}')", "22023", "the list of tokens has 2 dimensions"),
        ("gpt2_embeddings('{{1},{3}}')", "22023", "the list of tokens has 2 dimensions"),
        *(
            (
                f"gpt2_generate('a', 1, steer => ARRAY[ROW(0, NULL, {v}, {s})::gpt2.steering])",
                "22023",
                'the steering does not fit model "m"',
            )
            for v, s in [(VECTORS[4], 1), (VECTORS[3], "1e15"), (VECTORS[3], "'NaN'")]
        ),
        *(
            (
                "gpt2_next_token('a', patch => ARRAY[ROW(0, "
                f"{'0' if 'attn' in hook else 'NULL'}, {at}, '{hook}', {v})::gpt2.activation])",
                "22023",
                'the patch does not fit model "m"',
            )
            for hook, at, v in [
                ("hook_resid_pre", 0, VECTORS[4]),
                ("attn.hook_pattern", 2**31 - 1, "'[1]'"),
            ]
        ),
        (
            "gpt2_generate('a', logit_bias => jsonb_build_object(repeat('9', 200000), 1))",
            "22023",
            None,
        ),
        ("gpt2_complete('a', n => 2147483647)", "22023", "n must be between 1 and 1000"),
        ("gpt2_create_variant(repeat('m', 1000000))", "22023", "the name of a model is too long"),
        ("gpt2_average(repeat('m', 1001), 'm', 'm')", "22023", "the name of a model is too long"),
        *(
            (f"gpt2_generate(repeat('b', 24), 1, prefix => {prefix})", None, None)
            for prefix in PREFIXES[3:]
        ),
    ],
)
def test_refused(db, call, code, message):
    with pytest.raises(psycopg.Error) as error:
        db.execute(f"SELECT {call} FROM p")
    diag = error.value.diag
    assert diag.sqlstate == code or (code is None and diag.sqlstate in ("22023", "55000"))
    assert message in (None, diag.message_primary)
    assert diag.message_detail.endswith(".") and diag.message_hint


def test_the_prefix_is_one(db):
    """Unchanged, which those of test_refused are not."""
    calls = [f"SELECT gpt2_generate(repeat('b', 24), 3{p}) FROM p" for p in (", prefix => q", "")]
    assert one(db, calls[0]) == one(db, calls[1])


def test_lists_count_from_anywhere(db):
    """The first element of an array is the first, whatever its number."""
    for call in ("gpt2_forward", "gpt2_embeddings"):
        assert one(db, f"SELECT {call}('[0:2]={{5,6,7}}')") == one(
            db, f"SELECT {call}('{{5,6,7}}')"
        )
    walk = "SELECT gpt2_block({}, 0) FROM (SELECT gpt2_embeddings('{{5,6,7}}') AS x OFFSET 0) AS e"
    expected = one(db, walk.format("x"))
    db.execute(
        "CREATE FUNCTION pg_temp.shift(x vector[]) RETURNS vector[] LANGUAGE plpgsql AS "
        "'DECLARE y vector[]; BEGIN FOR i IN 1..cardinality(x) LOOP y[i - 5] := x[i]; END LOOP; "
        "RETURN y; END'"
    )
    assert one(db, walk.format("pg_temp.shift(x)")) == expected


def test_numbers_that_would_underflow(db):
    """They are as good as 0."""
    value = VECTOR.format("1e-3")
    plain = "SELECT gpt2_generate('a', 4{})"
    steer = f", steer => ARRAY[ROW(0, NULL, {value}, 5e-324)::gpt2.steering]"
    assert one(db, plain.format(steer)) == one(db, plain.format(""))
    with db.transaction(force_rollback=True):
        db.execute("UPDATE gpt2.wpe SET weight = weight + weight")
        db.execute("SELECT gpt2_average('new', 'm', 'm', 4.9e-324)")
        assert db.execute("SELECT * FROM gpt2_model_diff('m', 'new')").fetchall() == []


def test_masked_scores_may_be_the_least(db):
    """-3.4e38 in the place of a score: never look there."""
    [(weight,)] = db.execute("""
        SELECT t.value::real[] FROM gpt2_trace('a b c', '{pattern}', patch => ARRAY[
            ROW(0, 0, 2, 'attn.hook_attn_scores', '[-3.4e38,1,1]')::gpt2.activation]) AS t
        WHERE t.block = 0 AND t.head = 0 AND t."position" = 2""").fetchall()
    assert weight[0] < 1e-30 and weight[1] == weight[2] == 0.5
