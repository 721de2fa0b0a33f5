"""Clusters of a test's own: to be killed, to follow another, or with settings that need a start.

pytest-postgresql's executor makes, starts and stops them by pg_ctl. Its fixture postgresql_proc
would put the data where only root may enter, and wait for a TCP port; so the executor is told here
who runs the server (tests/pg_ctl), and that a socket is all there is.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import make_conninfo
from pytest_postgresql.executors import PostgreSQLExecutor

PG_CTL = Path(__file__).parent / "pg_ctl"
#: who runs the server, as tests/pg_ctl has it
OWNER = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
#: seconds in which a server has started, stopped, or recovered
PATIENCE = 300


class Cluster(PostgreSQLExecutor):
    """A cluster in a folder of its own in /var/tmp, which only its user and root may enter; so its
    socket, the only way in, asks nobody for a password.

    settings: of postgresql.conf, strings that need no quoting; those that are not named are the
    server's own, but for fsync, which is off. standby_of: the cluster that it is a copy of
    (pg_basebackup), and which it follows. start() makes it where it is not there yet.
    """

    def __init__(self, settings: dict[str, str] | None = None, standby_of: Cluster | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="gpt2-test-", dir="/var/tmp"))
        self.primary = standby_of
        shutil.chown(self.folder, OWNER)
        options = {"listen_addresses": "''", **(settings or {})}
        super().__init__(
            executable=str(PG_CTL),
            host=str(self.folder),
            port=5432,
            datadir=str(self.folder / "data"),
            unixsocketdir=str(self.folder),
            logfile=str(self.folder / "log"),
            startparams=f"-w -t {PATIENCE}",
            dbname="postgres",
            timeout=PATIENCE,
            postgres_options=" ".join(f"-c {name}={value}" for name, value in options.items()),
        )

    def dsn(self, database: str = "postgres", user: str | None = None) -> str:
        """Connection string of a database, for the superuser or another role."""
        return make_conninfo(
            host=self.host, port=self.port, user=user or self.user, dbname=database
        )

    def database(self, name: str, *extensions: str, copy_of: str = "template1") -> str:
        """Makes a database with these extensions, or a copy of another; gives its connection string."""
        with psycopg.connect(self.dsn(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {copy_of}")
        with psycopg.connect(self.dsn(name), autocommit=True) as conn:
            for extension in extensions:
                conn.execute(f"CREATE EXTENSION {extension} CASCADE")
        return self.dsn(name)

    def pre_start_check(self) -> bool:
        """Whether it answers already; the executor's own asks a TCP port."""
        try:
            psycopg.connect(self.dsn()).close()
        except psycopg.OperationalError:
            return False
        return True

    def init_directory(self) -> None:
        if (Path(self.datadir) / "PG_VERSION").exists():
            return
        if self.primary is None:
            super().init_directory()
        else:
            subprocess.run(
                ["pg_basebackup", "--write-recovery-conf", "--checkpoint=fast"]
                + [f"--pgdata={self.datadir}", f"--dbname={self.primary.dsn()}"],
                user=OWNER if os.getuid() == 0 else None,
                cwd="/",
                check=True,
            )

    def processes(self) -> list[psutil.Process]:
        """Its postmaster and all that this started: their working directory is the data."""
        return [
            process
            for process in psutil.process_iter(["cwd"])
            if process.info["cwd"] == self.datadir
        ]

    def kill_postmaster(self, everything: bool = False) -> None:
        """Kills the postmaster, and waits until its backends, which notice sooner or later, are
        gone; everything: kills them too, as a crash of the machine would. start() then recovers."""
        locks = [
            Path(self.datadir) / "postmaster.pid",
            Path(self.unixsocketdir) / f".s.PGSQL.{self.port}.lock",
        ]
        os.kill(int(locks[0].read_text().split()[0]), signal.SIGKILL)
        for process in self.processes() if everything else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        end = time.monotonic() + PATIENCE
        while self.processes():
            assert time.monotonic() < end, "backends outlive their postmaster"
            time.sleep(0.05)
        # Where nobody asks for a dead process (in a container, perhaps) its number is still taken,
        # and the server would take it for alive.
        for lock in locks:
            lock.unlink()
        self.kill()  # what the executor remembers of it

    def remove(self) -> None:
        """Stops it, and removes its folder."""
        if self.running():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def relocated(folder: Path, *programs: str, without: str) -> Path:
    """Makes the server under test once more in a new folder, with these of its programs and without the
    extensions whose names begin so; gives the path of its pg_config. PostgreSQL finds its files from
    where its programs lie: these are copies, all else leads to the originals."""
    folders = {}
    for option in ("--bindir", "--sharedir", "--pkglibdir", "--includedir-server", "--libdir"):
        asked = [os.environ["PG_CONFIG"], option]
        original = Path(subprocess.check_output(asked, text=True).strip())
        folders[option] = copy = folder / original.relative_to("/")
        copy.mkdir(parents=True, exist_ok=True)
        for path in [] if option == "--libdir" else original.iterdir():
            if path.name in programs:
                shutil.copy(path, copy)
            elif path.name == "extension":
                (copy / path.name).mkdir()
                for file in path.iterdir():
                    if not file.name.startswith(without):
                        (copy / path.name / file.name).symlink_to(file)
            elif not (copy / path.name).exists():
                (copy / path.name).symlink_to(path)
        if option == "--bindir":  # in a wheel the programs find their libraries by a relative path
            for libraries in [each for above in original.parents for each in above.glob("*.libs")]:
                (folder / libraries.relative_to("/")).symlink_to(libraries)
    return folders["--bindir"] / "pg_config"


def until(conn: psycopg.Connection, query: str, *arguments, seconds: int = PATIENCE) -> None:
    """Waits until a query gives true."""
    eventually(lambda: conn.execute(query, arguments).fetchone()[0], query, seconds)


def eventually(condition: Callable[[], bool], told: str = "", seconds: int = PATIENCE) -> None:
    """Waits until something is so; told: what the error says of it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {told}"
        time.sleep(0.05)
