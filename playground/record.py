"""Records the import of a model for the browser: the queries that the loader's importer asks, and
the rows that it copies, each table's in a file. src/install.js does the same again.

Usage: build/venv/bin/python playground/record.py MODEL NAME DTYPE FOLDER

MODEL is a directory, or the bundled model's name. The database is that of the process that calls
it (record.js): a line of JSON asks, {"sql", "arguments"} or {"table", "columns", "file"}, and a
line of JSON answers, with rows. For rows hold numbers that are that database's own, such as the
type of an array's elements.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gpt2_loader import client, copy_binary, importer
from gpt2_loader.checkpoint import Checkpoint


class Recorder:
    """The importer's target: the database of the process that calls this one."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._steps: list[dict] = []

    def _ask(self, **step):
        self._steps.append(step)
        print(json.dumps(step), flush=True)
        return json.loads(sys.stdin.readline())

    def execute(self, sql, *arguments):
        return self._ask(sql=sql, arguments=list(arguments))

    def copy(self, table, columns, chunks):
        file = f"{table}.rows"
        with (self._folder / file).open("wb") as rows:
            rows.write(copy_binary.HEADER)
            rows.writelines(chunks)
            rows.write(copy_binary.TRAILER)
        self._ask(table=table, columns=columns, file=file)

    def close(self):
        (self._folder / "import.json").write_text(json.dumps(self._steps), encoding="utf-8")


if __name__ == "__main__":
    model, name, dtype, made = sys.argv[1:]
    source = client.find_source(model)
    checkpoint = Checkpoint(source.directory, client.read_tensor, lambda n_bytes: None, None)
    recorder = Recorder(Path(made))
    importer.load(recorder, checkpoint, name, source.name, dtype=dtype)
    recorder.close()
