"""Transactions beside one another that change models: none sees a half of what another did, and no
two wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from conftest import load_model, number, one
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg import errors
from test_loader import directory, has_plpython, readable  # noqa: F401  a fixture among them

REPEATABLE_READ = psycopg.IsolationLevel.REPEATABLE_READ
SERIALIZABLE = psycopg.IsolationLevel.SERIALIZABLE

#: what there is of a model that is not there, or of a vocabulary; and how many defaults there are
ORPHANS = """
    SELECT 'variant of nothing', name FROM gpt2.model AS v
    WHERE base IS NOT NULL AND NOT EXISTS (SELECT FROM gpt2.model AS b WHERE b.model = v.base)
UNION ALL
    SELECT 'model without a vocabulary', name FROM gpt2.model AS m
    WHERE n_token <> (SELECT count(*) FROM gpt2.token AS t
                      WHERE t.tokenizer = m.tokenizer AND t.token < m.n_token)
       OR NOT EXISTS (SELECT FROM gpt2.tokenizer AS t WHERE t.tokenizer = m.tokenizer)
UNION ALL
    SELECT 'vocabulary of nothing', tokenizer::text FROM gpt2.tokenizer AS t
    WHERE tokenizer > 1 AND tokenizer NOT IN (SELECT tokenizer FROM gpt2.model)
UNION ALL
    SELECT 'weights of nothing', model::text
    FROM (SELECT model FROM gpt2.matrix_page UNION SELECT model FROM gpt2.bias
          UNION SELECT model FROM gpt2.layer_norm UNION SELECT model FROM gpt2.wpe) AS w
    WHERE model NOT IN (SELECT model FROM gpt2.model)
UNION ALL
    SELECT 'default models', string_agg(name, ', ') FILTER (WHERE is_default) FROM gpt2.model
    HAVING count(*) > 0 AND count(*) FILTER (WHERE is_default) <> 1"""


@pytest.fixture(scope="module")
def uri(new_database, tmp_path_factory) -> str:
    """A database in which the model 'kept' has GPT-2's own vocabulary."""
    dsn = new_database(holds="extension")
    with psycopg.connect(dsn, autocommit=True) as connection:
        if has_plpython(connection):
            connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
    source = write_checkpoint(tmp_path_factory.mktemp("kept"), SHAPES["one_block"])
    (source / "vocab.json").unlink()
    (source / "merges.txt").unlink()
    load_model(dsn, source, "kept", "--tokenizer", "gpt2")
    return dsn


@pytest.fixture
def checkpoint(directory) -> Path:  # noqa: F811
    """A model with a vocabulary of its own, which the server may read."""
    write_checkpoint(directory, SHAPES["one_block"])
    readable(directory)
    return directory


@pytest.fixture
def admin(uri, checkpoint) -> Iterator[psycopg.Connection]:
    """A session that watches. Beside 'kept' there are 'base', which is the default and alone has its
    vocabulary, its variant 'variant', and a full copy of 'kept', 'copy'. In the end nothing is an
    orphan."""
    load_model(uri, checkpoint, "base", "--default")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("SELECT gpt2_average('copy', 'kept', 'kept', 0)")
        connection.execute("SELECT gpt2_create_variant('variant', 'copy')")
        edit = "UPDATE gpt2.wte SET weight = weight + weight WHERE model = %s AND token = 5"
        connection.execute(edit, [number(connection, "variant")])
        try:
            yield connection
            assert connection.execute(ORPHANS).fetchall() == []
        finally:
            for variants in ("base IS NOT NULL", "name <> 'kept'"):
                connection.execute(
                    f"SELECT gpt2_drop_model(name) FROM gpt2_models() WHERE {variants}"
                )


