"""Standby servers behind PgBouncer and HAProxy, as docs/standbys.md sets them up: its configurations,
settings, commands and queries, with sockets in the place of addresses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pages
import psycopg
import pytest
from conftest import DEMO, load_model, one
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg import errors
from test_parallel import IDS
from test_parallel import SHAPE as WIDE

from clusters import PATIENCE, Cluster, eventually, until
from fleet import SQL, Fleet, block
from fleet import fleet as new_fleet
from poolers import PAGE, PgBouncer

pytestmark = pytest.mark.operations

#: which server answers: each has a name
WHERE = "current_setting('cluster_name')"
CALL = "SELECT gpt2_generate('A table', 8)"
#: goes on until somebody ends it
ENDLESS = (
    "SELECT count(gpt2_generate('A table', 8, seed => i)) FROM generate_series(1, 1000000) AS i"
)
#: the same with parallel workers, to whom the rows of gpt2._share are handed out one by one
IN_WORKERS = "SELECT count(pg_sleep(600)) FROM gpt2._share"
WITH_WORKERS = """SET {local} max_parallel_workers_per_gather = 2; SET {local} parallel_setup_cost = 0;
                  SET {local} parallel_tuple_cost = 0; SET {local} seq_page_cost = 0"""


def query(uri: str, sql: str, *arguments):
    """The one value that a query gives, in a connection of its own."""
    with psycopg.connect(uri, autocommit=True, prepare_threshold=None) as conn:
        return one(conn, sql, *arguments)


def at_once(uri: str, sql: str, n: int) -> list[Future]:
    """n clients that ask at the same time; their results."""
    pool = ThreadPoolExecutor(n)
    futures = [pool.submit(query, uri, sql) for _ in range(n)]
    pool.shutdown(wait=False)
    return futures


def load(uri: str) -> None:
    """The models 'demo', which is the default, 'b', and 'wide', whose long texts workers read."""
    with tempfile.TemporaryDirectory() as folder:
        load_model(uri, DEMO, "demo")
        load_model(uri, write_checkpoint(Path(folder) / "b", SHAPES["untied"]), "b")
        load_model(uri, write_checkpoint(Path(folder) / "wide", WIDE), "wide")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with new_fleet(2, load) as made:
        yield made


@pytest.fixture(scope="module")
def one_server(fleet) -> Iterator[str]:
    """Connection string of a pooler with one connection to one standby: the next transaction has it."""
    pooler = PgBouncer(fleet.standbys[0], size=1, users=fleet.users)
    try:
        pooler.start()
        yield pooler.dsn("texts", "app", "secret")
    finally:
        pooler.remove()


def busy(cluster: Cluster) -> int:
    """Processes of the application that are at work on a server, parallel workers too."""
    return query(
        cluster.dsn(),
        """SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'""",
    )


NAMES = {"standby1", "standby2"}


def test_calls_are_spread(fleet):
    """Each server has one call at a time, as it has one core; the text is what the primary gives."""
    asked = f"SELECT ARRAY[gpt2_generate('A table', 40), {WHERE}]"
    given = [future.result() for future in at_once(fleet.pooled, asked, 8)]
    assert {where for _, where in given} == NAMES
    assert {text for text, _ in given} == {query(fleet.uri, "SELECT gpt2_generate('A table', 40)")}
    waiting = at_once(fleet.pooled, "SELECT 'waits' || pg_sleep(0.5)", 6)
    eventually(lambda: [busy(standby) for standby in fleet.standbys] == [1, 1])
    most = 0
    while not all(future.done() for future in waiting):
        most = max(most, *(busy(standby) for standby in fleet.standbys))
    assert most == 1


# what works in transaction pooling


def test_a_model_by_argument_and_by_set_local(fleet, one_server):
    expected = query(fleet.uri, "SELECT gpt2_generate('A table', 8, model => 'b')")
    default = query(fleet.uri, CALL)
    assert expected != default
    with (
        psycopg.connect(one_server, autocommit=True) as conn,
        psycopg.connect(one_server, autocommit=True) as other,
    ):
        assert one(conn, "SELECT gpt2_generate('A table', 8, model => 'b')") == expected
        commands = [c.strip() for c in block(SQL, "SET LOCAL").split(";") if c.strip()]
        results = [conn.execute(command) for command in commands]
        [text] = [result.fetchone()[0] for result in results if result.description]
        assert text == expected
        assert one(other, CALL) == one(conn, CALL) == default


