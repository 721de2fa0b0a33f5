"""A primary, its standbys, and PgBouncer and HAProxy before them, as docs/standbys.md sets them up: by
its settings, commands and queries, with sockets in the place of addresses."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pages
import psycopg

from clusters import OWNER, Cluster, eventually
from poolers import PAGE, HAProxy, PgBouncer

SQL = pages.blocks(PAGE, "sql")
SHELL = pages.blocks(PAGE, "shell")


def block(of: list[str], word: str) -> str:
    """The page's one block that has a word."""
    [text] = [text for text in of if word in text]
    return text


@dataclass
class Fleet:
    """uri: of the database `texts` on the primary, for the superuser; pooled: the application's address;
    users: PgBouncer's file of them."""

    primary: Cluster
    standbys: list[Cluster]
    uri: str
    pooled: str
    users: str

    def catch_up(self) -> None:
        """Waits until each standby shows what the primary has, as the page says."""
        behind = block(SQL, "pg_stat_replication")
        with psycopg.connect(self.uri, autocommit=True) as conn:
            eventually(
                lambda: (
                    [size for _, size in conn.execute(behind).fetchall()]
                    == ["0 bytes"] * len(self.standbys)
                )
            )


def new_standby(primary: Cluster, name: str, stack: ExitStack, settings: dict[str, str]) -> Cluster:
    """By the page's settings, and others, and its command; its cluster_name is the name."""
    [text] = pages.blocks(PAGE, "conf")
    pairs = [line.split(" = ") for line in text.splitlines() if not line.startswith("#")]
    made = Cluster({"cluster_name": name} | settings | dict(pairs))
    stack.callback(made.remove)
    command = block(SHELL, "pg_basebackup")
    assert "host=primary " in command
    subprocess.run(
        ["bash", "-e", "-c", command.replace("host=primary ", f"host={primary.host} ")],
        env=os.environ | {"PGDATA": made.datadir, "PGPASSWORD": "secret"},
        user=OWNER if os.getuid() == 0 else None,
        cwd="/",
        check=True,
    )
    return made.start()


@contextmanager
def fleet(
    n: int, load: Callable[[str], None], settings: dict[str, str] | None = None
) -> Iterator[Fleet]:
    """n standbys of one core each, while the block runs.

    load: brings models into the database of this URI; settings: of all servers, further ones."""
    settings = settings or {}
    with ExitStack() as stack:
        primary = Cluster({"wal_level": "replica"} | settings)
        stack.callback(primary.remove)
        primary.start()
        uri = primary.database("texts", "gpt2")
        load(uri)
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute(block(SQL, "CREATE ROLE app"))
            conn.execute(block(SQL, "vacuum_truncate"))
            # as on the servers that the page is about, a role has a password
            hba = Path(primary.datadir) / "pg_hba.conf"
            scram = ("app", "other", "replication replicator")
            lines = [f"local {'' if ' ' in of else 'all '}{of} scram-sha-256\n" for of in scram]
            hba.write_text("".join(lines) + hba.read_text())
            conn.execute("SELECT pg_reload_conf()")
        users = subprocess.run(
            ["bash", "-e", "-c", block(SHELL, "pg_authid").replace("-d texts", f"-d '{uri}'")],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        standbys = [new_standby(primary, f"standby{i}", stack, settings) for i in range(1, n + 1)]
        proxy = HAProxy(standbys, cores=1)
        stack.callback(proxy.remove)
        proxy.start()
        pooler = PgBouncer(proxy, size=n, users=users)
        stack.callback(pooler.remove)
        pooler.start()
        yield Fleet(primary, standbys, uri, pooler.dsn("texts", "app", "secret"), users)
