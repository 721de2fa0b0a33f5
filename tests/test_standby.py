"""A hot standby, by pg_basebackup: it reads what its primary reads, follows it, and takes over."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from conftest import DEMO, load_model, number, one
from lived_in import EDIT, PROMPT, contents, directory_of, furnish, goes_on, sequences
from oracle.vocabularies import added_tokens_decoder
from psycopg import errors
from test_sessions import CALLS

from clusters import Cluster, until

pytestmark = pytest.mark.operations


@pytest.fixture(scope="module")
def primary(new_cluster, tmp_path_factory) -> Iterator[Cluster]:
    """A server with a database that is lived in, and in which the tests' model is the default."""
    primary = new_cluster({"wal_level": "replica"})
    uri = primary.database("gpt2", "gpt2")
    furnish(uri, tmp_path_factory.mktemp("models"))
    load_model(uri, DEMO, "demo", "--default")
    with psycopg.connect(uri) as conn:
        conn.execute("INSERT INTO app.beginning VALUES ('demo', gpt2_prefix(%s))", [PROMPT])
    yield primary
    primary.remove()


@pytest.fixture(scope="module")
def standby(primary, new_cluster) -> Iterator[Cluster]:
    standby = new_cluster(standby_of=primary)
    yield standby
    standby.remove()


def called(uri: str) -> list[list[tuple]]:
    """What each function that reads gives, by the binary protocol: to the last bit."""
    with psycopg.connect(uri, autocommit=True) as conn:
        return [conn.cursor(binary=True).execute(query).fetchall() for query in CALLS]


def catch_up(primary: Cluster, standby: Cluster) -> None:
    """Waits until the standby shows what the primary has written."""
    with psycopg.connect(primary.dsn(), autocommit=True) as conn:
        written = one(conn, "SELECT pg_current_wal_lsn()")
    with psycopg.connect(standby.dsn(), autocommit=True) as conn:
        until(conn, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)


def test_reads(primary, standby):
    """Every function that reads, with the same result, though nothing can be written there."""
    catch_up(primary, standby)
    with psycopg.connect(standby.dsn("gpt2"), autocommit=True) as conn:
        assert one(conn, "SELECT pg_is_in_recovery()")
    assert called(standby.dsn("gpt2")) == called(primary.dsn("gpt2"))
    assert contents(standby.dsn("gpt2")) == contents(primary.dsn("gpt2"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT gpt2_create_variant('x', 'own')",
        "SELECT gpt2_drop_model('own')",
        "SELECT gpt2_default_model('own')",
        "SELECT gpt2_average('x', 'own', 'own')",
        "UPDATE gpt2.linear SET bias = 0 WHERE unit = 1",
    ],
)
def test_nothing_is_written(standby, query):
    with (
        psycopg.connect(standby.dsn("gpt2"), autocommit=True) as conn,
        pytest.raises(errors.ReadOnlySqlTransaction),
    ):
        conn.execute(query)


def test_follows(primary, standby, tmp_path):
    """A model that is loaded, edited or dropped on the primary is so on the standby."""
    uri = primary.dsn("gpt2")
    added_tokens_decoder(directory_of(tmp_path / "later"))
    load_model(uri, tmp_path / "later", "later")
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SELECT gpt2_create_variant('later variant', 'later')")
        conn.execute(EDIT, [number(conn, "later variant")])
        conn.execute(
            "SELECT gpt2_drop_model('half'); DELETE FROM app.beginning WHERE model = 'half'"
        )
        conn.execute(EDIT, [number(conn, "own")])
    catch_up(primary, standby)
    stale = """SELECT gpt2_generate(%s, 4, model => model, prefix => prefix) FROM app.beginning
               WHERE model = 'own'"""
    for server in (primary, standby):
        with (
            psycopg.connect(server.dsn("gpt2"), autocommit=True) as conn,
            pytest.raises(errors.ObjectNotInPrerequisiteState, match="have changed"),
        ):
            conn.execute(stale, [PROMPT])
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("DELETE FROM app.beginning")
        conn.execute(
            "INSERT INTO app.beginning SELECT name, gpt2_prefix(%s, name) FROM gpt2.model", [PROMPT]
        )
    catch_up(primary, standby)
    assert contents(standby.dsn("gpt2")) == contents(uri)


def test_takes_over(primary, standby, tmp_path):
    """After a promotion: the same, and models are loaded with numbers that none has had."""
    uri = standby.dsn("gpt2")
    expected = called(uri), contents(uri)
    given = sequences(primary.dsn("gpt2"))
    primary.kill_postmaster()
    with psycopg.connect(uri, autocommit=True) as conn:
        assert one(conn, "SELECT pg_promote()")
        assert not one(conn, "SELECT pg_is_in_recovery()")
    assert (called(uri), contents(uri)) == expected
    assert all(sequences(uri)[name] >= value for name, value in given.items())
    goes_on(uri, tmp_path)