class Session:
    """A connection whose statements run one after the other in a thread of its own."""

    def __init__(self, uri: str, admin: psycopg.Connection) -> None:
        self.connection = psycopg.connect(uri, options="-c lock_timeout=30s")
        self._admin = admin
        self._thread = ThreadPoolExecutor(1)
        self.steps: list[Future] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        self._thread.shutdown()
        self.connection.close()

    def run(self, statement: str) -> Future:
        """Begins a statement, or 'COMMIT'; it is done, or waits for somebody, when this returns."""

        def step() -> list:
            if statement == "COMMIT":
                return self.connection.commit()
            return self.connection.execute(statement).statusmessage

        self.steps.append(self._thread.submit(step))
        blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        while not self.steps[-1].done():
            if one(self._admin, blocked, self.connection.info.backend_pid):
                break
        return self.steps[-1]

    @property
    def waits(self) -> bool:
        return not self.steps[-1].done()

    def errors(self) -> list[str]:
        """The errors of its statements, when all have ended."""
        found = [step.exception(60) for step in self.steps]
        return [repr(error) for error in found if error]


@contextmanager
def two(uri: str, admin: psycopg.Connection) -> Iterator[tuple[Session, Session]]:
    with Session(uri, admin) as first, Session(uri, admin) as second:
        yield first, second


# ---- A snapshot that is older than the lock

#: what changes which models there are
CHANGES = {
    "variant": "SELECT gpt2_create_variant('new', 'base')",
    "variant of a variant": "SELECT gpt2_create_variant('new', 'variant')",
    "average": "SELECT gpt2_average('new', 'base', 'base')",
    "drop": "SELECT gpt2_drop_model('base')",
    "drop of a variant": "SELECT gpt2_drop_model('variant')",
    "default": "SELECT gpt2_default_model('kept')",
    "load": "SELECT gpt2_load_model('{path}', 'new')",
    "replace": "SELECT gpt2_load_model('{path}', 'base', replace => true)",
}


#: an edit of the model {m}, which may be done any number of times
EDITS = {
    "neuron": "UPDATE gpt2.linear SET bias = bias + 1 WHERE model = {m} AND slice = 0 AND unit = 3",
    "token": "UPDATE gpt2.wte SET weight = weight - weight - weight WHERE model = {m} AND token = 7",
    "position": """UPDATE gpt2.wpe SET weight = weight - weight - weight
                   WHERE model = {m} AND "position" = 2""",
    "bias": "UPDATE gpt2.bias SET bias = bias - bias - bias WHERE model = {m}",
    "page given back": "DELETE FROM gpt2.matrix_page WHERE model = {m}",
}


def change(checkpoint: Path, what: str) -> str:
    return CHANGES[what].format(path=checkpoint)


def has_python(admin: psycopg.Connection, what: str) -> bool:
    return "gpt2_load_model" not in CHANGES[what] or has_plpython(admin)


def outcome(connection: psycopg.Connection, statement: str) -> str:
    """The models after a statement, or its error's code; it is rolled back."""
    try:
        connection.execute(statement)
        return one(connection, "SELECT string_agg(name, ',' ORDER BY name) FROM gpt2.model")
    except psycopg.Error as error:
        return error.sqlstate
    finally:
        connection.rollback()


@pytest.mark.parametrize(
    ("isolation", "before"),
    [
        *((REPEATABLE_READ, what) for what in CHANGES),
        (SERIALIZABLE, "drop"),
        (SERIALIZABLE, "variant"),
    ],
    ids=str,
)
def test_stale_snapshot(uri, admin, checkpoint, isolation, before):
    """A transaction begins, another one changes which models there are, and then the first wants to.
    It is told to do all of it again, which is done, or raises an error that tells why not."""
    statements = [change(checkpoint, what) for what in CHANGES if has_python(admin, what)]
    if not has_python(admin, before):
        pytest.skip("the server has no PL/Python")
    with ExitStack() as stack:
        sessions = []
        for _ in statements:
            session = stack.enter_context(psycopg.connect(uri))
            session.isolation_level = isolation
            assert one(session, "SELECT count(*) FROM gpt2.model") == 4
            sessions.append(session)
        admin.execute(change(checkpoint, before))
        for session, statement in zip(sessions, statements, strict=True):
            with pytest.raises(errors.SerializationFailure) as error:
                session.execute(statement)
            session.rollback()
            diag = error.value.diag
            assert diag.message_primary == "could not serialize access to the models"
            assert diag.message_hint == "Retry the transaction."
            assert diag.message_detail
            again = outcome(session, statement)
            # our own errors, and no other: the name is taken, it has variants, it does not exist
            assert "," in again or again in ("42710", "2BP01", "22023")


