"""PGlite in the place of PostgreSQL: databases for the tests of `make test-pglite`, a Node.js process
each, which ends with the session."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from databases import DEMO, ROOT

#: what playground/build.js has recorded of the bundled model's import
BUNDLED = ROOT / "build" / "playground" / "model"

#: set: tests get their databases from here
WANTED = "GPT2_PGLITE"
PLAYGROUND = ROOT / "playground"


def wanted() -> bool:
    return bool(os.environ.get(WANTED))


def databases() -> Iterator:
    """As the fixture new_database of conftest.py, without options; of what a database can hold
    those that need no import."""
    # connections share one session: a name that one prepares is another's too
    psycopg.connect = partial(psycopg.connect, prepare_threshold=None)
    processes: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory(prefix="gpt2-") as folder:

        def model(holds: str) -> list[Path]:
            """The folder with the import of what a database is to hold."""
            if holds == "demo" and not (recorded := Path(folder) / "demo").exists():
                subprocess.run(
                    ["node", PLAYGROUND / "record.js", DEMO, "demo", "float32", recorded],
                    check=True,
                )
            return {"demo": [Path(folder) / "demo"], "bundled": [BUNDLED]}.get(holds, [])

        def make(options: str = "", holds: str | None = None) -> str:
            if options or holds not in ("extension", "demo", "bundled"):
                pytest.skip("PGlite has one database, and no COPY FROM STDIN to load models by")
            socket = tempfile.mkdtemp(dir=folder)
            process = subprocess.Popen(
                ["node", PLAYGROUND / "serve.js", socket, *model(holds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdout.readline() == "ready\n"
            return f"host={socket} user=postgres dbname=postgres"

        try:
            yield make
        finally:
            for process in processes:
                process.kill()
                process.wait()
