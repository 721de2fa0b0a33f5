"""What the other tests' servers and databases are: clusters.py and databases.py."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from conftest import one
from psycopg.conninfo import make_conninfo

import databases

MADE = "SELECT oid, datname FROM pg_database WHERE datname ~ '^gpt2_template_test'"


def test_cluster_of_its_own(cluster, new_cluster):
    """Has the settings that were asked for, and no TCP; is killed, and recovers what was committed;
    a standby of it reads it."""
    primary = new_cluster({"wal_level": "replica", "synchronous_commit": "on", "work_mem": "5MB"})
    with psycopg.connect(primary.dsn(), autocommit=True) as connection:
        assert one(connection, "SHOW work_mem") == "5MB"
        assert one(connection, "SHOW listen_addresses") == ""
        with psycopg.connect(cluster) as private:
            identifier = "SELECT system_identifier FROM pg_control_system()"
            assert one(connection, identifier) != one(private, identifier)
        connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    primary.kill_postmaster()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(primary.dsn())
    primary.start()
    standby = new_cluster(standby_of=primary)
    with psycopg.connect(standby.dsn()) as connection:
        assert one(connection, "SELECT pg_is_in_recovery()")
        assert one(connection, "SELECT number FROM kept") == 1
    standby.remove()
    primary.remove()
    assert not standby.folder.exists() and not primary.folder.exists()
    assert not primary.processes() and not standby.processes()


@pytest.fixture
def kind(cluster, monkeypatch) -> Iterator[str]:
    """A kind of template that no other test uses: its databases have a table."""

    def create(uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("CREATE TABLE made AS SELECT 1 AS number")

    monkeypatch.setitem(databases.KINDS, "test", create)
    yield "test"
    with psycopg.connect(cluster, autocommit=True) as admin:
        for _, name in admin.execute(MADE).fetchall():
            admin.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
            admin.execute(f"DROP DATABASE {name}")


def test_one_template(cluster, kind):
    """Many who need a template at once get one, and that of other scripts is gone."""
    with psycopg.connect(cluster, autocommit=True) as admin:
        old = databases.template(cluster, kind)
        admin.execute(f"ALTER DATABASE {old} RENAME TO gpt2_template_test_old")
        with ThreadPoolExecutor() as pool:
            names = list(pool.map(databases.template, [cluster] * 3, [kind] * 3))
        assert names == [old] * 3
        [(oid, name)] = admin.execute(MADE).fetchall()
        assert name == old
        assert databases.template(cluster, kind) == old
        assert admin.execute(MADE).fetchall() == [(oid, old)]


def test_half_made_template(cluster, kind, monkeypatch):
    """One whose making failed is not copied, and is made anew."""
    create = databases.KINDS[kind]

    def fail(uri: str) -> None:
        create(uri)
        raise OSError

    with psycopg.connect(cluster, autocommit=True) as admin:
        with monkeypatch.context() as patched, pytest.raises(OSError):
            patched.setitem(databases.KINDS, kind, fail)
            databases.template(cluster, kind)
        assert [name for _, name in admin.execute(MADE)] == ["gpt2_template_test_new"]
        name = databases.template(cluster, kind)
        assert [made for _, made in admin.execute(MADE)] == [name]
    with psycopg.connect(make_conninfo(cluster, dbname=name)) as made:
        assert one(made, "SELECT number FROM made") == 1
