"""Two versions of the sources beside each other: `make bench AGAINST=COMMIT`.

Each has a database of one server, made by its own plain script, with the models that its own
loader makes of one checkpoint. Only the public functions are called, so that what lies below may
differ. What counts is the CPU time of the backend (Linux's /proc/PID/schedstat, to the
nanosecond): the wall clock of a busy machine swings by more than a version differs. It is the
least of some rounds, in which the two take turns: whatever disturbs a run makes it longer.

Whose weights came first into empty shared buffers had up to 5 % less work: their pages lie in
order. So a half of the rounds runs after each order, with a restart of the server before.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from tables import aligned

from bench import database, texts
from bench.memory import watch
from bench.report import figure
from bench.samples import progress

FOLDER = database.ROOT / "build" / "against"
ROUNDS = 8
WORD = " table"  # one token, whose repetition makes a prompt of a known length


class Version:
    """A tree of sources, and the database that is made from it."""

    def __init__(self, name: str, tree: Path, cluster: str):
        self.name, self.tree = name, tree
        self.database = f"gpt2_against_{name}"
        self.cluster, self.dsn = cluster, make_conninfo(cluster, dbname=self.database)

    def make(self) -> None:
        """Makes the database anew, by the plain script, without a model."""
        progress(f"database {self.database}: making it")
        with psycopg.connect(self.cluster, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {self.database} TEMPLATE template0")
        _run("make", "-s", "-C", self.tree, "build/gpt2.sql")
        _run("psql", "-qX", self.dsn, "-c", "CREATE EXTENSION vector")
        _run("psql", "-qX", "-v", "ON_ERROR_STOP=1", self.dsn, "-f", self.tree / "build/gpt2.sql")

    def load(self, dtype: str, name: str = "") -> None:
        """Loads the checkpoint by this version's loader, as bench_DTYPE unless named."""
        loader = [sys.executable, "-c", "from gpt2_loader.cli import app; app()", "load"]
        path = {"PYTHONPATH": str(self.tree / "loader")}
        # before 0.1.0 the option had another name
        option = "--dtype" if "--dtype" in _run(*loader, "--help", **path) else "--precision"
        name = name or f"bench_{dtype}"
        _run(*loader, database.CHECKPOINT, "--dsn", self.dsn, "--name", name, option, dtype, **path)

    def connect(self) -> psycopg.Connection:
        """A connection in which a statement is one process's work."""
        connection = psycopg.connect(self.dsn, autocommit=True)
        connection.execute("SET max_parallel_workers_per_gather = 0")
        return connection


