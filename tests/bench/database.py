"""The checkpoint, and the database gpt2_bench that holds it: kept from one run to the next.

The database's comment is a hash of what it was made from; where that has changed (the extension's
scripts, the loader, the checkpoint) it is made anew, as extension/setup/database does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import psycopg
from gpt2_loader import client, importer
from gpt2_loader.checkpoint import Checkpoint
from oracle import checkpoints
from psycopg.conninfo import make_conninfo

from bench.samples import progress

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "bench"
CHECKPOINT = FOLDER / "124M"
DATABASE = "gpt2_bench"
DTYPES = tuple(importer.COLUMNS)


def load(dsn: str, name: str, dtype: str, directory: Path = CHECKPOINT) -> None:
    """Imports a checkpoint in one transaction, in place of a model that has the name."""
    with client.connect(dsn) as connection:
        importer.load(
            client.Target(connection),
            Checkpoint(str(directory), client.read_tensor),
            name,
            str(directory),
            replace=True,
            dtype=dtype,
        )


def digest(files: list[Path]) -> str:
    """sha256 of the files' contents."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def make_checkpoint() -> str:
    """A model of the 124M shape with random weights; what it was made from, as a hash."""
    made_from = digest([Path(checkpoints.__file__)])
    stamp = CHECKPOINT / "made_from"
    if not stamp.exists() or stamp.read_text() != made_from:
        progress(f"writing a checkpoint of 124M parameters to {CHECKPOINT}")
        shutil.rmtree(CHECKPOINT, ignore_errors=True)
        checkpoints.write_checkpoint(CHECKPOINT, checkpoints.SHAPE_124M)
        stamp.write_text(made_from)
    return made_from


def cluster() -> str:
    """URI of the server that `make bench` has started."""
    dsn = os.environ.get("GPT2_TEST_DSN")
    if not dsn:
        raise SystemExit("GPT2_TEST_DSN is not set: run the benchmark with `make bench`")
    return dsn


def prepare() -> str:
    """URI of gpt2_bench, with the models bench_float32 and bench_float16 in it."""
    sources = [
        ROOT / "build/gpt2.control",
        *sorted(ROOT.glob("build/gpt2--*.sql")),
        *sorted((ROOT / "loader/gpt2_loader").glob("*.py")),
    ]
    comment = f"gpt2 from sources with sha256 {digest(sources)}, checkpoint {make_checkpoint()}"
    dsn = make_conninfo(cluster(), dbname=DATABASE)
    with psycopg.connect(cluster(), autocommit=True) as admin:
        found = admin.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            [DATABASE],
        ).fetchone()
        if found != (comment,):
            progress(f"database {DATABASE}: making it")
            admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
            admin.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION gpt2 CASCADE")
            for dtype in DTYPES:
                progress(f"loading bench_{dtype}")
                load(dsn, f"bench_{dtype}", dtype)
            # last: a database without it was not finished
            admin.execute(f"COMMENT ON DATABASE {DATABASE} IS '{comment}'")
            admin.execute("CHECKPOINT")
    return dsn


def prewarm(dsn: str) -> None:
    """Reads the models into the shared buffers."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for dtype in DTYPES:
            connection.execute("SELECT gpt2_prewarm(%s)", [f"bench_{dtype}"])
