"""PgBouncer and HAProxy before clusters of a test's own, as docs/standbys.md configures them.

Where the page has addresses there are sockets here, in a folder of each program's own: nothing
listens on a port. They run as who runs the clusters, as PgBouncer refuses root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pages
from mirakuru import UnixSocketExecutor
from psycopg.conninfo import make_conninfo

from clusters import OWNER, PATIENCE, Cluster

PAGE = "docs/standbys.md"


def program(name: str) -> str:
    """Path of pgbouncer or haproxy; an error says what to do where there is none."""
    found = subprocess.run(
        [pages.ROOT / "extension/setup/poolers", "find"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return next(path for path in found.stdout.split() if Path(path).name == name)


def configuration(language: str, instead: dict[str, str]) -> str:
    """The page's one block of a language, with what stands there for the reader's own replaced."""
    [text] = pages.blocks(PAGE, language)
    for old, new in instead.items():
        assert old in text, f"{PAGE} has no {old!r}"
        text = text.replace(old, new)
    return text


class Program(UnixSocketExecutor):
    """A program that listens on a socket that libpq finds by the folder and a port's number."""

    port: int

    def __init__(self, name: str, *options: str):
        self.folder = Path(tempfile.mkdtemp(prefix="gpt2-test-", dir="/var/tmp"))
        shutil.chown(self.folder, OWNER)
        self.configuration = self.folder / "configuration"
        self.logfile = self.folder / "log"
        self.socket = str(self.folder / f".s.PGSQL.{self.port}")
        super().__init__(
            [program(name), *options, str(self.configuration)],
            socket_name=self.socket,
            cwd=str(self.folder),
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            popen_kwargs={"user": OWNER} if os.getuid() == 0 else {},
        )

    def dsn(self, database: str, user: str, password: str = "") -> str:
        return make_conninfo(
            host=str(self.folder), port=self.port, user=user, password=password, dbname=database
        )

    def remove(self) -> None:
        """Ends it, and removes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class HAProxy(Program):
    """Spreads connections over servers."""

    port = 5433

    def __init__(self, servers: list[Cluster], cores: int):
        super().__init__("haproxy", "-f")
        text = configuration(
            "haproxy",
            {
                "bind 127.0.0.1:5433": f"bind unix@{self.socket}",
                "maxconn 2": f"maxconn {cores}",
                "    server standby1 standby1:5432\n    server standby2 standby2:5432\n": "".join(
                    f"    server standby{i} unix@{server.folder}/.s.PGSQL.{server.port}\n"
                    for i, server in enumerate(servers, 1)
                ),
            },
        )
        self.configuration.write_text(text, encoding="utf-8")


class PgBouncer(Program):
    """Keeps calls waiting until one of `size` connections to a server is free.

    users: lines of its auth_file."""

    port = 6432

    def __init__(self, server: Program | Cluster, size: int, users: str):
        super().__init__("pgbouncer", "-q")
        text = configuration(
            "ini",
            {
                "host=127.0.0.1 port=5433": f"host={server.folder} port={server.port}",
                "listen_addr = *": f"listen_addr =\nunix_socket_dir = {self.folder}\n"
                f"logfile = {self.logfile}",
                "/etc/pgbouncer/userlist.txt": str(self.folder / "users"),
                "default_pool_size = 4": f"default_pool_size = {size}",
            },
        )
        self.configuration.write_text(text, encoding="utf-8")
        (self.folder / "users").write_text(users, encoding="utf-8")
