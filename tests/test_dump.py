"""pg_dump and pg_restore keep models: whatever the format, the jobs and the target, and whoever dumps."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, cases, load_model, one
from lived_in import MODELS, contents, directory_of, furnish, goes_on, sequences
from oracle.checkpoints import SHAPES, write_checkpoint
from oracle.vocabularies import tokenizer_json

from clusters import Cluster

pytestmark = pytest.mark.operations


def run(*command: str | Path) -> str:
    """Runs a command that must succeed and warn of nothing; gives what it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server(new_cluster) -> Iterator[Cluster]:
    """A cluster that is thrown away: dropping its databases one by one takes longer."""
    server = new_cluster()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def new_name() -> Iterator[str]:
    return (f"target_{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def blank(server) -> str:
    """Name of a database with the extension, to copy."""
    server.database("blank", "gpt2")
    return "blank"


@pytest.fixture(scope="module")
def source(server, blank, tmp_path_factory) -> str:
    """URI of a database that is lived in."""
    uri = server.database("source", copy_of=blank)
    furnish(uri, tmp_path_factory.mktemp("models"))
    return uri


@pytest.fixture(scope="module")
def expected(source) -> dict:
    """What is in it: each model says something else."""
    found = contents(source)
    assert len({found[name][2] for name in MODELS}) == len(MODELS)
    assert found["gpt2.tokenizer"][0] == 4
    return found


@pytest.fixture(scope="module")
def dumps(source, tmp_path_factory) -> dict[str, Path]:
    """Dumps of it, by format."""
    directory = tmp_path_factory.mktemp("dumps")
    files = {name: directory / name for name in ("custom", "directory", "plain", "clean")}
    run("pg_dump", "--format=custom", "--file", files["custom"], source)
    run("pg_dump", "--format=directory", "--jobs=2", "--file", files["directory"], source)
    run("pg_dump", "--file", files["plain"], source)
    run("pg_dump", "--clean", "--if-exists", "--file", files["clean"], source)
    return files


def restore(file: Path, uri: str, *options: str) -> None:
    if file.name in ("plain", "clean"):
        run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f", file, uri)
    else:
        run("pg_restore", "--exit-on-error", *options, "--dbname", uri, file)


#: form, jobs, target; each of two appears together with each of another
PAIRS = {
    ("plain", 1, "empty"), ("plain", 1, "extension"), ("plain", 1, "clean"),
    ("custom", 1, "extension"), ("custom", 2, "clean"), ("custom", 4, "empty"),
    ("directory", 1, "clean"), ("directory", 2, "empty"), ("directory", 4, "extension"),
}  # fmt: skip
ALL = [
    case
    for case in itertools.product(("plain", "custom", "directory"), (1, 2, 4),
                                  ("empty", "extension", "clean"))
    if case[0] != "plain" or case[1] == 1
]  # fmt: skip


@pytest.mark.parametrize(("form", "jobs", "kind"), cases(ALL, PAIRS))
def test_restore(server, blank, source, expected, dumps, new_name, tmp_path, form, jobs, kind):
    """Into an empty database, one with the extension, and, with --clean, one with other models: rows,
    texts and numbers are the same, and no number is given away twice afterwards."""
    uri = server.database(next(new_name), copy_of="template1" if kind == "empty" else blank)
    options = [f"--jobs={jobs}"]
    if kind == "clean":
        form = "clean" if form == "plain" else form
        options += ["--clean", "--if-exists"]
        load_model(uri, write_checkpoint(tmp_path / "other", SHAPES["odd_widths"]), "own")
        with psycopg.connect(uri) as conn:
            conn.execute(
                """CREATE SCHEMA app;
                   CREATE TABLE app.beginning AS
                   SELECT 'own' AS model, gpt2_prefix('a', 'own') AS prefix"""
            )
    restore(dumps[form], uri, *options)
    assert contents(uri) == expected
    assert sequences(uri) == sequences(source)
    goes_on(uri, tmp_path)


def test_restore_of_the_plain_script(server, new_name, tmp_path):
    """Where gpt2 is no extension, its functions, views and triggers are in the dump themselves."""
    source = server.database(next(new_name), "vector")
    run("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", ROOT / "build/gpt2.sql", source)
    furnish(source, tmp_path)
    run("pg_dump", "--format=custom", "--file", tmp_path / "custom", source)
    target = server.database(next(new_name))
    restore(tmp_path / "custom", target, "--jobs=4")
    assert contents(target) == contents(source)
    assert sequences(target) == sequences(source)
    goes_on(target, tmp_path)


# ---- By a role to which nothing was granted


@pytest.fixture
def shared(server, blank, new_name, tmp_path) -> tuple[str, str]:
    """A database with a model of the superuser's and a table of a role's: its URI for the one and
    for the other."""
    name = next(new_name)
    uri = server.database(name, copy_of=blank)
    tokenizer_json(directory_of(tmp_path / "added"))
    load_model(uri, tmp_path / "added", "added")
    with psycopg.connect(uri) as conn:
        conn.execute(
            f"""CREATE ROLE role_{name} LOGIN;
                CREATE SCHEMA mine AUTHORIZATION role_{name};
                SET ROLE role_{name};
                CREATE TABLE mine.beginning AS
                SELECT gpt2_prefix('the') AS prefix, gpt2_generate('the', 8) AS text"""
        )
    return uri, server.dsn(name, f"role_{name}")


def answers(uri: str) -> list[tuple]:
    """What the model says, with the role's prefix and without, and what it said."""
    with psycopg.connect(uri) as conn:
        return conn.execute(
            """SELECT gpt2_generate('the', 8), gpt2_generate('the', 8, prefix => prefix), text
               FROM mine.beginning"""
        ).fetchall()


def test_an_ordinary_role_dumps(server, shared, new_name, tmp_path):
    """Whoever may read the tables may dump them: models, vocabularies and numbers come along."""
    uri, role = shared
    run("pg_dump", "--format=custom", "--file", tmp_path / "custom", role)
    target = server.database(next(new_name))
    restore(tmp_path / "custom", target)
    assert answers(target) == answers(uri)
    assert len(set(answers(target)[0])) == 1
    assert sequences(target) == sequences(uri)


def test_models_that_a_role_may_not_read(server, shared, new_name, tmp_path):
    """Who may not read them does not dump them in silence, but may leave them out; and that they are
    not for everybody is in the owner's dump."""
    uri, role = shared
    with psycopg.connect(uri) as conn:
        conn.execute("REVOKE SELECT ON gpt2.matrix_page FROM PUBLIC")
        version = conn.info.server_version
    done = subprocess.run(["pg_dump", role], capture_output=True, text=True)
    assert done.returncode == 1 and "permission denied for table matrix_page" in done.stderr
    # 14's locks the tables whose rows it leaves out, too
    if version >= 150000:
        run(
            *("pg_dump", "--format=custom", "--exclude-table-data=gpt2.*"),
            *("--file", tmp_path / "without", role),
        )
        target = server.database(next(new_name))
        restore(tmp_path / "without", target)
        with psycopg.connect(target) as without:
            assert one(without, "SELECT count(*) FROM mine.beginning") == 1
            assert one(without, "SELECT count(*) FROM gpt2.model") == 0
    run("pg_dump", "--format=custom", "--file", tmp_path / "all", uri)
    target = server.database(next(new_name))
    restore(tmp_path / "all", target)
    with psycopg.connect(target) as conn:
        readable = "SELECT has_table_privilege('public', %s, 'SELECT')"
        assert not one(conn, readable, "gpt2.matrix_page") and one(conn, readable, "gpt2.model")
    assert answers(target) == answers(uri)


def test_the_owner_of_a_database_restores(server, source, expected, dumps, new_name, tmp_path):
    """No superuser is needed but for pgvector, where it is not a trusted extension."""
    name = next(new_name)
    server.database(name, "vector")
    with psycopg.connect(server.dsn()) as conn:
        conn.execute(f"CREATE ROLE role_{name} LOGIN; ALTER DATABASE {name} OWNER TO role_{name}")
    uri = server.dsn(name, f"role_{name}")
    restore(dumps["custom"], uri, "--no-owner", "--no-comments")
    assert contents(uri) == expected
    goes_on(uri, tmp_path)