def test_a_model_by_role(fleet, one_server):
    with psycopg.connect(fleet.uri, autocommit=True) as conn:
        conn.execute("CREATE ROLE other LOGIN PASSWORD 'secret'")
        conn.execute("ALTER ROLE other SET gpt2.model = 'b'")
    fleet.catch_up()
    pooler = PgBouncer(fleet.standbys[0], size=1, users='"other" "secret"\n')
    try:
        pooler.start()
        assert query(pooler.dsn("texts", "other", "secret"), CALL) == query(
            fleet.uri, "SELECT gpt2_generate('A table', 8, model => 'b')"
        )
    finally:
        pooler.remove()


def test_a_setting_of_the_session_is_the_next_clients_too(one_server):
    with psycopg.connect(one_server, autocommit=True) as conn:
        conn.execute("SET gpt2.model = 'b'")
        with psycopg.connect(one_server, autocommit=True) as other:
            assert one(other, "SHOW gpt2.model") == "b"
        conn.execute("RESET gpt2.model")


def test_options_are_refused(one_server):
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
        psycopg.connect(one_server, options="-c gpt2.model=b")


def test_repeated_statements(fleet):
    """More often than psycopg repeats one before it prepares it."""
    with psycopg.connect(fleet.pooled, autocommit=True, prepare_threshold=None) as conn:
        assert len({one(conn, "SELECT gpt2_generate(%s, 2)", "A table") for _ in range(12)}) == 1


def test_a_stream_in_a_cursor(fleet):
    expected = query(fleet.uri, "SELECT gpt2_generate('A table', 8, echo => false)")
    with psycopg.connect(fleet.pooled) as conn, conn.cursor("tokens") as cursor:
        cursor.itersize = 1
        cursor.execute("SELECT piece FROM gpt2_stream('A table', 8)")
        assert "".join(piece for (piece,) in cursor) == expected


def test_nothing_is_written(fleet):
    with pytest.raises(errors.ReadOnlySqlTransaction):
        query(fleet.pooled, "SELECT gpt2_drop_model('b')")
    with pytest.raises(errors.ReadOnlySqlTransaction):
        query(fleet.pooled, "CREATE TEMP TABLE t (i int)")


def test_without_a_pooler(fleet):
    [line] = [
        line.strip()
        for line in (pages.ROOT / PAGE).read_text(encoding="utf-8").splitlines()
        if "load_balance_hosts" in line
    ]
    assert "standby1,standby2" in line
    hosts = ",".join(str(standby.folder) for standby in fleet.standbys)
    uri = line.replace("standby1,standby2", hosts) + " password=secret"
    assert psycopg.pq.version() >= 160000
    seen: set[str] = set()
    eventually(lambda: seen.add(query(uri, f"SELECT {WHERE}")) or seen == NAMES)


# a call that shall end


@pytest.mark.parametrize("sql", [ENDLESS, IN_WORKERS])
def test_statement_timeout(fleet, sql):
    with psycopg.connect(fleet.pooled) as conn, pytest.raises(errors.QueryCanceled):
        conn.execute(WITH_WORKERS.format(local="LOCAL"))
        plan = "\n".join(line for (line,) in conn.execute(f"EXPLAIN {sql}"))
        assert ("Gather" in plan) == (sql is IN_WORKERS), plan
        conn.execute("SET LOCAL statement_timeout = '1s'")
        conn.execute(sql)
    eventually(lambda: not any(busy(standby) for standby in fleet.standbys))
    query(fleet.pooled, CALL)


@pytest.mark.parametrize(("sql", "processes"), [(ENDLESS, 1), (IN_WORKERS, 2)])
def test_a_client_that_is_gone(fleet, sql, processes):
    """Its call ends on the server, with its workers."""
    conn = psycopg.connect(fleet.pooled)
    conn.execute(WITH_WORKERS.format(local="LOCAL"))
    conn.pgconn.send_query(sql.encode())
    eventually(lambda: max(busy(standby) for standby in fleet.standbys) >= processes)
    conn.close()
    eventually(lambda: not any(busy(standby) for standby in fleet.standbys))
    query(fleet.pooled, CALL)


def test_a_cancel_does_nothing(fleet):
    """HAProxy refuses it at once: the statement comes to its end, and so do those of others."""
    with psycopg.connect(fleet.pooled, autocommit=True) as conn:
        others = at_once(fleet.pooled, "SELECT 1 FROM pg_sleep(1)", 3)
        [mine] = at_once_on(conn, "SELECT 2 FROM pg_sleep(1)")
        time.sleep(0.3)
        conn.cancel()
        assert mine.result() == 2
        assert [future.result() for future in others] == [1] * 3


