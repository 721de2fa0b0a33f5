"""What the other tests' servers and databases are: clusters.py and databases.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from conftest import one
from psycopg.conninfo import make_conninfo

import databases

MADE = "SELECT oid, datname FROM pg_database WHERE datname ~ '^gpt2_template_extension'"


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


def test_one_template(cluster):
    """Many who need a template at once get one, and all of them the same."""
    with psycopg.connect(cluster, autocommit=True) as admin:
        name = databases.template(cluster, "extension")
        admin.execute(f"ALTER DATABASE {name} RENAME TO gpt2_template_extension_old")
        with ThreadPoolExecutor() as pool:
            names = list(pool.map(databases.template, [cluster] * 3, ["extension"] * 3))
        assert names == [name] * 3
        # that of other scripts is gone
        assert [made for _, made in admin.execute(MADE)] == [name]


def test_half_made_template(cluster, monkeypatch):
    """One whose making failed is made anew."""

    def fail(uri: str) -> None:
        databases.create_extension(uri)
        raise OSError

    name = databases.template(cluster, "extension")
    with psycopg.connect(cluster, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} RENAME TO gpt2_template_extension_old")
        with monkeypatch.context() as patched, pytest.raises(OSError):
            patched.setitem(databases.KINDS, "extension", fail)
            databases.template(cluster, "extension")
        assert [made for _, made in admin.execute(MADE)] == ["gpt2_template_extension_new"]
        assert databases.template(cluster, "extension") == name
        with psycopg.connect(make_conninfo(cluster, dbname=name)) as copied:
            assert one(copied, "SELECT count(*) FROM gpt2_models()") == 0
