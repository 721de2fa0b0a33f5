"""Databases to copy: with the extension; with the tests' model as 'demo' too; with other models.

The tests' model is small and trained, with a vocabulary of its own: tests/models/manual. The bundled
one, which computes twelve times as much a token, is for what is said of it: the documentation.

A copy takes 0.4 s, where CREATE EXTENSION takes 2.7 s and the import as much again. A cluster has
one template of a kind: whoever needs it first makes it, and those who come meanwhile, pytest-xdist's
other processes, wait. It stays for the next run, under a name that says what it was made from, and
goes when another takes its place. (pytest-postgresql's fixture postgresql_noproc would make one a
process, and drop it at the end; hence only its janitor.)
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
from oracle import checkpoints
from oracle.checkpoints import SHAPES, write_checkpoint
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "oracle" / "fixtures.npz"
DEMO = ROOT / "tests" / "models" / "manual"
BUNDLED = ROOT / "loader" / "gpt2_loader" / "models" / "demo"
#: of pg_advisory_lock, "gpt2": held while a template is looked for and made
LOCK = 0x67707432


@contextmanager
def temporary(cluster: str, purpose: str) -> Iterator[psycopg.Connection]:
    """A connection to an empty database gpt2_PURPOSE_..., which is dropped at the block's end."""
    name = f"gpt2_{purpose}_{secrets.token_hex(4)}"
    with psycopg.connect(cluster, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            with psycopg.connect(make_conninfo(cluster, dbname=name), autocommit=True) as made:
                yield made
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def load_model(uri: str, source: Path, name: str, *options: str) -> None:
    """Imports a model directory by the command line's own entry point."""
    from gpt2_loader.cli import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["load", str(source), "--name", name, "--dsn", uri, *options])
    assert result.exit_code == 0, result.output


def create_extension(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2 CASCADE")


def create_demo(uri: str) -> None:
    create_extension(uri)
    load_model(uri, DEMO, "demo")


def create_bundled(uri: str) -> None:
    create_extension(uri)
    load_model(uri, BUNDLED, "demo")


def create_shapes(uri: str) -> None:
    """A model of each of oracle.checkpoints' shapes, by name."""
    seeds = np.load(FIXTURES)
    create_extension(uri)
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), shape, int(seeds[f"{name}/seed"]))
            load_model(uri, Path(folder), name)


#: by what a database holds, how it comes in
KINDS = {
    "extension": create_extension,
    "demo": create_demo,
    "bundled": create_bundled,
    "shapes": create_shapes,
}


def _made_from(admin: psycopg.Connection, kind: str) -> str:
    """A hash of the extension's scripts, the importer, the kind's model, the checkpoints, and
    pgvector's version."""
    model = {"demo": DEMO, "bundled": BUNDLED}.get(kind)
    files = [
        *(ROOT / "build").glob("gpt2*"),
        *(ROOT / "loader" / "gpt2_loader").glob("*.py"),
        *(model.iterdir() if model else ()),
        *(Path(__file__), Path(checkpoints.__file__), FIXTURES),
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            digest.update(file.read_bytes())
    digest.update(
        admin.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
        ).fetchone()[0].encode()
    )  # fmt: skip
    return digest.hexdigest()[:12]


def template(cluster: str, kind: str) -> str:
    """Name of a database that CREATE DATABASE ... TEMPLATE copies; it is made if need be.

    cluster: URI of the maintenance database; kind: one of KINDS.
    """
    server = conninfo_to_dict(cluster)

    def janitor(name: str) -> DatabaseJanitor:
        return DatabaseJanitor(
            user=server.get("user"),
            host=server.get("host"),
            port=server.get("port"),
            password=server.get("password"),
            dbname=name,
            maintenance_dbname=server["dbname"],
            as_template=True,
        )

    with psycopg.connect(cluster, autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        prefix = f"gpt2_template_{kind}_"
        name = prefix + _made_from(admin, kind)
        found = {
            found
            for (found,) in admin.execute(
                "SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (prefix,)
            )
        }
        if name not in found:
            for old in found:
                janitor(old).drop()
            new = janitor(prefix + "new")  # whole, or not under its name
            new.init()
            new.load(lambda **_: KINDS[kind](make_conninfo(cluster, dbname=new.dbname)))
            admin.execute(f"ALTER DATABASE {new.dbname} RENAME TO {name}")
    return name
