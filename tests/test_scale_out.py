"""Prompts divided among servers by postgres_fdw and by PL/Proxy, by the statements of
docs/scale-out.md; servers that are lost, that have other weights; cancels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import scale
from conftest import DEMO, one
from lived_in import EDIT
from psycopg import errors
from scale import NAMES, block
from test_several import load

from clusters import PATIENCE, Cluster, until

pytestmark = pytest.mark.operations

COMPLETE = {"postgres_fdw": block("SELECT id, completion"), "plproxy": block("WITH batch")}
FINGERPRINTS = {
    "postgres_fdw": "SELECT server, fingerprint FROM fingerprint",
    "plproxy": "SELECT * FROM fingerprints()",
}


@pytest.fixture(scope="module")
def servers(new_cluster) -> Iterator[dict[str, Cluster]]:
    """Three clusters, into whose databases texts_a, texts_b, texts_c the tests' model was loaded by one
    command."""
    servers = {name: new_cluster() for name in NAMES}
    process = load(DEMO, [scale.create_database(*pair) for pair in servers.items()], "--name=demo")
    assert process.returncode == 0, process.stderr
    yield servers
    for server in servers.values():
        server.remove()


@pytest.fixture(scope="module", params=["postgres_fdw", "plproxy"])
def way(request, servers) -> str:
    if not scale.has(servers["a"], request.param):
        pytest.skip(f"the server has no {request.param}")
    return request.param


@pytest.fixture(scope="module")
def hub(servers, way) -> str:
    """Connection string of the database that is asked, on a."""
    uri = servers["a"].database(f"hub_{way}")
    {"postgres_fdw": scale.use_postgres_fdw, "plproxy": scale.use_plproxy}[way](uri, servers)
    with psycopg.connect(uri, autocommit=True) as conn:
        check = block("CREATE FUNCTION check_servers")
        if way == "postgres_fdw":
            conn.execute(block("INSERT INTO prompt"))
        else:
            check = check.replace("FROM fingerprint; ", "FROM fingerprints(); ")
        conn.execute(check)
    return uri


@pytest.fixture
def conn(hub) -> Iterator[psycopg.Connection]:
    with psycopg.connect(hub, autocommit=True) as connection:
        yield connection


def there(servers: dict[str, Cluster], name: str) -> psycopg.Connection:
    return psycopg.connect(servers[name].dsn(f"texts_{name}"), autocommit=True)


#: what computes for another server: its process and when its statement began
COMPUTES = """SELECT pid, query_start FROM pg_stat_activity
              WHERE usename = 'reader' AND state = 'active' AND query ~ '^FETCH|gpt2_generate'"""


def test_each_prompt_once(conn, servers, way):
    """As one server completes it, twelve prompts; and each server has some of them."""
    with there(servers, "b") as other:
        expected = other.execute(
            """SELECT n, gpt2_generate('The number ' || n, 16) FROM generate_series(1, 12) AS n"""
        ).fetchall()
    assert sorted(conn.execute(COMPLETE[way]).fetchall()) == expected
    if way == "postgres_fdw":
        assert one(conn, "SELECT count(DISTINCT tableoid) FROM prompt") == 3
        plan = "\n".join(line for (line,) in conn.execute("EXPLAIN " + COMPLETE[way]))
        assert plan.count("Async Foreign Scan") == 3


def test_at_once(hub, servers, way):
    """While one statement of a goes on, b and c compute too."""
    with (
        ThreadPoolExecutor() as pool,
        psycopg.connect(hub, autocommit=True) as conn,
        there(servers, "a") as first,
        there(servers, "b") as second,
        there(servers, "c") as third,
    ):
        asked, together = pool.submit(conn.execute, COMPLETE[way]), False
        while not together and not asked.done():
            before = first.execute(COMPUTES).fetchall()
            others = [other.execute(COMPUTES).fetchall() for other in (second, third)]
            together = all([before, *others]) and before == first.execute(COMPUTES).fetchall()
        asked.result()
        assert together  # False where enable_async_append is off


def test_one_server_for_one_row(conn, way):
    if way != "postgres_fdw":
        pytest.skip("PL/Proxy has no rows to choose from")
    query = "SELECT completion FROM completion WHERE id = 5"
    plan = "\n".join(line for (line,) in conn.execute("EXPLAIN (VERBOSE) " + query))
    assert plan.count("Foreign Scan") == 1
    assert "WHERE ((id = 5))" in plan
    assert one(conn, query).startswith("The number 5")


def test_a_connection_is_a_core(conn, servers, way):
    """PL/Proxy: a server that is named twice, by other words, has two connections."""
    if way != "plproxy":
        pytest.skip("postgres_fdw's SERVER is its connection")
    second = f"host={servers['a'].host} dbname=texts_a application_name=second"
    with conn.transaction(force_rollback=True):
        conn.execute(f"ALTER SERVER texts OPTIONS (ADD p3 '{second}')")
        assert len(conn.execute(FINGERPRINTS[way]).fetchall()) == 4
        with there(servers, "a") as other:
            names = other.execute(
                "SELECT application_name FROM pg_stat_activity WHERE usename = 'reader'"
            ).fetchall()
        assert ("second",) in names
        assert len(names) >= 2


def test_other_weights(conn, servers, way):
    """A server with an edited model is refused, and taken again when the edit is taken back."""
    conn.execute("SELECT check_servers()")
    found = conn.execute(FINGERPRINTS[way]).fetchall()
    assert len(found) == 3
    assert len({fingerprint for _, fingerprint in found}) == 1
    with there(servers, "c") as other:
        number = one(other, "SELECT model FROM gpt2.model")
        other.execute(EDIT, [number])
        with pytest.raises(errors.RaiseException, match="do not have the same model") as refused:
            conn.execute("SELECT check_servers()")
        assert re.search(r"\bc has ", refused.value.diag.message_detail.replace("texts_", ""))
        other.execute("SELECT gpt2_drop_model('demo')")
    load(DEMO, [servers["c"].dsn("texts_c")], "--name=demo")
    conn.execute("SELECT check_servers()")


def test_what_was_checked_computes(conn, servers, way):
    """postgres_fdw: a transaction has one snapshot of each server, whoever edits meanwhile."""
    if way != "postgres_fdw":
        pytest.skip("each call of PL/Proxy is a transaction")
    expected = sorted(conn.execute(COMPLETE[way]).fetchall())
    with conn.transaction():
        conn.execute("SELECT check_servers()")
        with there(servers, "c") as other:
            other.execute("SELECT gpt2_drop_model('demo')")
        assert sorted(conn.execute(COMPLETE[way]).fetchall()) == expected
    with pytest.raises(errors.InvalidParameterValue, match="does not exist"):
        conn.execute(COMPLETE[way])
    load(DEMO, [servers["c"].dsn("texts_c")], "--name=demo")
    assert sorted(conn.execute(COMPLETE[way]).fetchall()) == expected


@pytest.fixture
def long_statement(servers, way) -> Iterator[str]:
    """A statement that takes minutes on every server."""
    if way == "plproxy":
        pytest.skip("PL/Proxy 2.10 loses a cancel now and then, and the statement goes on")
    for name in NAMES:
        with there(servers, name) as conn:
            conn.execute(
                f"""INSERT INTO prompt_{name}
                    SELECT n, 'The number ' || n FROM generate_series(13, 2000) AS n"""
            )
    yield COMPLETE[way]
    for name in NAMES:
        with there(servers, name) as conn:
            conn.execute(f"DELETE FROM prompt_{name} WHERE id > 12")


def told(server: Cluster, text: str) -> int:
    """How often a server's log has a text."""
    return Path(server.logfile).read_text().count(text)