@pytest.mark.parametrize("isolation", [REPEATABLE_READ, SERIALIZABLE], ids=lambda level: level.name)
def test_fresh_snapshot(uri, admin, checkpoint, isolation):
    """Where nobody else has changed which models there are, nothing is to be retried."""
    with psycopg.connect(uri) as connection:
        connection.isolation_level = isolation
        for what in CHANGES:
            if has_python(admin, what):
                assert one(connection, "SELECT count(*) FROM gpt2.model") == 4
                admin.execute(EDITS["position"].format(m=number(admin, "copy")))
                connection.execute(change(checkpoint, what))
                # and what it did itself it sees
                connection.execute("SELECT gpt2_create_variant('another', 'kept')")
                connection.execute("SELECT gpt2_drop_model('another')")
                connection.rollback()


@pytest.mark.parametrize("edit", EDITS)
def test_stale_edit(uri, admin, edit):
    """Of a model that was dropped meanwhile: it gets no page."""
    with psycopg.connect(uri) as stale:
        stale.isolation_level = REPEATABLE_READ
        statement = EDITS[edit].format(m=number(stale, "variant"))
        admin.execute("SELECT gpt2_drop_model('variant')")
        with pytest.raises(errors.SerializationFailure):
            stale.execute(statement)


@pytest.mark.parametrize(
    ("name", "options", "result"),
    [
        ("base", ["--replace"], 'model "base" has variants'),
        ("new", [], 'model "new" already exists'),
    ],
    ids=["replace", "load"],
)
def test_client_waits_and_sees(uri, admin, checkpoint, monkeypatch, name, options, result):
    """The command line's transactions are its own: whatever the role's isolation level, what was
    done while it waited counts."""
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_isolation=serializable")
    waiting = """SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'gpt2-loader' AND wait_event_type = 'Lock'"""
    with psycopg.connect(uri) as holder, ThreadPoolExecutor(1) as thread:
        holder.execute("SELECT gpt2_create_variant('new', 'base')")
        load = thread.submit(load_model, uri, checkpoint, name, *options)
        while not one(admin, waiting):
            assert not load.done()
        holder.commit()
        assert result in str(load.exception(60))


# ---- One order of locks

#: what may follow in the same transaction: of the model {name}
NEXT = {
    "variant": "SELECT gpt2_create_variant('of {name}', '{name}')",
    "average": "SELECT gpt2_average('of {name}', '{name}', '{name}')",
    "drop": "SELECT gpt2_drop_model('{name}')",
    "default": "SELECT gpt2_default_model('{name}')",
    "edit": """UPDATE gpt2.wte SET weight = weight - weight - weight
               WHERE token = 9 AND model = (SELECT model FROM gpt2.model WHERE name = '{name}')""",
}


@pytest.mark.parametrize("crosswise", [False, True], ids=["its own", "the other's"])
@pytest.mark.parametrize("then", NEXT)
@pytest.mark.parametrize("edit", EDITS)
def test_edit_and_then(uri, admin, edit, then, crosswise):
    """Two transactions each edit a model, then change which there are: the one that it edited, or
    the one that the other has edited."""
    admin.execute("SELECT gpt2_create_variant('one', 'kept'), gpt2_create_variant('two', 'kept')")
    for name in ("one", "two"):
        admin.execute(EDITS["token"].format(m=number(admin, name)))
    with two(uri, admin) as sessions:
        names = ["one", "two"]
        for session, name in zip(sessions, names, strict=True):
            session.run(EDITS[edit].format(m=number(admin, name)))
        for session, name in zip(sessions, names[::-1] if crosswise else names, strict=True):
            session.run(NEXT[then].format(name=name))
            session.run("COMMIT")
        assert [session.errors() for session in sessions] == [[], []]


