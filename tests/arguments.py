"""Odd calls of the public functions, made up by hypothesis, and what is wrong with how they end.

A call has one odd argument or two, as more would hide each other, of the type that the catalog says:
a value of a list, or one that is made up. It may give a result or an error of the documentation's; it
may not give an error of the server's own, nor one without DETAIL, nor end or outlast its session,
nor take more than 2 GB.

`make fuzz` runs the long form, a process a core, and prints a table. A block of BLOCK calls is the
same for the same seed:

    PYTHONPATH=tests build/venv/bin/python -m arguments --calls 500 --seed 7

A call is printed as the statement to paste. m is the model that prepare() loads, p its table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from threading import Timer
from typing import NamedTuple

import hypothesis
import psycopg
from conftest import PROPERTY, ROOT, load_model, one
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg.conninfo import make_conninfo
from tqdm import tqdm

from bench.memory import status
from lint.__main__ import extension_database

BLOCK = 500  # calls of a seed: a test of hypothesis, which keeps what it has tried in memory
TIMEOUT = 10  # seconds, statement_timeout of a call
PATIENCE = 60  # seconds until a call that statement_timeout has not ended is given up
MEMORY = 2000  # MB that a session may take beside the shared buffers

#: the error codes that the documentation promises; 2201B is the server's own, about a pattern
DOCUMENTED = {
    code
    for page in ("reference.md", "loading.md")
    for code in re.findall(r"`([0-9A-Z]{5})`", (ROOT / "docs" / page).read_text())
}

N_CTX, WIDTH = 32, 32  # of short_context, the model m
BIG = "repeat(' the', 250000)"

INTS = ["NULL", "0", "1", "2", "-1", "2147483647", "-2147483648", "31", "33", "299", "300"]
BIGINTS = [*INTS, "9223372036854775807", "-9223372036854775808"]
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
PATHS = [
    "NULL", "''", "'a'", "'/'", "'/nonexistent'", "'/etc/passwd'", "'/dev/null'", "'/tmp'", "'//'",
    "'/' || repeat('a', 5000)", "'/' || " + BIG, "E'/a\\nb'", "'/../..'",
]  # fmt: skip
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

#: arguments that the calls need to come to anything
PLAIN = {
    "prompt": "'The table of the'", "text": "'The table of the'", "word": "'table'", "a": "'m'",
    "b": "'m'", "name": "'new'", "from_model": "'m'", "tokens": "'{1,2}'", "block": "0", "head": "1",
    "choices": "'{a,\" the\"}'", "path": "'/nonexistent'", "x": f"ARRAY[{VECTORS[3]}]",
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


class Function(NamedTuple):
    """A public function: the names and types of its arguments, and how many have a default."""

    name: str
    arguments: list[str]
    types: list[str]
    n_defaults: int


def public_functions(connection: psycopg.Connection) -> list[Function]:
    """What the catalog lists."""
    rows = connection.execute("""
        SELECT proname::text, coalesce(proargnames[:pronargs], '{}'),
               ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) AS t), pronargdefaults
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ '^gpt2_'
        ORDER BY proname""")
    return [Function(*row) for row in rows]


# Values, as SQL expressions: by the argument's name, else by its type


def literal(text: str) -> str:
    """A text as a string constant of one line."""
    if not text.isprintable():
        shown = (c if c.isprintable() and c != "\\" else f"\\+{ord(c):06x}" for c in text)
        return "U&'" + "".join(shown).replace("'", "''") + "'"
    return "'" + text.replace("'", "''") + "'"


def listed(values: list[str]) -> st.SearchStrategy[str]:
    """One of them. What is long is rare: 1 MB takes a second."""
    return st.sampled_from([v for v in values for _ in range(1 if BIG in v else 10)])


def row_of(*fields: st.SearchStrategy[str], kind: str) -> st.SearchStrategy[str]:
    return st.tuples(*fields).map(lambda found: f"ROW({', '.join(found)})::{kind}")


def list_of(elements: st.SearchStrategy[str], kind: str, most: int = 5) -> st.SearchStrategy[str]:
    """An array of up to so many."""
    return st.lists(elements, max_size=most).map(lambda found: f"ARRAY[{', '.join(found)}]::{kind}")


CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(CHARACTERS, max_size=60).map(literal)
small = st.integers(-50, 400).map(str)
integers = small | st.integers(-(2**31), 2**31 - 1).map(str)
bigints = small | st.integers(-(2**63), 2**63 - 1).map(str)
floats = st.floats().map(lambda x: f"'{x!r}'") | st.floats(-2, 2).map(repr)
PIECES = [*"ab .*+?|()[]{}^$-,019", "(?:", "(?=", "{2,3}", "[^a]", "[[:alpha:]]", "\\d", "\\1", "é"]
patterns = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda found: literal("".join(found)))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(CHARACTERS, max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(CHARACTERS, max_size=8) | st.integers(-2, 400).map(str), inner, max_size=4
        )
    ),
    max_leaves=6,
)
jsons = json_values.map(lambda value: literal(json.dumps(value, ensure_ascii=False)))
reals = st.floats(allow_nan=False, allow_infinity=False, width=32)
vectors = st.lists(reals, min_size=1, max_size=4).map(
    lambda found: f"'{found}'::vector"
) | reals.map(lambda x: VECTOR.format(f"'{x!r}'"))
null = st.just("NULL")


def mostly(plain: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Of the first, or sometimes of the second."""
    return st.integers(0, 6).flatmap(lambda n: odd if n == 6 else plain)


