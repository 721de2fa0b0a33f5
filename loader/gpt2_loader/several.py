"""One import into several databases: the model is read once, and is visible in all or in none.

A thread a database runs the importer in a transaction of its own. The threads read the checkpoint
in step, so that each piece of it is read once and is in memory once. When all have written
everything, and every database still answers, the transactions are committed one after the other.

What fails before the first commit leaves nothing anywhere. Of a server that is lost between the
first and the last one, the error says so: others have the model then. PREPARE TRANSACTION would let
it commit when it is back; but max_prepared_transactions is 0 by default, and a transaction that is
prepared and forgotten keeps its locks, and VACUUM from cleaning up, until somebody finds it.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from threading import Barrier, BrokenBarrierError

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gpt2_loader import client, importer
from gpt2_loader.checkpoint import Checkpoint
from gpt2_loader.errors import BAD_ARGUMENT, IO_ERROR, UNSUPPORTED, LoadError


def check(dsns, name, replace):
    """Raises the errors that an import would meet in one of the databases (client.check)."""
    for dsn in dsns:
        with _told_of(dsn, dsns):
            client.check(dsn, name, replace)


def load(dsns, checkpoint, name, *arguments):
    """Loads a Checkpoint under a name into the databases that connection strings name. arguments:
    those of importer.load. An error says in its detail which database it is of, where there are
    several."""
    with ExitStack() as stack:
        connections = []
        for dsn in dsns:
            with _told_of(dsn, dsns):
                connections.append((dsn, stack.enter_context(closing(client.connect(dsn)))))
        _refuse_one_twice(connections)
        _lock(connections)
        _write(connections, checkpoint, name, *arguments)
        _commit(connections, name)


def _refuse_one_twice(connections):
    """Two of the connections would wait for each other. An advisory lock is its database's."""
    key = secrets.randbits(63)
    for dsn, connection in connections:
        [free] = connection.execute("SELECT pg_try_advisory_xact_lock($1)", (key,)).fetchone()
        if not free:
            raise LoadError(
                BAD_ARGUMENT,
                "a database is named twice",
                f"{_without_password(dsn)} is one that was named before.",
                "Leave one of the two out.",
            )


def _lock(connections):
    """Waits until no other import is going on. In the order of the servers' identifiers: of two
    commands that want the same databases neither gets one that the other waits with."""

    def identifier(pair):
        dsn, connection = pair
        query = "SELECT system_identifier FROM pg_control_system()"
        return connection.execute(query).fetchone(), _without_password(dsn)

    for dsn, connection in sorted(connections, key=identifier):
        with _told_of(dsn, connections):
            connection.execute("SELECT gpt2._lock_models()")


def _write(connections, checkpoint, *arguments):
    """Runs the importer in each of the connections' transactions, or raises the first error."""
    checkpoint = InStep(checkpoint, len(connections))
    errors = []

    def write(dsn, connection):
        try:
            with _told_of(dsn, connections):
                importer.load(client.Target(connection), checkpoint, *arguments)
        except BrokenBarrierError:
            pass  # another one's error
        except Exception as error:
            errors.append(error)
            end()

    def end():
        """Ends what all of them are doing: what it meets in others is not the first error."""
        checkpoint.give_up()
        for _, connection in connections:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)

    with ThreadPoolExecutor(len(connections)) as pool:
        try:
            for task in [pool.submit(write, *pair) for pair in connections]:
                task.result()
        except BaseException:  # Ctrl-C
            end()
            raise
    if errors:
        raise errors[0]


def _commit(connections, name):
    """Commits all, once each has answered: the first may have waited long for the last."""
    for dsn, connection in connections:
        with _told_of(dsn, connections):
            connection.execute("SELECT")
    done = []
    for n, (dsn, connection) in enumerate(connections):
        try:
            connection.commit()
        except (psycopg.Error, KeyboardInterrupt) as error:
            if len(connections) == 1:
                raise
            reason = " ".join(str(error).split()) or "interrupted"
            left = "; ".join(_without_password(dsn) for dsn, _ in connections[n + 1 :])
            raise LoadError(
                IO_ERROR,
                f'model "{name}" may be in some of the databases only',
                f"It is in: {'; '.join(done) or 'none'}. It is not in: {left or 'none'}. "
                f"Of {_without_password(dsn)} it is not known: {reason}",
                "Load it again, into all of them, with --replace.",
            ) from None
        done.append(_without_password(dsn))


class InStep:
    """A Checkpoint that n threads read in the same order: the k-th read is done once, when all have
    come to it, and each gets the same array, which none may change."""

    def __init__(self, checkpoint, n):
        self._checkpoint = checkpoint
        self._wanted = []
        self._barrier = Barrier(n, self._read)

    def __getattr__(self, name):
        return getattr(self._checkpoint, name)

    def read(self, name, start=0, stop=None):
        self._wanted.append((name, start, stop))
        self._barrier.wait()
        return self._array

    read_bias = Checkpoint.read_bias

    def give_up(self):
        """Whoever reads from now on, or waits for others, gets a BrokenBarrierError."""
        self._barrier.abort()

    def _read(self):
        wanted, self._wanted = set(self._wanted), []
        if len(wanted) > 1:
            raise LoadError(
                UNSUPPORTED,
                "the databases need the weights in different pieces",
                "Their servers were compiled with pages of different sizes.",
                "Load the model into each of them by itself.",
            )
        self._array = self._checkpoint.read(*wanted.pop())


@contextmanager
def _told_of(dsn, dsns):
    """Where there are several, an error's detail begins with the database that it is of."""
    try:
        yield
    except (LoadError, psycopg.Error) as error:
        if len(dsns) == 1:
            raise
        if isinstance(error, psycopg.Error):
            told = error.diag
            error = LoadError(
                told.sqlstate or IO_ERROR,
                told.message_primary or " ".join(str(error).split()),
                told.message_detail,
                told.message_hint,
            )
        place = f"In {_without_password(dsn)}"
        error.detail = f"{place}: {error.detail}" if error.detail else f"{place}."
        raise error from None


def _without_password(dsn):
    """A connection string, as it may be shown."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "one that cannot be read"
    shown = {name: value for name, value in parts.items() if "password" not in name}
    return make_conninfo("", **shown) or "libpq's default"