def at_once_on(conn: psycopg.Connection, sql: str) -> list[Future]:
    pool = ThreadPoolExecutor(1)
    futures = [pool.submit(one, conn, sql)]
    pool.shutdown(wait=False)
    return futures


# workers that cannot be had


def test_all_workers_are_taken(fleet):
    """The same result, by one process."""
    standby = fleet.standbys[0]
    asked = "SELECT gpt2_perplexity(input_ids => %s, model => 'wide')"
    with (
        psycopg.connect(standby.dsn("texts"), autocommit=True) as taker,
        psycopg.connect(standby.dsn("texts"), autocommit=True) as conn,
    ):
        of = "SELECT count(*) FROM pg_stat_activity WHERE leader_pid = %s"
        conn.execute("SET max_parallel_workers_per_gather = 0")
        expected = one(conn, asked, IDS)
        taker.execute("SET max_parallel_workers = 2")
        taker.execute(WITH_WORKERS.format(local=""))
        [taken] = at_once_on(taker, IN_WORKERS)
        until(conn, f"SELECT ({of}) = 2", taker.info.backend_pid)
        conn.execute("SET max_parallel_workers = 2; SET max_parallel_workers_per_gather = 2")
        assert one(conn, asked, IDS) == expected
        assert one(conn, of, taker.info.backend_pid) == 2
        taker.cancel()
        with pytest.raises(errors.QueryCanceled):
            taken.result()


# a server that goes down


@pytest.mark.parametrize("how", ["crash", "shutdown"])
def test_a_server_goes_down(fleet, how):
    """Its call has an error; the other server's and those that wait are answered, and so is a second
    attempt. When it is back, it answers again."""
    lost = fleet.standbys[0]
    asked = f"SELECT {WHERE} FROM pg_sleep(1)"
    query(fleet.pooled, CALL)
    futures = at_once(fleet.pooled, asked, 6)
    eventually(lambda: [busy(standby) for standby in fleet.standbys] == [1, 1])
    if how == "crash":
        lost.kill_postmaster(everything=True)
    else:
        lost.stop()
    failed = [future.exception() for future in futures if future.exception()]
    assert [(error.sqlstate, str(error).strip()) for error in failed] == [
        ("08P01", "server conn crashed?")
        if how == "crash"
        else ("57P01", "terminating connection due to administrator command")
    ]
    assert isinstance(failed[0], psycopg.OperationalError)
    answered = [future.result() for future in futures if not future.exception()]
    # perhaps one was answered before
    assert len(answered) == 5 and answered.count("standby2") >= 4
    assert {query(fleet.pooled, asked) for _ in range(2)} == {"standby2"}
    lost.start()
    eventually(lambda: {f.result() for f in at_once(fleet.pooled, asked, 4)} == NAMES)


def test_the_program_that_asks_again(fleet):
    """The page's, while its server goes down."""
    [code] = pages.blocks(PAGE, "python")
    program = subprocess.Popen(
        [sys.executable, "-c", code.replace("300", "120")],
        env=os.environ | {"DATABASE_URL": fleet.pooled},
        stdout=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: any(busy(standby) for standby in fleet.standbys))
    [lost] = [standby for standby in fleet.standbys if busy(standby)]
    lost.kill_postmaster(everything=True)
    printed, _ = program.communicate(timeout=PATIENCE)
    lost.start()
    text = query(fleet.uri, "SELECT gpt2_generate('A table', 120)")
    assert printed.splitlines()[0] == "server conn crashed?"
    assert printed.endswith(f"{text}\n")


# while the primary writes


def test_calls_go_on_while_a_model_is_loaded(fleet, tmp_path):
    expected = query(fleet.uri, CALL)
    done = threading.Event()
    given: list[str] = []

    def ask() -> None:
        while not done.is_set():
            given.append(query(fleet.pooled, CALL))

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(ask) for _ in range(2)]
        try:
            load_model(fleet.uri, write_checkpoint(tmp_path, SHAPES["untied"], 3), "later")
            fleet.catch_up()
        finally:
            done.set()
        for client in clients:
            client.result()
    assert set(given) == {expected}
    new = "SELECT gpt2_generate('A table', 8, model => 'later')"
    for standby in fleet.standbys:
        assert query(standby.dsn("texts"), new) == query(fleet.uri, new)


