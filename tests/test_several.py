"""gpt2-loader load with several databases: read once, and visible in all or in none."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest
from conftest import DEMO, one
from gpt2_loader import client, several
from gpt2_loader.cli import app
from gpt2_loader.errors import LoadError
from oracle.checkpoints import write_vocabulary
from psycopg.conninfo import conninfo_to_dict
from test_loader import (
    CONFIG,
    TABLES,
    VOCABULARY,
    count_rows,
    directory,  # noqa: F401
    make_tensors,
    write,
)
from test_loader_cli import PROGRAM, check_error, wait_for_lock
from typer.testing import CliRunner

from clusters import until


@pytest.fixture(scope="module")
def databases(new_database) -> list[str]:
    """Three databases with the extension, in the order in which they are locked."""
    return sorted(
        (new_database(holds="extension") for _ in range(3)), key=several._without_password
    )


@pytest.fixture
def connections(databases) -> Iterator[list[psycopg.Connection]]:
    """A connection to each; nothing is left there."""
    with ExitStack() as stack:
        opened = [stack.enter_context(psycopg.connect(dsn, autocommit=True)) for dsn in databases]
        yield opened
        for connection in opened:
            connection.execute("SELECT gpt2_drop_model(name) FROM gpt2_models()")
            assert sum(count_rows(connection, TABLES).values()) == 0


@pytest.fixture
def tiny(directory):  # noqa: F811
    """A model of 3,880 weights."""
    write(directory, make_tensors(CONFIG))
    write_vocabulary(directory, CONFIG["vocab_size"])
    return directory


def options(databases: list[str]) -> list[str]:
    return [word for dsn in databases for word in ("--dsn", dsn)]


def load(source, databases: list[str], *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*PROGRAM, "load", str(source), *options(databases), *more],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def models(connections) -> list[list[str]]:
    """The names of each database's models."""
    query = "SELECT name FROM gpt2.model ORDER BY name"
    return [[name for (name,) in connection.execute(query)] for connection in connections]


def test_all(databases, connections):
    process = load(DEMO, databases, "--name", "demo")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith('loaded model "demo" into 3 databases: 2,271,232 parameters')
    fingerprints = {one(connection, "SELECT gpt2_fingerprint()") for connection in connections}
    assert len(fingerprints) == 1
    assert (
        len({one(connection, "SELECT gpt2_generate('the', 4)") for connection in connections}) == 1
    )


