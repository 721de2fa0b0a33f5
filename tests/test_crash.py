"""Kills: after recovery a model is whole or absent, and nothing is left (crash.py).

GPT2_CRASH_KILLS says how many of each operation and victim: `make attack` has 1, `make crash` 50.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import one

import crash
from clusters import OWNER
from leftovers import assert_nothing_left

KILLS = int(os.environ.get("GPT2_CRASH_KILLS", "1"))


@pytest.fixture(scope="module")
def victims(new_cluster) -> Iterator[crash.Victims]:
    # where the server and its clients put temporary files, and nobody else
    with (
        tempfile.TemporaryDirectory(prefix="gpt2-test-", dir="/var/tmp") as folder,
        pytest.MonkeyPatch.context() as patched,
    ):
        shutil.chown(folder, OWNER)
        patched.setenv("TMPDIR", folder)
        cluster = new_cluster()
        with psycopg.connect(cluster.dsn()) as connection:
            if not one(
                connection, "SELECT count(*) FROM pg_available_extensions WHERE name = 'plpython3u'"
            ):
                pytest.skip("the server has no PL/Python")
        yield crash.Victims(cluster)
        cluster.remove()


@pytest.fixture(scope="module")
def outcomes(victims):
    found: dict[tuple[str, str], crash.Outcome] = {}
    yield found
    print(f"\n\n{crash.table(found, victims.seconds)}")


def test_what_is_left_is_seen(victims):
    """Each kind of it, put there."""
    data = Path(victims.cluster.datadir)
    with victims.copy() as connection, psycopg.connect(victims.uri) as other:

        def nothing_left() -> None:
            assert_nothing_left(connection, victims.temporary, "test")

        nothing_left()
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO gpt2.wpe VALUES (99, 0, '[1]')")
            with pytest.raises(AssertionError, match=r"rows of no model.*wpe"):
                nothing_left()
        (oid,) = other.execute(
            "SELECT oid::text FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        other.rollback()
        for path, message in [
            (data / "base" / oid / "99999_fsm", r"files of no relation.*99999_fsm"),
            (data / "base" / "pgsql_tmp" / "pgsql_tmp1.0", "temporary files of the server"),
            (victims.temporary / "rows", r"in the folder of temporary files.*rows"),
        ]:
            path.parent.mkdir(exist_ok=True)
            path.touch()
            with pytest.raises(AssertionError, match=message):
                nothing_left()
            path.unlink()
        other.execute("LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE")
        with pytest.raises(AssertionError, match=r"locks.*ShareRowExclusive"):
            nothing_left()
        other.rollback()
        nothing_left()


@pytest.mark.attack
@pytest.mark.parametrize("victim", crash.VICTIMS)
@pytest.mark.parametrize("operation", crash.OPERATIONS)
def test_whole_or_absent(victims, outcomes, operation, victim):
    outcomes[operation, victim] = victims.trials(operation, victim, KILLS, seed=1)
