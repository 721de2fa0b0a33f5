"""Odd arguments of the right types, to every public function: a result, or an error that says what is
wrong and what to do. GPT2_CALLS is how many calls are made up, GPT2_SEED from which number."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import psycopg
import pytest
from conftest import load_model, one
from oracle.checkpoints import SHAPES, write_checkpoint
from test_extension import READERS, WRITERS

N_CALLS = int(os.environ.get("GPT2_CALLS", "300"))
SEED = int(os.environ.get("GPT2_SEED", "1"))

#: what the reference documents, each with DETAIL; 2201B is the server's own, about a pattern
DOCUMENTED = {"22023", "54000", "0A000", "55000", "42710", "2BP01"}

N_CTX, WIDTH = 32, 32  # of short_context, the model of this file
BIG = "repeat(' the', 250000)"

INTS = ["NULL", "0", "1", "2", "-1", "2147483647", "-2147483648", "31", "33", "299", "300"]
FLOATS = [
    "NULL", "0", "'-0'", "1", "0.5", "-1", "'NaN'", "'Infinity'", "'-Infinity'", "5e-324", "1e-310",
    "1e-45", "1e300", "-1e300", "0.9999999999999999", "1.0000000000000002", "3.5e38",
]  # fmt: skip
TEXTS = [
    "NULL", "''", "' '", "'a'", "'The table'", "E'\\x01'", "E'\\x7f'", "E'a\\n\\r\\tb'", "chr(65535)",
    "chr(1114111)", "chr(55295)", "chr(57344)", "'né 😀 x\u0301'", "'<|endoftext|>'", "'%s %1$s'",
    "'\"''\\'", "repeat('a', 40)", BIG,
]  # fmt: skip
PATTERNS = [
    "NULL", "''", "'a*'", "'('", "'[a-'", "'a{2,1}'", "'(a|b)*c?'", "'\\d+'", "'^a$'", "'a(?=b)'",
    "'(?i)A+'", "'***:a'", "chr(1114111)", "'a{300}'", "'(a)\\1'", "repeat('a', 300)",
    "repeat('(', 300)", BIG,
]  # fmt: skip
POOLINGS = ["NULL", "''", "'mean'", "'max'", "'last'", "'weighted'", "'MEAN'"]
TEXT_LISTS = [
    "NULL", "'{}'", "'{NULL}'", "'{\"\"}'", "'{a,NULL,b}'", "'{{a,b},{c,d}}'", "'[0:1]={a,b}'",
    "'[5:5]={\" the\"}'", "'{a,a}'", "ARRAY[E'\\x01']", "ARRAY[chr(1114111)]", f"ARRAY[{BIG}]",
    "ARRAY[repeat('a', 40), 'b']",
]  # fmt: skip
HOOKS = [*TEXT_LISTS[:8], "'{resid_post}'", "'{pattern,NULL}'", "'{blocks.0.hook_mlp_out}'"]
INT_LISTS = [
    "NULL", "'{}'", "'{NULL}'", "'{1,2}'", "'{{1,2},{3,4}}'", "'[0:1]={1,2}'", "'{-1}'", "'{300}'",
    "'{2147483647}'", "'{-2147483648}'", "'{1,NULL}'", "array_fill(1, ARRAY[33])",
    "array_fill(1, ARRAY[2], ARRAY[-5])", "'{299,299}'",
]  # fmt: skip
JSONS = [
    "NULL", "'null'", "'[]'", "'{}'", "'1'", "'\"x\"'", "'true'", "'{\"a\": null}'", "'{\"a\": {}}'",
    "'{\"a\": []}'", "'{\"a\": true}'", "'{\"a\": \"1\"}'", "'{\"\": 1}'", "'{\"5\": 1e400}'",
    "'{\"5\": -1e-400}'", "'{\"5\": 1e100}'", "'{\"-5\": 1}'", "'{\"99999999999999999999\": 1}'",
    "'{\"0005\": 1}'", "'{\" 5\": 1, \"5\": false}'", "jsonb_build_object(repeat('9', 200000), 1)",
    "jsonb_build_object(repeat('0', 200000) || '5', 1)", f"jsonb_build_object({BIG}, 1)",
    "'{\"\\u0001\": 2}'",
]  # fmt: skip
VECTOR = f"array_fill({{}}::real, ARRAY[{WIDTH}])::vector"
VECTORS = [
    "NULL",
    "'[1]'",
    *(VECTOR.format(x) for x in ("0", "1", "3e38", "-3e38", "1e-45", "1e15")),
]
VECTOR_LISTS = [
    "NULL", "'{}'", "'{NULL}'", "'{\"[1]\"}'", f"ARRAY[{VECTORS[3]}, NULL]",
    *(f"ARRAY[{v}]" for v in VECTORS[2:]), f"ARRAY[ARRAY[{VECTORS[3]}], ARRAY[{VECTORS[3]}]]",
    f"array_fill({VECTORS[3]}, ARRAY[2], ARRAY[0])", f"array_fill({VECTORS[3]}, ARRAY[33])",
]  # fmt: skip
MODELS = ["NULL", "'m'", "'m'", "'m'", "'absent'", "''", BIG]
#: a prefix, with a part of it changed; q is that of 20 tokens
PREFIXES = ["NULL", "p.q", "ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL)::gpt2.prefix"] + [
    f"ROW({', '.join(changed if part == field else f'(p.q).{field}' for field in FIELDS)})"
    "::gpt2.prefix"
    for FIELDS in [("model", "edition", "tokens", "n_past", "past", "recent", "y")]
    for part, changes in {
        "model": ["NULL", "99"],
        "edition": ["NULL", "'{}'", "'{NULL}'"],
        "tokens": ["NULL", "'{}'", "(p.q).tokens[:3]", "(p.q).tokens || (p.q).tokens"],
        "n_past": ["NULL", "0", "-1", "15", "2147483647", "-2147483648"],
        "past": ["NULL", "'{}'", "(p.q).past[:2]", "array_fill(NULL::gpt2._past, ARRAY[4])",
                 "array_fill(ROW(NULL, NULL)::gpt2._past, ARRAY[4])",
                 "array_fill(((p.q).past)[1], ARRAY[4], ARRAY[0])",
                 "(SELECT array_agg(ROW(t.k, t.k[2:])::gpt2._past) FROM unnest((p.q).past) AS t)"],
        "recent": ["NULL", "'{}'", "(p.q).recent[2:]", "(p.q).y", "array_fill(NULL::vector, ARRAY[8])",
                   f"array_fill(array_fill(3e38::real, ARRAY[{2 * WIDTH}])::vector, ARRAY[8])"],
        "y": ["NULL", "'{}'", "(p.q).y[2:]", "(p.q).recent", "array_fill((p.q).y[1], ARRAY[20], ARRAY[0])"],
    }.items()
    for changed in changes
]  # fmt: skip

#: by the argument's name, else by its type
VALUES = {
    "pattern": PATTERNS, "pooling": POOLINGS, "hooks": HOOKS, "model": MODELS,
    "n": ["NULL", "0", "1", "3", "-1", "1001", "2147483647", "-2147483648"],  # each is a completion
    "integer": INTS, "bigint": [*INTS, "9223372036854775807", "-9223372036854775808"],
    "double precision": FLOATS, "boolean": ["NULL", "true", "false"], "text": TEXTS,
    "text[]": TEXT_LISTS, "integer[]": INT_LISTS, "jsonb": JSONS, "vector[]": VECTOR_LISTS,
    "gpt2.prefix": PREFIXES,
}  # fmt: skip
#: arguments that the calls need to come to anything
PLAIN = {
    "prompt": "'The table of the'", "text": "'The table of the'", "word": "'table'", "a": "'m'",
    "b": "'m'", "name": "'new'", "from_model": "'m'", "tokens": "'{1,2}'", "block": "0", "head": "1",
    "choices": "'{a,\" the\"}'", "x": f"ARRAY[{VECTORS[3]}]",
}  # fmt: skip
#: of what is slow for a reason
NO_BIG = {("gpt2_perplexity", "text"), ("gpt2_bpe", "word"), ("gpt2_tokens", "text")}


#: hook -> width, whether of a head: those in blocks
HOOK_WIDTHS = {
    "hook_resid_pre": (WIDTH, False), "ln1.hook_normalized": (WIDTH, False),
    "ln1.hook_out": (WIDTH, False), "attn.hook_q": (WIDTH // 2, True),
    "attn.hook_k": (WIDTH // 2, True), "attn.hook_v": (WIDTH // 2, True),
    "attn.hook_attn_scores": (1, True), "attn.hook_pattern": (1, True),
    "mlp.hook_pre": (4 * WIDTH, False), "mlp.hook_post": (4 * WIDTH, False),
    "hook_mlp_out": (WIDTH, False), "nowhere": (WIDTH, False),
}  # fmt: skip
ELEMENTS = ["0", "1", "-1", "3e38", "-3e38", "1e-45", "1e13", "-1e13", "1e-20"]


def mostly(rng: random.Random, plain: list[str], odd: list[str]) -> str:
    """One of the first list, or sometimes of the second."""
    return rng.choice(odd if rng.random() < 0.15 else plain)


def steering(rng: random.Random) -> str:
    """A list of rows of gpt2.steering, most of which fit the model."""
    rows = [
        mostly(
            rng,
            [
                f"ROW({mostly(rng, ['0', '1', '2'], INTS)}, {mostly(rng, ['NULL', '0'], INTS)}, "
                f"{rng.choice(VECTORS)}, {rng.choice(FLOATS)})::gpt2.steering"
            ],
            ["NULL"],
        )
        for _ in range(rng.choice([0, 1, 1, 2]))
    ]
    return f"ARRAY[{', '.join(rows)}]::gpt2.steering[]"


def patch(rng: random.Random) -> str:
    """A list of rows of gpt2.activation, most of which fit the model and the prompt."""
    rows = []
    for _ in range(rng.choice([0, 1, 1, 2])):
        hook = rng.choice(list(HOOK_WIDTHS))
        width, of_head = HOOK_WIDTHS[hook]
        value = mostly(
            rng,
            [f"array_fill({rng.choice(ELEMENTS)}::real, ARRAY[{width}])::vector"],
            ["NULL", "'[1,2]'"],
        )
        row = (
            f"ROW({mostly(rng, ['0', '1'], INTS)}, "
            f"{mostly(rng, ['0', '1'] if of_head else ['NULL'], INTS)}, "
            f"{mostly(rng, ['0'], INTS)}, '{hook}', {value})::gpt2.activation"
        )
        rows.append(mostly(rng, [row], ["NULL"]))
    return f"ARRAY[{', '.join(rows)}]::gpt2.activation[]"


def odd(rng: random.Random, function: str, name: str, kind: str) -> str:
    """An expression for an argument."""
    if kind == "gpt2.steering[]":
        return steering(rng)
    if kind == "gpt2.activation[]":
        return patch(rng)
    values = VALUES.get(name) or VALUES[kind]
    if (function, name) in NO_BIG:
        values = [text for text in values if text != BIG]
    # what is long is rare: 1 MB takes a second
    return rng.choices(values, [0.1 if BIG in text else 1 for text in values])[0]


def calls(functions: list[tuple], n: int, seed: int) -> Iterator[str]:
    """n calls, each with one odd argument or two: more would hide each other. An argument is as
    often odd as there are values for it, in any of the functions that have it."""
    rng = random.Random(seed)
    owners: dict[tuple[str, str], list[tuple]] = {}
    for function in functions:
        for argument in zip(function[1], function[2], strict=False):
            owners.setdefault(argument, []).append(function)
    weights = [len(VALUES.get(name) or VALUES.get(kind) or PREFIXES) for name, kind in owners]
    for argument in rng.choices(list(owners), weights, k=n):
        name, names, kinds, n_defaults = rng.choice(owners[argument])
        second = rng.choice([None, None, *names])
        arguments = []
        for at, (other, kind) in enumerate(zip(names, kinds, strict=False)):
            if other in (argument[0], second):
                expression = odd(rng, name, other, kind)
            elif other == "max_tokens":
                expression = "3"
            elif at < len(kinds) - n_defaults:
                expression = PLAIN[other]
            else:
                continue
            arguments.append(f"{other} => ({expression})::{kind}")
        yield f"SELECT f.* FROM p, {name}({', '.join(arguments)}) AS f"


@pytest.fixture(scope="module")
def db(new_database, tmp_path_factory) -> Iterator[psycopg.Connection]:
    """A connection to a database with a small model m, and a prefix by it in the table p."""
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2 CASCADE")
        load_model(
            uri, write_checkpoint(tmp_path_factory.mktemp("m"), SHAPES["short_context"]), "m"
        )
        connection.execute("CREATE TABLE p AS SELECT gpt2_prefix(repeat('b', 20)) AS q")
        assert one(connection, "SELECT cardinality((q).tokens) FROM p") == 20
        connection.execute("SET statement_timeout = '60s'")
        yield connection


@pytest.fixture(scope="module")
def functions(db) -> list[tuple]:
    """(name, argument names, argument types, how many have a default) of each public function."""
    rows = db.execute("""
        SELECT proname::text, proargnames[:pronargs],
               ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) AS t), pronargdefaults
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ '^gpt2_'
        ORDER BY proname""").fetchall()
    assert {row[0] for row in rows} == READERS | WRITERS
    return rows


def complaint(db: psycopg.Connection, call: str) -> str | None:
    """What is wrong with how a call ends, if anything is. It leaves nothing behind."""
    try:
        with db.transaction(force_rollback=True):
            db.execute(call)
    except psycopg.Error as error:
        diag = error.diag
        if diag.sqlstate == "2201B" or (
            diag.sqlstate in DOCUMENTED and diag.message_detail and diag.message_primary
        ):
            return None
        return f"{diag.sqlstate} {diag.message_primary} ({diag.message_detail}): {call}"
    return None


def test_odd_arguments(db, functions):
    """No error of the server's own, and none without DETAIL."""
    complaints = [complaint(db, call) for call in calls(functions, N_CALLS, SEED)]
    assert [text for text in complaints if text] == []


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