def test_read_once(databases, connections, tiny, monkeypatch):
    """As many reads as for one database, and the same rows."""
    read, reads = client.read_tensor, []
    monkeypatch.setattr(
        client, "read_tensor", lambda *arguments: reads.append(arguments) or read(*arguments)
    )
    for chosen, name in ((databases[:1], "m"), (databases[1:], "m"), (databases, "n")):
        result = CliRunner().invoke(app, ["load", str(tiny), "--name", name, *options(chosen)])
        assert result.exit_code == 0, result.output
    assert reads[: len(reads) // 3] * 3 == reads
    fingerprint = "SELECT gpt2_fingerprint(name) FROM gpt2.model"
    found = [row for connection in connections for row in connection.execute(fingerprint)]
    assert len(found) == 6
    assert len(set(found)) == 1


def test_one_that_is_down(databases, connections, tiny):
    """It is told before anything is read, with its name and without its password."""
    down = "host=/nonexistent dbname=texts password=hidden"
    process = load(tiny, [*databases, down])
    check_error(process, "could not connect", "In dbname=texts host=/nonexistent: ")
    assert "hidden" not in process.stderr
    assert models(connections) == [[], [], []]


def test_one_that_has_the_name(databases, connections, tiny):
    assert load(tiny, databases[1:2], "--name", "m").returncode == 0
    process = load(tiny, databases, "--name", "m")
    check_error(process, 'model "m" already exists', conninfo_to_dict(databases[1])["dbname"])
    assert models(connections) == [[], ["m"], []]
    assert load(tiny, databases, "--name", "m", "--replace").returncode == 0
    assert models(connections) == [["m"], ["m"], ["m"]]


@pytest.mark.parametrize("what", ["lost", "interrupted", "killed"])
def test_failure_midway(databases, connections, tiny, what):
    """In the midst of a COPY one server is lost, or the command ends: nothing is anywhere, and the
    same command succeeds then."""
    before = [count_rows(connection, TABLES + VOCABULARY) for connection in connections]
    with psycopg.connect(databases[1]) as blocker:
        blocker.execute("LOCK TABLE gpt2.matrix_page IN EXCLUSIVE MODE")
        process = subprocess.Popen(
            [*PROGRAM, "load", str(tiny), *options(databases)],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for_lock(connections[1], "COPY gpt2.matrix_page%")
        if what == "lost":
            connections[1].execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'gpt2-loader'"""
            )
        else:
            process.send_signal(signal.SIGINT if what == "interrupted" else signal.SIGKILL)
        _, error = process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if what == "killed" else 1)
    if what == "lost":
        assert "terminating connection" in error
        assert f"dbname={conninfo_to_dict(databases[1])['dbname']}" in error
    if what == "interrupted":
        assert error == "gpt2-loader: error: interrupted: nothing was changed\n"
    assert load(tiny, databases, "--name", "again").returncode == 0  # and waits for what is left
    assert models(connections) == [["again"], ["again"], ["again"]]
    for connection, rows in zip(connections, before, strict=True):
        connection.execute("SELECT gpt2_drop_model('again')")
        assert count_rows(connection, TABLES) == {name: rows[name] for name in TABLES}


@pytest.mark.parametrize("when", ["before", "within"])
def test_lost_at_the_end(databases, connections, tiny, monkeypatch, when):
    """A server that is lost before the first commit, and one that is lost in its own."""
    commit, done = psycopg.Connection.commit, []

    def lose():
        connections[1].execute(
            """SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'gpt2-loader'"""
        )

    def commit_and_lose(connection):
        if connection.info.dbname == connections[1].info.dbname:
            lose()
        commit(connection)
        done.append(connection.info.dbname)

    finish = several._commit

    def lose_and_finish(*arguments):
        if when == "before":
            lose()
        else:
            monkeypatch.setattr(psycopg.Connection, "commit", commit_and_lose)
        finish(*arguments)

    monkeypatch.setattr(several, "_commit", lose_and_finish)
    result = CliRunner().invoke(app, ["load", str(tiny), "--name", "m", *options(databases)])
    assert result.exit_code == 1
    names = [several._without_password(dsn) for dsn in databases]
    if when == "before":
        assert models(connections) == [[], [], []]
        assert f"In {names[1]}" in result.output
    else:
        assert models(connections) == [["m"], [], []]
        assert 'model "m" may be in some of the databases only' in result.output
        assert f"It is in: {names[0]}. It is not in: {names[2]}. Of {names[1]}" in result.output
        monkeypatch.undo()
        assert load(tiny, databases, "--name", "m", "--replace").returncode == 0
        assert models(connections) == [["m"], ["m"], ["m"]]


def test_named_twice(databases, connections, tiny):
    """By the same words or by others."""
    for again in (databases[0], f"{databases[0]} application_name=other"):
        process = load(tiny, [*databases, again])
        check_error(process, "a database is named twice", "HINT: Leave one of the two out.")
    assert models(connections) == [[], [], []]


def test_two_commands_in_other_orders(databases, connections, tiny):
    """Neither holds what the other waits for: both wait for the first, and have no other."""
    with psycopg.connect(databases[0]) as blocker:
        blocker.execute("SELECT gpt2._lock_models()")
        processes = [
            subprocess.Popen([*PROGRAM, "load", str(tiny), "--name", name, *options(order)])
            for name, order in (("a", databases), ("b", databases[::-1]))
        ]
        until(
            connections[0],
            """SELECT count(*) = 2 FROM pg_stat_activity
               WHERE wait_event_type = 'Lock' AND query = 'SELECT gpt2._lock_models()'""",
        )
        for connection in connections[1:]:
            with connection.transaction():
                connection.execute("LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE NOWAIT")
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert models(connections) == [["a", "b"]] * 3


def test_pieces_that_differ():
    """Servers whose pages are of different sizes ask for other rows."""

    class Checkpoint:
        def read(self, *wanted):
            return wanted

    shared = several.InStep(Checkpoint(), 2)

    def read(stop):
        try:
            return shared.read("wte.weight", 0, stop)
        except Exception as error:
            return type(error)

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(read, (8, 8))) == {("wte.weight", 0, 8)}
        assert LoadError in set(pool.map(read, (8, 9)))
