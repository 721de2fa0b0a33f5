"""What a kill leaves behind: an operation on models, killed at a random moment of it, and what the
server, its files and its other models are after recovery.

A trial has a database of its own, a copy of one with four models: 'demo', a variant of it, 'spare'
and 'small'. The operation runs in another process, psql or gpt2-loader; one of four is killed with
SIGKILL: its backend, itself, the postmaster, or all of the server's processes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from oracle.checkpoints import SHAPES, write_checkpoint
from tables import aligned

from clusters import OWNER, PATIENCE, Cluster
from databases import DEMO, create_demo, load_model
from leftovers import assert_nothing_left

VICTIMS = ("backend", "client", "postmaster", "all of the server")
#: by name: the SQL, or the arguments of gpt2-loader load
OPERATIONS = {
    "load, client": ["{model}", "--name", "new"],
    "load, server": "SELECT gpt2_load_model('{model}', 'new')",
    "load --replace": ["{model}", "--name", "spare", "--replace", "--dtype", "float16"],
    "drop": "SELECT gpt2_drop_model('spare')",
    "variant": "SELECT gpt2_create_variant('new', 'variant')",
    "average": "SELECT gpt2_average('new', 'demo', 'spare')",
    "edit": """UPDATE gpt2.linear SET bias = bias + 0.1, weight = weight + weight
               WHERE model = (SELECT model FROM gpt2.model WHERE name = 'spare')
                 AND layer = 'attn.c_proj'""",
}
#: the models that an operation may change; all the others stay what they are
CHANGES = {"load --replace": "spare", "drop": "spare", "edit": "spare"}
NAME = "gpt2-crash"  # the client's application_name
LOADER = Path(sys.executable).parent / "gpt2-loader"

#: a model's properties, a hash of its rows, and how it goes on; ids and times may differ
STATE = """
SELECT m.name, m.properties, m.rows, gpt2_generate('The default value', 6, model => m.name)
FROM (
    SELECT m.name,
           to_jsonb(m) - '{model,base,edition,loaded_at}'::text[]
               || jsonb_build_object('base', b.name, 'edited', m.edition > 0) AS properties,
           (SELECT md5(string_agg(md5(r.sent), '' ORDER BY md5(r.sent)))
            FROM (SELECT record_send((block, layer, slice, page, weight, half)) AS sent
                  FROM gpt2.matrix_page WHERE model = m.model
                  UNION ALL
                  SELECT record_send((block, layer, bias)) FROM gpt2.bias WHERE model = m.model
                  UNION ALL
                  SELECT record_send((block, layer, weight, bias))
                  FROM gpt2.layer_norm WHERE model = m.model
                  UNION ALL
                  SELECT record_send(("position", weight))
                  FROM gpt2.wpe WHERE model = m.model) AS r) AS rows
    FROM gpt2.model AS m LEFT JOIN gpt2.model AS b ON b.model = m.base
    OFFSET 0
) AS m"""

State = dict[str, tuple]


@dataclass
class Outcome:
    """What of a number of kills became of an operation."""

    kills: int = 0
    whole: int = 0
    absent: int = 0
    missed: int = 0  # it had ended before


def until(condition, what: str):
    """What a condition gives, once that is true; asked again and again."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.005)
    return value