@pytest.mark.parametrize("edit", ["page given back", "position", "bias"])
def test_drop_while_an_edit_runs(uri, admin, edit):
    """The edit has some of the rows, and has begun no edition, when the model is to be dropped."""
    model = number(admin, "variant")
    admin.execute(f"UPDATE gpt2.wte SET weight = weight - weight - weight WHERE model = {model}")
    # it has its first row, and waits at the next
    admin.execute("""
        CREATE SEQUENCE row;
        CREATE FUNCTION hold() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('row') > 1 THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
            RETURN true;
        END $$""")
    statement = EDITS[edit].format(m=model).replace('"position" = 2', '"position" IN (2, 3)')
    try:
        with psycopg.connect(uri) as holder, two(uri, admin) as (editor, dropper):
            holder.execute("SELECT pg_advisory_xact_lock(7)")
            editor.run(f"{statement} AND hold()")
            assert editor.waits
            dropper.run("SELECT gpt2_drop_model('variant')")
            assert dropper.waits
            holder.rollback()
            editor.run("COMMIT")
            dropper.run("COMMIT")
            assert (editor.errors(), dropper.errors()) == ([], [])
    finally:
        admin.execute("DROP FUNCTION hold; DROP SEQUENCE row")


@pytest.mark.parametrize("edit", EDITS)
def test_edit_while_a_drop_runs(uri, admin, edit):
    """The model's row is gone, its weights not yet: the drop waits for a table."""
    with psycopg.connect(uri) as holder, two(uri, admin) as (dropper, editor):
        holder.execute("LOCK TABLE gpt2.layer_norm IN EXCLUSIVE MODE")
        model = number(admin, "variant")
        dropper.run("SELECT gpt2_drop_model('variant')")
        assert dropper.waits
        editor.run(EDITS[edit].format(m=model))
        assert editor.waits
        holder.rollback()
        dropper.run("COMMIT")
        editor.run("COMMIT")
        assert (dropper.errors(), editor.errors()) == ([], [])


def test_lock_after_a_savepoint(uri, admin):
    """What ROLLBACK TO gives back is taken again."""
    held = "SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock' AND pid = pg_backend_pid()"
    with psycopg.connect(uri) as connection:
        for edit in ("token", "position", "bias"):
            connection.execute("SAVEPOINT a")
            for again in ("position", edit):
                connection.execute(EDITS[again].format(m=number(connection, "variant")))
                assert one(connection, held) == 1
            connection.execute("ROLLBACK TO a")
            assert one(connection, held) == 0
        connection.rollback()


def test_two_edit_two_models(uri, admin):
    """In opposite orders."""
    models = [number(admin, name) for name in ("copy", "base")]
    with two(uri, admin) as sessions:
        for order in (1, -1):
            for session, model in zip(sessions, models[::order], strict=True):
                session.run(EDITS["position"].format(m=model))
        for session in sessions:
            session.run("COMMIT")
        assert [session.errors() for session in sessions] == [[], []]


@pytest.mark.parametrize("order", [1, -1])
def test_two_drops(uri, admin, order):
    """The default goes, and the oldest that is left, which would be it then: a third one is."""
    admin.execute("SELECT gpt2_drop_model('variant'), gpt2_drop_model('base')")
    admin.execute("SELECT gpt2_default_model('copy')")
    admin.execute("SELECT gpt2_average('kept too', 'kept', 'kept', 0)")
    with two(uri, admin) as sessions:
        for session, name in zip(sessions, ["kept", "copy"][::order], strict=True):
            session.run(f"SELECT gpt2_drop_model('{name}')")
        for session in sessions:
            session.run("COMMIT")
        assert [session.errors() for session in sessions] == [[], []]
    assert admin.execute("SELECT name, is_default FROM gpt2.model").fetchall() == [
        ("kept too", True)
    ]
    admin.execute("UPDATE gpt2.model SET name = 'kept'")


def test_readers_do_not_wait(uri, admin):
    """Whoever writes, others read what was before."""
    query = "SELECT gpt2_generate('The', 4, model => 'base'), count(*) FROM gpt2.wte"
    before = admin.execute(query).fetchone()
    with psycopg.connect(uri) as writer:
        writer.execute("SELECT gpt2_create_variant('new', 'base')")
        writer.execute(EDITS["token"].format(m=number(writer, "base")))
        with psycopg.connect(uri, options="-c lock_timeout=1ms") as reader:
            assert reader.execute(query).fetchone() == before
        writer.rollback()
