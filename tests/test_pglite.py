"""The SQL regression tests in PGlite, PostgreSQL as WebAssembly, and what only holds there.

`make test-pglite` runs these and, on the same databases, other tests that ask SQL alone: their
answers are PostgreSQL's.
"""

from __future__ import annotations

import subprocess

import pglite
import pytest
from conftest import ROOT, one

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(not pglite.wanted(), reason="make test-pglite"),
]


def test_is_pglite(conn):
    assert "PGlite" in one(conn, "SELECT version()")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "tests/sql").glob("*.sql")))
def test_installcheck(new_database, name):
    """What pg_regress does: psql echoes and runs the file, in a database without a model."""
    with (ROOT / f"tests/sql/{name}.sql").open() as script:
        psql = subprocess.run(
            ["psql", "-X", "-a", "-q", "-d", new_database(holds="extension")],
            stdin=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert psql.stdout == (ROOT / f"tests/expected/{name}.out").read_text()


def test_plpython_is_not_there(conn):
    """So gpt2_plpython3u's tests have no place here."""
    assert not one(
        conn, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plpython3u')"
    )


def test_bytes_become_text(conn):
    """Every token, and pairs of any bytes, in both ways: a conversion that PGlite does not survive
    gives no rows and no error, and the next call hangs."""
    assert (
        one(conn, "SELECT count(gpt2._utf8(bytes)) FROM gpt2.token WHERE mod(token, 5) = 0")
        == 10052
    )
    assert (
        one(conn, "SELECT count(gpt2_detokenize(ARRAY[t])) FROM generate_series(0, 256) AS t")
        == 257
    )
    pairs = """FROM generate_series(0, 65535, 23) AS i
               CROSS JOIN LATERAL (SELECT decode(lpad(to_hex(i), 4, '0'), 'hex') AS bytes) AS b"""
    assert one(conn, f"SELECT count(gpt2._utf8(b.bytes)) {pairs}") == 2850
    assert one(conn, f"SELECT count(*) {pairs} CROSS JOIN LATERAL gpt2._cut(b.bytes) AS c") == 2850
    assert one(conn, "SELECT 1") == 1