class Victims:
    """A cluster to be killed, with the database to copy."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        # the server's user may read it there, where it may not enter a checkout
        self.model = cluster.folder / "model"
        shutil.copytree(DEMO, self.model)
        shutil.chown(self.model, OWNER)
        self.temporary = Path(os.environ["TMPDIR"])
        with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE original")
        uri = cluster.dsn("original")
        create_demo(uri)
        load_model(uri, DEMO, "spare")
        small = write_checkpoint(cluster.folder / "small", SHAPES["one_block"], 1)
        load_model(uri, small, "small")
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
            connection.execute("SELECT gpt2_create_variant('variant', 'demo')")
            connection.execute(
                """UPDATE gpt2.linear SET weight = weight + weight FROM gpt2.model AS m
                   WHERE m.model = linear.model AND m.name = 'variant' AND unit < 8"""
            )
        self.uri = cluster.dsn("trial")
        self.whole: dict[str, State] = {}
        self.seconds: dict[str, float] = {}
        with self.copy() as connection:
            self.before = self.state(connection)
        for name in OPERATIONS:
            with self.copy() as connection:
                client = self.start(name)
                self.await_session(client)
                begin = time.monotonic()
                assert client.wait(PATIENCE) == 0, name
                self.seconds[name] = time.monotonic() - begin
                self.whole[name] = self.state(connection)
                assert self.whole[name] != self.before, name

    @contextmanager
    def copy(self) -> Iterator[psycopg.Connection]:
        """A connection to the database 'trial', a fresh copy."""
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as admin:
            admin.execute("DROP DATABASE IF EXISTS trial WITH (FORCE)")
            admin.execute("CREATE DATABASE trial TEMPLATE original")
        with psycopg.connect(self.uri, autocommit=True) as connection:
            yield connection

    @staticmethod
    def state(connection: psycopg.Connection) -> State:
        """What each model is."""
        return {name: rest for name, *rest in connection.execute(STATE)}

    def start(self, operation: str) -> subprocess.Popen:
        """The operation's client."""
        action = OPERATIONS[operation]
        if isinstance(action, str):
            command = ["psql", "-Xqc", action.format(model=self.model), self.uri]
        else:
            arguments = [argument.format(model=self.model) for argument in action]
            command = [str(LOADER), "load", *arguments, "--dsn", self.uri]
        return subprocess.Popen(
            command,
            env=os.environ | {"PGAPPNAME": NAME},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def backend(self) -> int | None:
        """The process that serves the operation, if there is one."""
        row = self.monitor().execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s", (NAME,)
        ).fetchone()  # fmt: skip
        return row and row[0]

    def await_session(self, client: subprocess.Popen) -> int | None:
        """The process that serves the operation; None where its client has ended."""
        until(lambda: client.poll() is not None or self.backend(), "the operation's session")
        return self.backend()

    def kill_backend(self, backend: int) -> bool:
        """Kills a backend; whether that reset the server, and not found it gone."""
        with suppress(ProcessLookupError):
            os.kill(backend, signal.SIGKILL)
        try:
            until(lambda: self.backend() != backend, "the server's reset of all sessions")
        except psycopg.OperationalError:
            return True
        return False

    def monitor(self) -> psycopg.Connection:
        """A connection to look from: the same one until it breaks."""
        if getattr(self, "_monitor", None) is None or self._monitor.closed:
            self._monitor = psycopg.connect(self.cluster.dsn(), autocommit=True)
        return self._monitor

    def answers(self) -> bool:
        try:
            self.monitor().execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def kill(self, operation: str, victim: str, moment: float) -> bool:
        """Starts the operation, and kills the victim `moment` seconds after its session begins;
        whether it was still at work. Waits until the server answers and the session is gone."""
        client = self.start(operation)
        self.await_session(client)
        time.sleep(moment)
        # gpt2-loader looks at the database in a session before that of the import
        backend = self.await_session(client)
        at_work = client.poll() is None and backend is not None
        if at_work:
            if victim == "backend":
                at_work = self.kill_backend(backend)
            elif victim == "client":
                client.kill()
            else:
                self.cluster.kill_postmaster(everything=victim == "all of the server")
                self.cluster.start()
        client.wait(PATIENCE)
        until(self.answers, "recovery")
        until(lambda: self.backend() is None, "the session's end")
        return at_work

    def check(self, operation: str) -> bool:
        """Whether the operation is done, wholly; an error where it is neither that nor undone, or
        where anything is left."""
        with psycopg.connect(self.uri, autocommit=True) as connection:
            state = self.state(connection)
            assert_nothing_left(connection, self.temporary, operation)
        changed = CHANGES.get(operation, "new")
        others = {name: rest for name, rest in state.items() if name != changed}
        assert others == {k: v for k, v in self.before.items() if k != changed}, operation
        assert state in (self.before, self.whole[operation]), (
            f"{operation}: neither whole nor absent"
        )
        return state == self.whole[operation]

    def trials(self, operation: str, victim: str, kills: int, seed: int) -> Outcome:
        """So many kills, at moments spread over the time that the operation takes."""
        outcome = Outcome()
        chance = random.Random(f"{seed} {operation} {victim}")
        while outcome.kills < kills:
            # one in each part of the time; less of it where the measured time was too long
            part = (outcome.kills + chance.random()) / kills
            with self.copy():
                pass
            for path in self.temporary.iterdir():  # of a trial that failed
                shutil.rmtree(path)
            if self.kill(operation, victim, part * self.seconds[operation] * 0.9**outcome.missed):
                outcome.kills += 1
                if self.check(operation):
                    outcome.whole += 1
                else:
                    outcome.absent += 1
            else:
                outcome.missed += 1
                assert self.check(operation)
                assert outcome.missed <= 20 + 4 * kills, "the operation always ends before the kill"
        return outcome


def table(outcomes: dict[tuple[str, str], Outcome], seconds: dict[str, float]) -> str:
    """A row an operation and victim."""
    head = ("operation", "seconds", "victim", "kills", "whole", "absent", "ended before")
    rows = [
        (operation, f"{seconds[operation]:.2f}", victim)
        + tuple(map(str, (of.kills, of.whole, of.absent, of.missed)))
        for (operation, victim), of in outcomes.items()
    ]
    return aligned([head, *rows], right=(1, 3, 4, 5, 6))