def _run(*command: object, **environment: str) -> str:
    """What a command prints; where it fails that is the error."""
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def checkout(commit: str) -> Path:
    """The commit's files in build/against."""
    tree = FOLDER / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "-C", database.ROOT, "archive", commit], capture_output=True, check=False
    )
    if archive.returncode != 0:
        raise SystemExit(f"no commit {commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)
    return tree


def cpu(connection: psycopg.Connection, query: str, parameters: dict | None = None) -> float:
    """Milliseconds of CPU that the backend takes for a statement."""
    stat = Path(f"/proc/{connection.info.backend_pid}/schedstat")
    before = int(stat.read_text().split()[0])
    connection.execute(query, parameters).fetchall()
    return (int(stat.read_text().split()[0]) - before) / 1e6


def repeated(n: int) -> str:
    """A prompt of n tokens."""
    return WORD * n


def store(connection: psycopg.Connection, model: str, n: int) -> str:
    """A table of one row with the prefix of n tokens: its name."""
    table = f"stored_{n}"
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
        connection.execute(f"CREATE TEMP TABLE {table} (prefix gpt2.prefix)")
        connection.execute(f"INSERT INTO {table} SELECT gpt2_prefix(%s, %s)", [repeated(n), model])
    return table


def token(n: int, function: str = "gpt2_generate") -> Callable[[psycopg.Connection, str], float]:
    """Milliseconds of a token after n, which are stored as a prefix: 16 more of them, divided."""

    def measure(connection: psycopg.Connection, model: str) -> float:
        query = f"""SELECT count(*) FROM {function}(%(prompt)s, %(n)s, model => %(model)s,
                        prefix => (SELECT prefix FROM {store(connection, model, n)}))"""
        times = [
            cpu(connection, query, {"prompt": repeated(n), "n": more, "model": model})
            for more in (1, 17)
        ]
        return (times[1] - times[0]) / 16

    return measure


def statement(query: str, **parameters: object) -> Callable[[psycopg.Connection, str], float]:
    """Milliseconds of a statement."""
    return lambda connection, model: cpu(connection, query, parameters | {"model": model})


def prefixed(n: int) -> Callable[[psycopg.Connection, str], float]:
    """Milliseconds of the first token after n, all but 8 of which are stored as a prefix."""

    def measure(connection: psycopg.Connection, model: str) -> float:
        query = f"""SELECT gpt2_generate(%(prompt)s, 1, model => %(model)s,
                        prefix => (SELECT prefix FROM {store(connection, model, n - 8)}))"""
        return cpu(connection, query, {"prompt": repeated(n), "model": model})

    return measure


GENERATE = "SELECT gpt2_generate(%(prompt)s, %(n)s, model => %(model)s)"
TRACE = "SELECT sum(vector_dims(value)) FROM gpt2_trace(%(prompt)s, {}, model => %(model)s)"

#: what is called on each model
MODEL_LINES = {
    "first token of a prompt of 16": statement(GENERATE, prompt=repeated(16), n=1),
    "first token of a prompt of 64": statement(GENERATE, prompt=repeated(64), n=1),
    "generated token, context 16": token(8),
    "generated token, context 128": token(120),
    "streamed token, context 128": token(120, "gpt2_stream"),
    "logits, ten of them": statement(
        "SELECT * FROM gpt2_next_token(%(prompt)s, 10, model => %(model)s)", prompt="Hello"
    ),
    "trace of 32, one hook": statement(
        TRACE.format("ARRAY['attn.hook_pattern']"), prompt=repeated(32)
    ),
    "trace of 32, all hooks": statement(TRACE.format("NULL"), prompt=repeated(32)),
    "first token of a prompt of 128, with a prefix": prefixed(128),
    "score of 32 tokens": statement(
        "SELECT * FROM gpt2_score(%(prompt)s, model => %(model)s)", prompt=repeated(32)
    ),
    "batch of 8 rows": statement(
        "SELECT gpt2_generate('Question ' || i || ':', 4, model => %(model)s)"
        " FROM generate_series(1, 8) AS i"
    ),
}

#: what depends on no model
TEXT_LINES = {
    "tokenizing 1 MB, English": statement(
        "SELECT cardinality(gpt2_tokenize(%(text)s, %(model)s))", text=texts.english()
    ),
    "tokenizing 1 MB, mixed scripts": statement(
        "SELECT cardinality(gpt2_tokenize(%(text)s, %(model)s))", text=texts.mixed()
    ),
}


def first_calls(version: Version, model: str) -> tuple[float, float]:
    """Milliseconds of a new connection's first call, and of its second."""
    with version.connect() as connection:
        call = statement(GENERATE, prompt="Happy New Year!", n=1)
        return call(connection, model), call(connection, model)


def memory(version: Version, model: str) -> tuple[float, float]:
    """MB of a fresh backend that has read 512 positions: its own, with shared buffers."""
    with version.connect() as connection, watch(connection.info.backend_pid) as peaks:
        cpu(connection, GENERATE, {"prompt": repeated(512), "n": 1, "model": model})
    return peaks["private"], peaks["resident"]


def importing(version: Version) -> float:
    """Milliseconds of CPU of the loader and its backend for the checkpoint. The wall clock would
    tell how busy the disk was with what another import had left to write."""
    with psycopg.connect(version.dsn, autocommit=True) as connection:
        [directory] = connection.execute("SHOW data_directory").fetchone()
        postmaster = int(Path(directory, "postmaster.pid").read_text().split()[0])
        before = _ended(postmaster)
        version.load("float32", "bench_import")
        while connection.execute(
            "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall():
            time.sleep(0.01)
        time.sleep(0.1)
        spent = _ended(postmaster) - before
        connection.execute("SELECT gpt2_drop_model('bench_import')")
        connection.execute("VACUUM")
    return 1000 * spent


def _ended(process: int) -> float:
    """Seconds of CPU of the children that ended, of this process and of another."""
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    theirs = sum(map(int, stat[13:15])) / os.sysconf("SC_CLK_TCK")
    return own.ru_utime + own.ru_stime + theirs


def in_turn(
    versions: list[Version], measure: Callable[[Version], tuple[float, ...]], rounds: int
) -> list[list[float]]:
    """The least of some rounds, of each value that a measure gives: [value][version]."""
    samples = {version.name: [] for version in versions}
    for i in range(rounds):
        for version in versions[:: -1 if i % 2 else 1]:
            samples[version.name].append(measure(version))
    return [
        [min(sample[i] for sample in samples[version.name]) for version in versions]
        for i in range(len(samples[versions[0].name][0]))
    ]


class Table:
    """Lines, told as they come."""

    def __init__(self):
        self.rows: list[tuple[str, str, float, float]] = []

    def add(self, name: str, unit: str, values: list[float]) -> None:
        self.rows.append((name, unit, *values))
        progress(f"  {name}: {' and '.join(map(figure, values))} {unit}")

    def __str__(self) -> str:
        rows = [
            (name, unit, figure(then), figure(now), f"{now / then:.3f}")
            for name, unit, then, now in self.rows
        ]
        return aligned([("line", "unit", "then", "now", "ratio"), *rows], right=(2, 3, 4))


def model_lines(table: Table, versions: list[Version], dtype: str) -> None:
    """Every line of a model, on one connection a version and half."""
    model = f"bench_{dtype}"
    halves = []
    for order in (versions, versions[::-1]):
        _restart()
        for version in order:
            with version.connect() as connection:
                connection.execute("SELECT gpt2_prewarm(%s)", [model])
        connections = {version.name: version.connect() for version in versions}
        halves.append({})
        for name, line in MODEL_LINES.items():
            progress(f"{name}, {dtype}, {order[0].name} first")
            [halves[-1][name]] = in_turn(
                versions, lambda v, line=line: (line(connections[v.name], model),), ROUNDS // 2
            )
        for connection in connections.values():
            connection.close()
    for name in MODEL_LINES:
        least = [min(values) for values in zip(*(half[name] for half in halves), strict=True)]
        table.add(f"{name}, {dtype}", "ms", least)


def _restart() -> None:
    """The server begins anew, with empty shared buffers."""
    for command in ("stop", "start"):
        _run(database.ROOT / "extension/setup/cluster", command)


def server_lines(table: Table, versions: list[Version]) -> None:
    """First calls, texts, memory, the import."""
    model = "bench_float32"
    progress("first calls of new connections")
    first, second = in_turn(versions, lambda v: first_calls(v, model), ROUNDS)
    table.add("first token of a new connection", "ms", first)
    table.add("its second call", "ms", second)
    connections = {version.name: version.connect() for version in versions}
    for name, line in TEXT_LINES.items():
        progress(name)
        [values] = in_turn(
            versions, lambda v, line=line: (line(connections[v.name], model),), ROUNDS
        )
        table.add(name, "ms", values)
    for connection in connections.values():
        connection.close()
    progress("memory at 512 positions")
    own, resident = in_turn(versions, lambda v: memory(v, model), 1)
    table.add("backend at 512 positions: its own", "MB", own)
    table.add("backend at 512 positions: with shared buffers", "MB", resident)
    progress("importing the checkpoint")
    [values] = in_turn(versions, lambda v: (importing(v),), 3)
    table.add("importing the 124M checkpoint", "ms", values)


def prepare(commit: str) -> None:
    """Makes both databases, with their models; from its next start on the server has room for both
    in its shared buffers."""
    database.make_checkpoint()
    with psycopg.connect(database.cluster(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET shared_buffers = '2GB'")
    for version in _versions(checkout(commit)):
        version.make()
        for dtype in database.DTYPES:
            version.load(dtype)


def compare(commit: str) -> None:
    """Prints the table: the commit's figures, those of the sources as they are, the ratio."""
    versions = _versions(FOLDER / "tree")
    table = Table()
    try:
        for dtype in database.DTYPES:
            model_lines(table, versions, dtype)
        server_lines(table, versions)
    finally:
        with psycopg.connect(database.cluster(), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM RESET shared_buffers")
        print(table)
        print(f"then: {commit}; ms of the backend's CPU, the least of {ROUNDS} rounds in turn")


def _versions(tree: Path) -> list[Version]:
    cluster = database.cluster()
    return [Version("then", tree, cluster), Version("now", database.ROOT, cluster)]
