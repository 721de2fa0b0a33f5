"""Two versions of the extensions on a server, and the scripts that lead from one to the other."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from databases import temporary
from release.catalog import SCHEMA, Refused, differences, read
from release.upgrade import AT_ONCE, script

#: scripts, by extension
Scripts = dict[str, str]


def folder() -> Path:
    """Where the server finds extensions."""
    command = [os.environ["PG_CONFIG"], "--sharedir"]
    return Path(subprocess.check_output(command, text=True).strip()) / "extension"


@contextmanager
def installed(versions: dict[str, Scripts]) -> Iterator[None]:
    """Scripts lie where the server finds them, as long as they are needed. versions: by what stands
    between the extension's name and '.sql': a version, or two with '--' between them."""
    files = {
        folder() / f"{extension}--{version}.sql": text
        for version, scripts in versions.items()
        for extension, text in scripts.items()
    }
    try:
        for file, text in files.items():
            file.write_text(text)
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


@contextmanager
def database(cluster: str) -> Iterator[psycopg.Connection]:
    """A database with a schema into which an extension is installed whose parts are read."""
    with temporary(cluster, "release") as made:
        made.execute(f"CREATE EXTENSION vector; CREATE SCHEMA {SCHEMA}")
        yield made


def create(connection: psycopg.Connection, extensions: Scripts, version: str) -> None:
    for extension in extensions:
        connection.execute(
            f"CREATE EXTENSION {extension} SCHEMA {SCHEMA} VERSION '{version}' CASCADE"
        )


def update(connection: psycopg.Connection, extensions: Scripts, version: str) -> None:
    for extension in extensions:
        connection.execute(f"ALTER EXTENSION {extension} UPDATE TO '{version}'")


def upgrades(cluster: str, before: str, old: Scripts, new: Scripts, by_hand: Scripts) -> Scripts:
    """The scripts that lead from one to the other, which they were seen to do. before: the old
    version's name; by_hand: what comes first, of an extension or of none."""
    mark = secrets.token_hex(4)
    first, hand, last = f"old_{mark}", f"hand_{mark}", f"new_{mark}"
    versions = {
        first: old,
        f"{first}--{hand}": {e: AT_ONCE.format(text) for e, text in by_hand.items()},
        last: new,
    }
    with installed(versions), database(cluster) as fresh, database(cluster) as connection:
        create(fresh, new, last)
        create(connection, old, first)
        with connection.transaction(force_rollback=True):
            update(connection, by_hand, hand)
            made = {
                e: script(e, before, read(connection, e), read(fresh, e), by_hand.get(e, ""))
                for e in new
            }
        with installed({f"{first}--{last}": made}):
            update(connection, made, last)
        found = [d for e in new for d in differences(read(connection, e), read(fresh, e))]
    if found:
        raise Refused("\n".join(["What was upgraded is not what is new:", *found]))
    return made
