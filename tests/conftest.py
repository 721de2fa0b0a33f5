"""Fixtures: fresh databases, clusters of a test's own, and the reference tokenizer.

GPT2_TEST_DSN names the private cluster (superuser, database postgres); `make test` sets it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator

import pglite
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from oracle.tokenizer import tokenizer
from psycopg.conninfo import make_conninfo
from tokenizers import ByteLevelBPETokenizer

from clusters import Cluster
from databases import BUNDLED, DEMO, ROOT, load_model, template

__all__ = ["BUNDLED", "DEMO", "ROOT", "load_model"]
#: whether all is tried that could be: `make test-long`
LONG = bool(os.environ.get("GPT2_LONG"))
# a busy machine is no finding
settings.register_profile("gpt2", deadline=None)
settings.load_profile("gpt2")
#: of property tests that ask a server; each says how many examples it takes
PROPERTY = settings(
    deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


def examples(n: int) -> int:
    """How many of n made-up inputs a test tries: each where all is tried, or else a quarter."""
    return n if LONG else -(-n // 4)


def cases(every: Iterable, short: Iterable) -> list:
    """Parameters: every one where all is tried, or else those of `short`, which do what the others
    do more of."""
    short = list(short)
    return [
        case
        if case in short
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long)
        for case in every
    ]


@pytest.fixture(scope="session")
def cluster() -> str:
    """URI of the cluster's maintenance database."""
    dsn = os.environ.get("GPT2_TEST_DSN")
    if not dsn:
        pytest.exit("GPT2_TEST_DSN is not set: run the tests with `make test`", returncode=2)
    return dsn


@pytest.fixture(scope="session")
def new_database(request: pytest.FixtureRequest) -> Iterator:
    """Makes databases, and drops them when the session ends: new_database(options, holds) -> URI.

    options: of CREATE DATABASE; holds: what it is a copy of, one of databases.KINDS: 'extension',
    'demo', which has the tests' model too, 'bundled' or 'shapes'; by default it is empty.
    """
    if pglite.wanted():
        yield from pglite.databases()
        return
    cluster = request.getfixturevalue("cluster")
    made: list[str] = []
    with psycopg.connect(cluster, autocommit=True) as admin:

        def make(options: str = "", holds: str | None = None) -> str:
            name = f"gpt2_test_{secrets.token_hex(4)}"
            source = template(cluster, holds) if holds else "template0"
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {source} {options}")
            made.append(name)
            return make_conninfo(cluster, dbname=name)

        yield make
        for name in made:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def new_cluster() -> Iterator:
    """Makes and starts clusters, and removes them when the session ends: new_cluster(settings,
    standby_of) -> clusters.Cluster. It is for what the private cluster cannot be used for: kills,
    standbys, settings that need a start.

        primary = new_cluster({"wal_level": "replica"})
        create_demo(primary.dsn())                # databases.py: the extension and the model
        standby = new_cluster(standby_of=primary)
        primary.kill_postmaster(); primary.start()
        standby.remove()                          # where it need not stay until the end

    The data directory is cluster.datadir, the server's log cluster.logfile; stop() and start() are
    the executor's own.
    """
    made: list[Cluster] = []

    def make(settings: dict[str, str] | None = None, standby_of: Cluster | None = None) -> Cluster:
        made.append(Cluster(settings, standby_of))
        return made[-1].start()

    yield make
    for each in reversed(made):
        each.remove()


@pytest.fixture(scope="session")
def dsn(new_database) -> str:
    """URI of a database with the extension and no model."""
    return new_database(holds="extension")


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def one(conn: psycopg.Connection, query: str, *arguments):
    """The one value that a query gives."""
    return conn.execute(query, arguments).fetchone()[0]


def has_icu(conn: psycopg.Connection) -> bool:
    """Whether a database may have an ICU locale: the server was built with ICU, and is 15 or newer."""
    # initdb takes it from ICU; from 16 on one of ICU's is there without it, 'unicode'
    known = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')"
    return conn.info.server_version >= 150000 and one(conn, known)


def number(conn: psycopg.Connection, name: str) -> int:
    """A model's id."""
    return one(conn, "SELECT model FROM gpt2.model WHERE name = %s", name)


def reads(conn: psycopg.Connection, query: str, *arguments) -> int:
    """Rows of gpt2.matrix_page that a query reads, by an index or not. An index alone, which serves
    where VACUUM has come by, would not count."""
    rows = """SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
              WHERE relid = 'gpt2.matrix_page'::regclass"""
    conn.execute("SET LOCAL enable_indexonlyscan = off")
    before = one(conn, rows)
    conn.execute(query, arguments)
    return one(conn, rows) - before


@pytest.fixture(scope="session")
def demo_dsn(new_database) -> str:
    """URI of a database in which the tests' small model is loaded as 'demo'."""
    return new_database(holds="demo")


@pytest.fixture(scope="session")
def bundled_dsn(new_database) -> str:
    """URI of a database in which the bundled model is loaded as 'demo': what a reader has."""
    return new_database(holds="bundled")


@pytest.fixture
def demo(demo_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(demo_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def shapes(new_database) -> Iterator[psycopg.Connection]:
    """A connection to a database with a model of each of oracle.checkpoints' shapes, by name."""
    with psycopg.connect(new_database(holds="shapes"), autocommit=True) as connection:
        # as every public function sets it: some tests call what lies below them
        connection.execute("SET jit = off")
        yield connection


@pytest.fixture(scope="session")
def reference() -> ByteLevelBPETokenizer:
    """GPT-2's tokenizer by the `tokenizers` package."""
    return tokenizer()