def test_the_end_of_the_table_stays(fleet, tmp_path):
    """VACUUM does not give it back to the system, for which every call would have to end."""
    load_model(fleet.uri, write_checkpoint(tmp_path, SHAPES["untied"], 4), "last")
    size = "SELECT pg_relation_size('gpt2.matrix_page')"
    before = query(fleet.uri, size)
    query(fleet.uri, "SELECT gpt2_drop_model('last') IS NULL")
    with psycopg.connect(fleet.uri, autocommit=True) as conn:
        conn.execute("VACUUM gpt2.matrix_page")
    assert query(fleet.uri, size) == before

    def is_smaller() -> bool:  # a standby may need the rows for a moment yet
        with psycopg.connect(fleet.uri, autocommit=True) as conn:
            conn.execute("VACUUM (TRUNCATE) gpt2.matrix_page")
        return query(fleet.uri, size) < before

    eventually(is_smaller)


def test_hot_standby_feedback(fleet, new_cluster, tmp_path):
    """Without it a call is ended where the primary removes rows that it reads; with it, it goes on."""
    standby = new_cluster(
        {
            "cluster_name": "watched",
            "wal_receiver_status_interval": "1",
            "max_standby_streaming_delay": "0",
        },
        standby_of=fleet.primary,
    )
    # each tells the primary, at its leisure, what it reads
    seen = """SELECT count(backend_xmin) = %s AND bool_and(backend_xmin::text::bigint > %s)
              FROM pg_stat_replication WHERE application_name = ANY (%s)"""
    for feedback in ("off", "on"):
        with psycopg.connect(standby.dsn(), autocommit=True) as conn:
            conn.execute(f"ALTER SYSTEM SET hot_standby_feedback = {feedback}")
            conn.execute("SELECT pg_reload_conf()")
        load_model(fleet.uri, write_checkpoint(tmp_path / feedback, SHAPES["untied"], 5), "gone")
        with (
            psycopg.connect(fleet.uri, autocommit=True) as primary,
            psycopg.connect(standby.dsn("texts")) as conn,
        ):
            written = one(primary, "SELECT pg_current_wal_lsn()")
            eventually(
                lambda written=written: query(
                    standby.dsn(), "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written
                )
            )
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            assert one(conn, CALL)
            if feedback == "on":
                until(primary, seen, 1, 0, ["watched"])
            with primary.transaction():
                deleted = one(primary, "SELECT pg_current_xact_id()::text::bigint")
                primary.execute("SELECT gpt2_drop_model('gone')")
            until(primary, seen, len(NAMES), deleted, list(NAMES))
            primary.execute("VACUUM gpt2.matrix_page")
            written = one(primary, "SELECT pg_current_wal_lsn()")
            until(
                primary,
                "SELECT bool_and(replay_lsn >= %s::pg_lsn) FROM pg_stat_replication",
                written,
            )
            if feedback == "on":
                assert one(conn, CALL)
            else:
                with pytest.raises(errors.SerializationFailure, match="conflict with recovery"):
                    one(conn, CALL)
    standby.remove()


def test_the_primary_is_lost(tmp_path):
    """A standby takes over in the midst of calls, the other follows it."""
    with new_fleet(2, load) as fleet:
        first, second = fleet.standbys
        asked = f"SELECT ARRAY[gpt2_generate('A table', 8), {WHERE}] FROM pg_sleep(1)"
        expected = query(fleet.uri, CALL)
        futures = at_once(fleet.pooled, asked, 6)
        eventually(lambda: [busy(standby) for standby in fleet.standbys] == [1, 1])
        fleet.primary.kill_postmaster()
        assert query(first.dsn(), block(SQL, "pg_promote"))
        follow, reload = block(SQL, "primary_conninfo").strip().split("\n")
        with psycopg.connect(second.dsn(), autocommit=True) as conn:
            conn.execute(
                follow.replace("standby1", str(first.folder)).replace(
                    "user=", "password=secret user="
                )
            )
            conn.execute(reload)
        given = [future.result() for future in futures]
        assert {text for text, _ in given} == {expected}
        assert {where for _, where in given} == NAMES
        load_model(
            first.dsn("texts"), write_checkpoint(tmp_path / "new", SHAPES["untied"], 6), "new"
        )
        new = "SELECT gpt2_generate('A table', 8, model => 'new')"
        text = query(first.dsn("texts"), new)

        def has_followed() -> bool:
            with suppress(errors.InvalidParameterValue):
                return query(second.dsn("texts"), new) == text
            return False

        eventually(has_followed)
        assert {future.result() for future in at_once(fleet.pooled, new, 4)} == {text}
