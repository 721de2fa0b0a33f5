"""gpt2_load_model: who may call it, and what it leaves behind. test_loader.py has the rest, and
test_rights.py whose rights count."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from conftest import load_model, one
from oracle.checkpoints import write_vocabulary as write_own
from test_loader import (  # noqa: F401  fixtures among them
    CONFIG,
    check_rows,
    contents,
    database,
    db,
    directory,
    has_plpython,
    make_tensors,
    readable,
    write,
)

from clusters import OWNER, Cluster

SQL = "SELECT gpt2_load_model(%s)"


@pytest.fixture(autouse=True)
def need_plpython(db):  # noqa: F811
    if not has_plpython(db):
        pytest.skip("the server has no PL/Python")


@pytest.fixture
def model(directory):  # noqa: F811
    """Path of a model that the server may read."""
    write(directory, make_tensors(CONFIG))
    write_own(directory, CONFIG["vocab_size"])
    for path in directory.iterdir():
        path.chmod(0o644)
    return str(directory)


@pytest.fixture
def role(db):  # noqa: F811
    """Name of a role without rights."""
    db.execute("DROP ROLE IF EXISTS test_plpython")
    db.execute("CREATE ROLE test_plpython")
    yield "test_plpython"
    db.execute("RESET ROLE")
    db.execute("DROP OWNED BY test_plpython")
    db.execute("DROP ROLE test_plpython")


def test_gives_the_name(db, model):  # noqa: F811
    name = Path(model).name
    assert db.execute(SQL, (model,)).fetchone() == (name,)
    check_rows(db, make_tensors(CONFIG), name)
    db.execute("SELECT gpt2_load_model(%s || '/', replace => true)", (model,))
    named = db.execute("SELECT gpt2_load_model(%s, 'other')", (model,)).fetchone()
    assert named == ("other",)


def test_float16(db, model):  # noqa: F811
    """The same rows as by the command line."""
    db.execute("SELECT gpt2_load_model(%s, 'm', dtype => 'float16')", (model,))
    by_server = contents(db)
    assert by_server["model"][0][0]["dtype"] == "float16"
    load_model(db.info.dsn, Path(model), "m", "--dtype", "float16", "--replace")
    assert contents(db) == by_server


@pytest.mark.parametrize("dtype", ["float8", "", None])
def test_no_such_dtype(db, model, dtype):  # noqa: F811
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        db.execute("SELECT gpt2_load_model(%s, 'm', dtype => %s)", (model, dtype))
    diag = error.value.diag
    assert diag.message_primary == f'dtype "{dtype or ""}" does not exist'
    assert diag.message_detail == "It is float32 or float16."
    assert diag.message_hint
    assert db.execute("SELECT count(*) FROM gpt2.model").fetchone() == (0,)


def test_public_may_not(db, role, model):  # noqa: F811
    db.execute(f"SET ROLE {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for f"):
        db.execute(SQL, (model,))
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for f"):
        db.execute("SELECT gpt2._load_model(%s, 'm', false, NULL, 'float32')", (model,))


def test_only_who_may_read_files(db, role, model):  # noqa: F811
    """Its members, who may write the tables."""
    db.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA gpt2 TO {role}")
    db.execute(f"GRANT EXECUTE ON FUNCTION gpt2_load_model TO {role}")
    db.execute(f"SET ROLE {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal:
        db.execute(SQL, (model,))
    assert refusal.value.diag.message_primary == "permission denied to read files on the server"
    assert "not a member of pg_read_server_files" in refusal.value.diag.message_detail
    assert f"GRANT pg_read_server_files TO {role};" in refusal.value.diag.message_hint

    db.execute("RESET ROLE")
    db.execute(f"REVOKE EXECUTE ON FUNCTION gpt2_load_model FROM {role}")
    db.execute(f"GRANT pg_read_server_files TO {role}")
    db.execute(f"SET ROLE {role}")
    db.execute(SQL, (model,))
    db.execute("RESET ROLE")
    check_rows(db, make_tensors(CONFIG), Path(model).name)


def test_session_user_is_asked_too(db, database, role, model):  # noqa: F811
    db.execute(f"GRANT EXECUTE ON FUNCTION gpt2_load_model TO {role}")
    db.execute(f"SET SESSION AUTHORIZATION {role}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="to read files on the server"):
        db.execute(SQL, (model,))
    db.execute("RESET SESSION AUTHORIZATION")


@pytest.mark.parametrize("path", [None, "", "model", "../model"])
def test_path_is_absolute(db, path):  # noqa: F811
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="is not absolute") as refusal:
        db.execute(SQL, (path,))
    assert refusal.value.diag.message_hint


def test_no_numpy(db, model):  # noqa: F811
    """The message names the package; a module that is None cannot be imported."""
    db.execute("DO LANGUAGE plpython3u $$ import sys; sys.modules['numpy'] = None $$")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refusal:
        db.execute(SQL, (model,))
    assert refusal.value.diag.message_primary == "numpy is not installed for the server's Python"
    assert "python3-numpy" in refusal.value.diag.message_hint


def test_directory_that_the_server_may_not_read(db, directory, model):  # noqa: F811
    directory.chmod(0o000)
    try:
        with pytest.raises(psycopg.Error) as refusal:
            db.execute(SQL, (model,))
    finally:
        directory.chmod(0o755)
    assert refusal.value.diag.sqlstate == "42501"
    assert refusal.value.diag.message_primary == f'could not read "{model}"'


def test_comes_where_somebody_has_a_trigger(new_database):
    """On a table of gpt2's: that is his, and none of what is made here."""
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2 CASCADE")
        connection.execute("""
            CREATE FUNCTION public.audit() RETURNS trigger
                LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
            CREATE TRIGGER audit BEFORE INSERT ON gpt2.model
                FOR EACH ROW EXECUTE FUNCTION public.audit()""")
        connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
        assert one(connection, "SELECT to_regproc('gpt2_load_model') IS NOT NULL")


