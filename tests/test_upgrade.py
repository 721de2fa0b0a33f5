"""pg_upgrade keeps models.

GPT2_NEW_PG_CONFIG names the pg_config of a later server with pgvector, whose minor release is as new as
that of PG_CONFIG's: extension/setup/matrix makes some ready. Without it the server is upgraded to
itself, which pg_upgrade allows, and which dumps and makes again every object of the extension too.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from conftest import one
from lived_in import MODELS, contents, furnish, goes_on, sequences

from clusters import OWNER, PATIENCE, Cluster

pytestmark = pytest.mark.operations

NEW = os.environ.get("GPT2_NEW_PG_CONFIG") or os.environ["PG_CONFIG"]


def bindir(pg_config: str) -> Path:
    """Where a server's programs are."""
    return Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())


def as_owner(cluster: Cluster, *command: str | Path) -> None:
    """Runs a command as the server's user, in the cluster's folder."""
    with (cluster.folder / "upgrade.log").open("w+") as log:  # a pipe would be the server's too
        done = subprocess.run(
            command,
            user=OWNER if os.getuid() == 0 else None,
            cwd=cluster.folder,
            env=os.environ | cluster.envvars,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        log.seek(0)
        said = log.read()
    # pg_upgrade says only where it wrote what the programs that it called said
    logs = "".join(path.read_text() for path in cluster.folder.rglob("pg_upgrade_dump_*.log"))
    errors = re.findall(
        r"^.*(?:ERROR|DETAIL|HINT|Command was): (?:.*\n)+?(?=pg_restore|$)", logs, re.MULTILINE
    )
    assert done.returncode == 0, "\n".join([said, *errors])


def state(uri: str) -> dict:
    """What is to stay: rows, numbers, tokens and texts, and what the catalog says of the extension.
    Not activations: another build of pgvector sums in another order."""
    with psycopg.connect(uri) as conn:
        catalog = {
            "dumped": conn.execute(
                """SELECT extconfig::regclass[]::text, extcondition FROM pg_extension
                   WHERE extname = 'gpt2'"""
            ).fetchall(),
            "members": conn.execute(
                # and not the types that go with a table or with another type, members in some versions
                """SELECT pg_describe_object(d.classid, d.objid, 0)
                   FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                   WHERE d.deptype = 'e' AND e.extname = 'gpt2'
                     AND d.classid <> 'pg_type'::regclass ORDER BY 1"""
            ).fetchall(),
            "triggers": conn.execute(
                """SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger
                   WHERE tgrelid::regclass::text LIKE 'gpt2.%' AND NOT tgisinternal ORDER BY 1, 2"""
            ).fetchall(),
            "strangers": conn.execute("SELECT * FROM gpt2._foreign_dependencies()").fetchall(),
        }
    found = contents(uri)
    return found | {name: found[name][:4] for name in MODELS} | sequences(uri) | catalog


def test_upgrade(new_cluster, tmp_path):
    old_programs, new_programs = bindir(os.environ["PG_CONFIG"]), bindir(NEW)
    if not (new_programs / "pg_upgrade").exists():
        pytest.skip("the server has no pg_upgrade")
    version = subprocess.check_output([new_programs / "pg_upgrade", "--version"], text=True)
    if re.search(r"\) 14\.", version):
        # and 14.1's pg_dump writes functions ahead of the casts that they use
        pytest.skip("no server that may have gpt2 is older than 14")
    cluster = new_cluster()
    uri = cluster.database("gpt2", "gpt2")
    furnish(uri, tmp_path)
    before = state(uri)
    with psycopg.connect(uri) as conn:
        checksums = one(conn, "SHOW data_checksums") == "on"
    cluster.stop()
    data = cluster.folder / "new"
    initdb = new_programs / "initdb"
    # as in the old cluster they must be; since PostgreSQL 18 they are on by default
    wanted = "--data-checksums" if checksums else "--no-data-checksums"
    known = subprocess.check_output([initdb, "--help"], text=True)
    options = [wanted] if wanted in known else []
    as_owner(cluster, initdb, f"--username={cluster.user}", *options, data)
    as_owner(
        cluster,
        new_programs / "pg_upgrade",
        f"--old-bindir={old_programs}",
        f"--new-bindir={new_programs}",
        f"--old-datadir={cluster.datadir}",
        f"--new-datadir={data}",
        f"--socketdir={cluster.folder}",
        f"--username={cluster.user}",
    )
    pg_ctl = new_programs / "pg_ctl"
    where = f"-c listen_addresses='' -c unix_socket_directories={cluster.folder}"
    as_owner(cluster, pg_ctl, "start", "-w", f"-D{data}", f"-l{data}/log", "-o", where)
    try:
        assert state(uri) == before
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("REFRESH MATERIALIZED VIEW app.answer")
            assert one(conn, "SELECT count(answer) FROM app.answer") == len(MODELS)
        goes_on(uri, tmp_path)
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("DROP EXTENSION gpt2 CASCADE")
            assert one(conn, "SELECT to_regnamespace('gpt2')") is None
    finally:
        as_owner(cluster, pg_ctl, "stop", "-w", f"-D{data}", "-m", "fast")