@pytest.mark.parametrize("how", ["cancel", "end of the session"])
def test_ended(hub, servers, long_statement, how):
    """The servers are told to end too, and do."""
    text = "canceling statement due to user request"
    with (
        psycopg.connect(hub, autocommit=True) as conn,
        psycopg.connect(hub, autocommit=True) as admin,
        ThreadPoolExecutor() as pool,
    ):
        before = {name: told(server, text) for name, server in servers.items()}
        asked = pool.submit(conn.execute, long_statement)
        for name in NAMES:
            with there(servers, name) as other:
                until(other, f"SELECT EXISTS ({COMPUTES})")
        end = "pg_terminate_backend" if how == "end of the session" else "pg_cancel_backend"
        admin.execute(f"SELECT {end}(%s)", [conn.info.backend_pid])
        error = asked.exception(PATIENCE)
        expected = errors.AdminShutdown if how == "end of the session" else errors.QueryCanceled
        assert isinstance(error, expected)
        for name, server in servers.items():
            with there(servers, name) as other:
                until(other, f"SELECT NOT EXISTS ({COMPUTES})")
            assert told(server, text) > before[name]


def test_timeout(conn, servers, long_statement):
    """The same by statement_timeout; a longer one where the servers had not begun yet."""
    text = "canceling statement due to user request"
    before = {name: told(server, text) for name, server in servers.items()}
    for seconds in (2, 10, 50):
        conn.execute(f"SET statement_timeout = '{seconds}s'")
        with pytest.raises(errors.QueryCanceled):
            conn.execute(long_statement)
        for name in NAMES:
            with there(servers, name) as other:
                until(other, f"SELECT NOT EXISTS ({COMPUTES})")
        if all(told(server, text) > before[name] for name, server in servers.items()):
            break
    else:
        raise AssertionError("a server was not told")


@contextmanager
def lost(
    servers: dict[str, Cluster], name: str, conn: psycopg.Connection, query: str, computing: str
) -> Iterator[BaseException]:
    """A server is killed once another one, or itself, computes for a query: the query's error. It is
    started again when the block ends."""
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(conn.execute, query)
        with there(servers, computing) as other:
            until(other, f"SELECT EXISTS ({COMPUTES})")
        servers[name].kill_postmaster(everything=True)
        try:
            yield asked.exception(PATIENCE)
        finally:
            servers[name].start()


def test_a_server_is_lost(conn, servers, long_statement):
    """In the midst of a statement: its name is in the error, others go on, and the same session
    succeeds once it is back."""
    with lost(servers, "c", conn, long_statement, computing="c") as error:
        assert "server closed the connection unexpectedly" in str(error)
        assert "completion_c" in f"{error.diag.message_primary} {error.diag.context}"
        with pytest.raises(errors.Error) as refused:
            conn.execute(long_statement)
        assert 'could not connect to server "c"' in str(refused.value)
        rows = conn.execute("SELECT completion FROM completion_b LIMIT 2").fetchall()
        assert len(rows) == 2
    assert len(conn.execute(long_statement.replace(";", " LIMIT 2;")).fetchall()) == 2


def test_the_hub_is_lost(conn, servers, long_statement):
    """The others notice before they have anything to reply (client_connection_check_interval)."""
    conn.execute("ALTER SERVER b OPTIONS (SET fetch_size '10000')")
    with lost(servers, "a", conn, long_statement, computing="b") as error:
        assert isinstance(error, errors.OperationalError)
        with there(servers, "b") as other:
            until(other, f"SELECT NOT EXISTS ({COMPUTES})")