@pytest.fixture(scope="module")
def own_server(cluster, new_cluster) -> Iterator[tuple[Cluster, Path]]:
    """A server that may crash, and the folder in which its processes put temporary files."""
    with psycopg.connect(cluster) as connection:
        if not has_plpython(connection):
            pytest.skip("the server has no PL/Python")
    temporary = Path(tempfile.mkdtemp(prefix="gpt2-test-", dir="/var/tmp"))
    shutil.chown(temporary, OWNER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        server = new_cluster()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
        connection.execute(
            "CREATE FUNCTION tmp() RETURNS text LANGUAGE plpython3u AS $$"
            "import tempfile; return tempfile.gettempdir()$$"
        )
        assert one(connection, "SELECT tmp()") == str(temporary)
    yield server, temporary
    server.remove()
    shutil.rmtree(temporary)


def when_gone(uri: str, pid: int) -> psycopg.Connection:
    """A connection when that process is no more, and the server has recovered where it crashed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            connection = psycopg.connect(uri, autocommit=True)
            while one(connection, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid):
                assert time.monotonic() < deadline
            return connection
        except psycopg.OperationalError:
            pass  # it is about to crash, or recovering
    raise AssertionError("the server does not come back")


@pytest.mark.parametrize("end", ["cancelled", "terminated", "killed", "failed", "loaded"])
def test_temporary_files_go_away(own_server, directory, model, end):  # noqa: F811
    """However an import ends: here it waits for a table, with rows of the one before in its file."""
    if end == "failed":
        tensors = make_tensors(CONFIG)
        tensors["h.1.mlp.c_proj.weight"][0, 0] = float("nan")
        write(directory, tensors)
        readable(directory)
    server, temporary = own_server
    with (
        closing(psycopg.connect(server.dsn())) as holder,
        closing(psycopg.connect(server.dsn())) as loader,
        ThreadPoolExecutor(1) as thread,
    ):
        holder.execute("LOCK TABLE gpt2.merge IN EXCLUSIVE MODE")
        pid = loader.info.backend_pid
        loading = thread.submit(loader.execute, SQL, (model,))
        while not one(holder, "SELECT cardinality(pg_blocking_pids(%s)) > 0", pid):
            assert not loading.done()
        if end == "killed":
            os.kill(pid, signal.SIGKILL)
        elif end in ("cancelled", "terminated"):
            function = "pg_terminate_backend" if end == "terminated" else "pg_cancel_backend"
            holder.execute(f"SELECT {function}(%s)", (pid,))
        else:
            holder.rollback()
        error = loading.exception(60)
    expected = {
        "cancelled": psycopg.errors.QueryCanceled,
        "terminated": psycopg.errors.AdminShutdown,
        "killed": psycopg.OperationalError,
        "failed": psycopg.DataError,
        "loaded": type(None),
    }
    assert isinstance(error, expected[end])
    with when_gone(server.dsn(), pid) as watcher:
        assert list(temporary.iterdir()) == []
        assert list(Path(server.datadir).glob("base/pgsql_tmp/*")) == []
        assert one(watcher, "SELECT count(*) FROM gpt2.model") == 0


def test_many_files(database, model):  # noqa: F811
    """Rows go to COPY through files of a bounded size; here each holds one chunk."""
    with psycopg.connect(database) as connection:
        definition = connection.execute(
            "SELECT pg_get_functiondef('gpt2._python_modules'::regproc)"
        ).fetchone()[0]
        assert "FILE_SIZE = 1 << 25" in definition
        connection.execute(definition.replace("FILE_SIZE = 1 << 25", "FILE_SIZE = 20"))
        connection.execute("SELECT gpt2_load_model(%s, 'm')", (model,))
        check_rows(connection, make_tensors(CONFIG))
        connection.rollback()


def test_statement_timeout(db, database, model):  # noqa: F811
    """A function cannot lift the timeout of the statement that calls it: the hint says who can."""
    with psycopg.connect(database) as blocker:
        blocker.execute("LOCK TABLE gpt2.model IN EXCLUSIVE MODE")
        db.execute("SET statement_timeout = '2s'")
        with pytest.raises(psycopg.errors.QueryCanceled) as refusal:
            db.execute(SQL, (model,))
    assert refusal.value.diag.message_detail == "Nothing was loaded."
    hint = refusal.value.diag.message_hint
    assert hint == "Where it was statement_timeout, before it: SET statement_timeout = 0;"
    db.execute(hint.split(": ", 1)[1])
    db.execute(SQL, (model,))
