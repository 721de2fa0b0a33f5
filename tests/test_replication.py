"""Logical replication: what a publisher loads, edits and drops is the subscriber's too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from conftest import cases, load_model, number, one
from lived_in import EDIT, PROMPT, contents, directory_of, furnish, goes_on, sequences
from oracle.vocabularies import added_tokens_decoder
from pages import blocks
from psycopg import errors

from clusters import Cluster, until

pytestmark = pytest.mark.operations

PAGE = "docs/reliability.md"
#: what is published -> the statement, which names it 'models' and may lack what is the user's own
PUBLICATIONS = {
    "everything": "CREATE PUBLICATION models FOR ALL TABLES",
    "schemas": "CREATE PUBLICATION models FOR TABLES IN SCHEMA gpt2, app",
    "tables": next(block for block in blocks(PAGE, "sql") if "CREATE PUBLICATION" in block),
}


@pytest.fixture(scope="module")
def servers(new_cluster) -> Iterator[list[Cluster]]:
    """Two clusters, a publisher and a subscriber."""
    servers = [new_cluster({"wal_level": "logical"}) for _ in range(2)]
    yield servers
    for server in reversed(servers):
        server.remove()


@pytest.fixture(
    scope="module",
    params=cases(["everything", "schemas", "tables"], ["everything", "tables"]),
)
def pair(request, servers, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """URIs of a database that is lived in, and of one that has subscribed to it."""
    publisher, _ = servers
    name = request.param
    source, target = (server.database(name, "gpt2") for server in servers)
    furnish(source, tmp_path_factory.mktemp("models"))
    tables = subprocess.run(
        ["pg_dump", "--schema-only", "--schema=app", source], capture_output=True, check=True
    ).stdout
    subprocess.run(["psql", "-Xq", "-o", "/dev/null", target], input=tables, check=True)
    with (
        psycopg.connect(source, autocommit=True) as ours,
        psycopg.connect(target, autocommit=True) as theirs,
    ):
        if name == "schemas" and ours.info.server_version < 150000:
            pytest.skip("PostgreSQL 14 has no FOR TABLES IN SCHEMA")
        ours.execute(PUBLICATIONS[name])
        if name == "tables":
            ours.execute("ALTER PUBLICATION models ADD TABLE app.beginning")
        theirs.execute(
            f"CREATE SUBSCRIPTION {name} CONNECTION '{publisher.dsn(name)}' PUBLICATION models"
        )
        until(theirs, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")
        theirs.execute("REFRESH MATERIALIZED VIEW app.answer")
    return source, target


def arrives(source: str, name: str) -> None:
    """Waits until the subscriber has what the publisher has written."""
    with psycopg.connect(source, autocommit=True) as conn:
        written = one(conn, "SELECT pg_current_wal_lsn()")
        until(
            conn,
            """SELECT coalesce(bool_or(replay_lsn >= %s), false) FROM pg_stat_replication
               WHERE application_name = %s""",
            written,
            name,
        )


def test_first_copy(pair):
    """Models with their vocabularies, and a table of prefixes that they understand."""
    source, target = pair
    assert contents(target) == contents(source)


def test_changes(pair, tmp_path):
    """A load, a variant, an edit and a drop: each arrives, and so does what is stale since."""
    source, target = pair
    with psycopg.connect(source, autocommit=True) as conn:
        name = one(conn, "SELECT current_database()")
        added_tokens_decoder(directory_of(tmp_path / "later"))
        load_model(source, tmp_path / "later", "later")
        conn.execute("SELECT gpt2_create_variant('later variant', 'later')")
        conn.execute(EDIT, [number(conn, "later variant")])
        conn.execute(EDIT, [number(conn, "own")])
        conn.execute(
            "SELECT gpt2_drop_model('half'); DELETE FROM app.beginning WHERE model = 'half'"
        )
    arrives(source, name)
    stale = """SELECT gpt2_generate(%s, 4, model => model, prefix => prefix) FROM app.beginning
               WHERE model = %s"""
    for uri in pair:
        with psycopg.connect(uri, autocommit=True) as conn:
            # the variant has pages of its base
            for model in ("own", "variant"):
                with pytest.raises(errors.ObjectNotInPrerequisiteState, match="have changed"):
                    conn.execute(stale, [PROMPT, model])
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("DELETE FROM app.beginning")
        conn.execute(
            "INSERT INTO app.beginning SELECT name, gpt2_prefix(%s, name) FROM gpt2.model", [PROMPT]
        )
        assert one(conn, "SELECT count(*) FROM app.beginning") == 6
    arrives(source, name)
    assert contents(target) == contents(source)


def test_a_prefix_of_the_subscriber(pair):
    """It is what the publisher would have made, and goes stale by the publisher's edit."""
    source, target = pair
    prefix = "SELECT gpt2_prefix('the', 'own')::text"
    call = "SELECT gpt2_generate('the pen', 8, model => 'own', prefix => %s::gpt2.prefix)"
    with (
        psycopg.connect(source, autocommit=True) as ours,
        psycopg.connect(target, autocommit=True) as theirs,
    ):
        made = one(theirs, prefix)
        assert made == one(ours, prefix)
        assert one(ours, call, made) == one(theirs, call, made)
        ours.execute(EDIT, [number(ours, "own")])
        arrives(source, one(ours, "SELECT current_database()"))
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="have changed"):
            theirs.execute(call, [made])


def test_the_subscriber_takes_over(pair, tmp_path):
    """By what docs/reliability.md says, as sequences are not replicated."""
    source, target = pair
    with psycopg.connect(target, autocommit=True) as conn:
        name = one(conn, "SELECT current_database()")
        arrives(source, name)
        conn.execute(f"DROP SUBSCRIPTION {name}")
        before = sequences(target)
        for statement in blocks(PAGE, "sql"):
            if "setval" in statement:
                conn.execute(statement)
        assert all(
            new > old for new, old in zip(sequences(target).values(), before.values(), strict=True)
        )
    goes_on(target, tmp_path)