def fixed(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


#: rows of which most fit the model
steering = list_of(
    mostly(
        row_of(
            mostly(fixed("0", "1", "2"), listed(INTS)),
            mostly(fixed("NULL", "0"), listed(INTS)),
            listed(VECTORS) | vectors,
            listed(FLOATS) | floats,
            kind="gpt2.steering",
        ),
        null,
    ),
    "gpt2.steering[]",
    2,
)


def _activation(hook: str) -> st.SearchStrategy[str]:
    """A row of gpt2.activation, which mostly fits the model and a prompt."""
    width, of_head = HOOK_WIDTHS[hook]
    filled = listed(ELEMENTS) | reals.map(lambda x: f"'{x!r}'")
    return row_of(
        mostly(fixed("0", "1"), listed(INTS)),
        mostly(fixed("0", "1") if of_head else null, listed(INTS)),
        mostly(fixed("0"), listed(INTS)),
        st.just(f"'{hook}'"),
        mostly(
            filled.map(lambda x: f"array_fill({x}::real, ARRAY[{width}])::vector"),
            fixed("NULL", "'[1,2]'"),
        ),
        kind="gpt2.activation",
    )


patches = list_of(
    mostly(st.sampled_from(list(HOOK_WIDTHS)).flatmap(_activation), null), "gpt2.activation[]", 2
)

VALUES = {
    "pattern": listed(PATTERNS) | patterns,
    "pooling": listed(POOLINGS) | texts,
    "hooks": listed(HOOKS),
    "model": listed(MODELS) | texts,
    "path": listed(PATHS) | texts,
    # each is a completion
    "n": fixed("NULL", "0", "1", "3", "-1", "1001", "2147483647", "-2147483648"),
    "integer": listed(INTS) | integers,
    "bigint": listed(BIGINTS) | bigints,
    "double precision": listed(FLOATS) | floats,
    "boolean": fixed("NULL", "true", "false"),
    "text": listed(TEXTS) | texts,
    "text[]": listed(TEXT_LISTS) | list_of(null | texts, "text[]"),
    "integer[]": listed(INT_LISTS) | list_of(null | integers, "integer[]"),
    "jsonb": listed(JSONS) | jsons,
    "vector[]": listed(VECTOR_LISTS) | list_of(null | listed(VECTORS) | vectors, "vector[]", 3),
    "gpt2.prefix": listed(PREFIXES),
    "gpt2.steering[]": steering,
    "gpt2.activation[]": patches,
}


@cache
def values_of(function: str, argument: str, kind: str) -> st.SearchStrategy[str]:
    """Expressions for an argument."""
    values = VALUES[argument] if argument in VALUES else VALUES[kind]
    return values.filter(lambda text: BIG not in text) if (function, argument) in NO_BIG else values


def calls(functions: list[Function]) -> st.SearchStrategy[str]:
    """Statements. Half of them choose an argument, in any of the functions that have it, and half a
    function: no argument and no function is rare."""
    owners: dict[tuple, list[Function]] = {}
    for function in functions:
        arguments = zip(function.arguments, function.types, strict=True)
        for argument in list(arguments) or [(None, None)]:
            owners.setdefault(argument, []).append(function)
    argument_first = st.sampled_from(list(owners)).flatmap(
        lambda argument: st.tuples(st.just(argument[0]), st.sampled_from(owners[argument]))
    )
    function_first = st.sampled_from(functions).flatmap(
        lambda function: st.tuples(st.sampled_from(function.arguments or [None]), st.just(function))
    )

    @st.composite
    def statement(draw: Callable) -> str:
        odd, function = draw(argument_first | function_first)
        also = draw(st.sampled_from([None, None, *function.arguments]))
        given = []
        for at, (name, kind) in enumerate(zip(function.arguments, function.types, strict=True)):
            if name in (odd, also):
                expression = draw(values_of(function.name, name, kind))
            elif name == "max_tokens":
                expression = "3"
            elif at < len(function.types) - function.n_defaults:
                expression = PLAIN[name]
            else:
                continue
            given.append(f"{name} => ({expression})::{kind}")
        table = "p, " if any("p.q" in expression for expression in given) else ""
        return f"SELECT f.* FROM {table}{function.name}({', '.join(given)}) AS f"

    return statement()


# How a call ends


class Ending(NamedTuple):
    """code: 00000 for a result, else of the error; complaint: what is wrong with it, if anything."""

    code: str
    complaint: str | None


class Session:
    """A session in which calls are tried; a new one where a call has ended it or bloated it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.connection = psycopg.connect(uri, autocommit=True)
        self._set_up()

    def _set_up(self) -> None:
        # what is refused here is nobody's test of a message: see tests/messages.py
        self.connection.execute(
            f"SET statement_timeout = '{TIMEOUT}s'; SET log_min_messages = fatal"
        )

    def _renew(self) -> None:
        self.connection.close()
        self.connection = psycopg.connect(self.uri, autocommit=True)
        self._set_up()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        self.connection.close()

    def end_of(self, statement: str) -> Ending:
        """How a statement ends. It leaves nothing behind."""
        given_up = []

        def give_up() -> None:
            given_up.append(True)
            with socket.socket(fileno=os.dup(self.connection.pgconn.socket)) as ours:
                ours.shutdown(socket.SHUT_RDWR)

        watch = Timer(PATIENCE, give_up)
        watch.start()
        try:
            with self.connection.transaction(force_rollback=True):
                self.connection.execute(statement)
            ending = Ending("00000", None)
        except psycopg.Error as error:
            ending = self._judge(error, bool(given_up))
        finally:
            watch.cancel()
        private = self._private()
        if private is not None and private > MEMORY:
            ending = Ending(ending.code, f"took {private:,.0f} MB")
        if ending.complaint and (self.connection.broken or private is None or private > MEMORY):
            self._renew()
        return ending

    def _judge(self, error: psycopg.Error, given_up: bool) -> Ending:
        diag = error.diag
        if given_up:
            return Ending("none", f"went on {PATIENCE} s, and statement_timeout did not end it")
        if self.connection.broken:
            return Ending(diag.sqlstate or "none", f"ended the session: {error}")
        is_good = diag.sqlstate in DOCUMENTED and diag.message_primary and diag.message_detail
        if is_good or diag.sqlstate in ("2201B", "57014"):
            return Ending(diag.sqlstate, None)
        said = f"{diag.sqlstate} {diag.message_primary} ({diag.message_detail})"
        return Ending(diag.sqlstate, f"gave {said}")

    def _private(self) -> float | None:
        """MB that the session has had at most beside the shared buffers, where /proc tells."""
        pid = self.connection.info.backend_pid
        peak, shared = status(pid, "VmHWM"), status(pid, "RssShmem")
        return None if peak is None or shared is None else peak - shared


def check(
    session: Session,
    functions: list[Function],
    n_calls: int,
    seed: int,
    counts: Counter | None = None,
) -> Counter:
    """Tries calls, and gives how often each function was called; AssertionError with the shortest
    that was found of those that end badly. counts: of how they end, by code."""
    called: Counter = Counter()

    @hypothesis.seed(seed)
    @settings(PROPERTY, max_examples=n_calls, print_blob=False)
    @given(calls(functions))
    def ends_well(statement: str) -> None:
        ending = session.end_of(statement)
        called[statement.partition("(")[0].split()[-1]] += 1
        if counts is not None:
            counts[ending.code] += 1
        assert not ending.complaint, f"{ending.complaint}\n{statement};"

    ends_well()
    return called


def prepare(uri: str) -> None:
    """Makes the extension's database one with the model m, and a prefix of it in the table p."""
    with tempfile.TemporaryDirectory() as directory:
        load_model(uri, write_checkpoint(Path(directory), SHAPES["short_context"]), "m")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE p AS SELECT gpt2_prefix(repeat('b', 20)) AS q")
        assert one(connection, "SELECT cardinality((q).tokens) FROM p") == 20


# The long form


def _block(
    uri: str, functions: list[Function], n_calls: int, seed: int
) -> tuple[Counter, str | None]:
    """How the calls of a seed end, and what is wrong, if anything."""
    counts: Counter = Counter()
    with Session(uri) as session:
        try:
            check(session, functions, n_calls, seed, counts)
        except Exception as error:  # hypothesis' own too: that a failure does not come again
            return counts, str(error)
    return counts, None


def run_all(uri: str, functions: list[Function], n_calls: int, seed: int) -> Iterator[tuple]:
    """Blocks with the seeds from this one on, as they are done: (seed, counts, what is wrong)."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        blocks = {
            pool.submit(_block, uri, functions, min(BLOCK, n_calls - start), seed + i): seed + i
            for i, start in enumerate(range(0, n_calls, BLOCK))
        }
        for block in as_completed(blocks):
            yield blocks[block], *block.result()


def table(counts: Counter, n_wrong: int) -> Iterator[str]:
    """What came of the calls, a line a count."""
    errors = {code: n for code, n in counts.items() if code not in ("00000", "57014")}
    rows = [
        ("calls", counts.total()),
        ("results", counts["00000"]),
        ("errors", sum(errors.values())),
        *((f"  {code}", n) for code, n in sorted(errors.items())),
        (f"over {TIMEOUT} s", counts["57014"]),
        ("bad ends", n_wrong),
    ]
    return (f"{name:<12}{n:>9,}" for name, n in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="arguments", description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=2000, help="how many calls")
    parser.add_argument("--seed", type=int, default=1, help="of the first block")
    options = parser.parse_args()
    cluster = os.environ.get("GPT2_TEST_DSN")
    if not cluster:
        raise SystemExit("GPT2_TEST_DSN is not set: run it with `make fuzz`")
    counts, n_wrong = Counter(), 0
    with (
        extension_database(cluster) as connection,
        tqdm(total=options.calls, unit=" calls", desc="calls", mininterval=1) as progress,
    ):
        uri = make_conninfo(cluster, dbname=connection.info.dbname)
        prepare(uri)
        functions = public_functions(connection)
        for seed, ended, wrong in run_all(uri, functions, options.calls, options.seed):
            progress.update(ended.total())
            counts += ended
            if wrong:
                n_wrong += 1
                progress.write(f"{wrong}\n    again: make fuzz FILES=0 CALLS={BLOCK} SEED={seed}")
    print("\n".join(table(counts, n_wrong)))
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
