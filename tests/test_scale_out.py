"""Prompts divided among servers, by the statements of docs/scale-out.md."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from conftest import DEMO, load_model, one
from pages import blocks

from clusters import Cluster

PAGE = "docs/scale-out.md"
NAMES = "abc"


def block(beginning: str) -> str:
    """The one block of SQL of the page that begins so."""
    [found] = [block for block in blocks(PAGE, "sql") if block.startswith(beginning)]
    return found


def of_server(text: str, name: str, server: Cluster) -> str:
    """What the page says of server a, as it is for another one."""
    text = text.replace("host 'a'", f"host '{server.host}'").replace("'a'", f"'{name}'")
    text = text.replace("REMAINDER 0", f"REMAINDER {NAMES.index(name)}")
    return re.sub(r"(_|\bSERVER )a\b", rf"\1{name}", text)


@pytest.fixture(scope="module")
def servers(new_cluster) -> Iterator[dict[str, Cluster]]:
    """Three clusters, each with the tests' model in a database texts."""
    servers = {name: new_cluster() for name in NAMES}
    for server in servers.values():
        load_model(server.database("texts", "gpt2"), DEMO, "demo")
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE ROLE reader SUPERUSER LOGIN")
    yield servers
    for server in servers.values():
        server.remove()


@pytest.fixture(scope="module")
def hub(servers) -> str:
    """Connection string of the database that is asked, on a, with twelve prompts."""
    with psycopg.connect(servers["a"].dsn(), autocommit=True) as conn:
        if not one(
            conn, "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'"
        ):
            pytest.skip("the server has no postgres_fdw")
    uri = servers["a"].database("hub")
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(block("CREATE EXTENSION postgres_fdw"))
        for name, server in servers.items():
            with psycopg.connect(server.dsn("texts"), autocommit=True) as there:
                there.execute(of_server(block("CREATE TABLE prompt_a"), name, server))
            conn.execute(
                of_server(block("CREATE SERVER a FOREIGN DATA WRAPPER postgres_fdw"), name, server)
            )
        conn.execute(block("INSERT INTO prompt"))
    return uri


def test_one_statement(hub, servers):
    """Each prompt is completed once, on the server where it lies, as that server completes it."""
    with psycopg.connect(hub, autocommit=True) as conn:
        prompts = conn.execute("SELECT id, prompt, tableoid::regclass::text FROM prompt").fetchall()
        completed = conn.execute("SELECT id, completion FROM completion").fetchall()
    assert {where for _, _, where in prompts} == {f"prompt_{name}" for name in NAMES}
    expected = []
    for name, server in servers.items():
        with psycopg.connect(server.dsn("texts"), autocommit=True) as conn:
            expected += conn.execute(
                f"SELECT id, gpt2_generate(prompt, 16) FROM prompt_{name}"
            ).fetchall()
    assert len(expected) == len(prompts) == 12
    assert sorted(completed) == sorted(expected)
