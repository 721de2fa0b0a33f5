"""The command line's side of an import: the safetensors package, psycopg and the hub."""

from __future__ import annotations

import os
from importlib import resources
from typing import NamedTuple

import ml_dtypes
import numpy as np
import psycopg
from safetensors import SafetensorError, safe_open

from gpt2_loader import copy_binary
from gpt2_loader.errors import (
    BAD_ARGUMENT,
    MALFORMED_FILE,
    NO_FILE,
    NOT_READY,
    LoadError,
)
from gpt2_loader.files import open_file, show
from gpt2_loader.vocabulary import OWN

SOURCES = (
    "SOURCE is a directory with config.json and model.safetensors, the bundled model demo, or a "
    "hub id such as openai-community/gpt2."
)

# They end a statement or a transaction that takes long, as an import does. lock_timeout is left as
# it is: how long to wait for somebody else is not the import's to say.
TIMEOUTS = ["statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"]

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def read_tensor(tensor, start, stop):
    """Rows start .. stop - 1 of a Tensor, in its own dtype.

    The file is opened at every read: pages of a mapping count as the process's memory until it
    is closed, and the largest files have gigabytes. Its header was checked (safetensors_header.py),
    so what the package refuses, or sees otherwise, was changed since then.
    """
    with open_file(tensor.path):  # the package would wait for a pipe
        try:
            with safe_open(tensor.path, framework="numpy") as file:
                array = np.asarray(file.get_slice(tensor.name)[start:stop])
        except (SafetensorError, OSError) as error:
            raise LoadError(
                MALFORMED_FILE,
                f'file "{tensor.path}" changed while it was read',
                f"It is no longer a safetensors file with the tensor: {show(str(error))}",
            ) from None
    if array.shape != (stop - start, *tensor.shape[1:]) or array.dtype != DTYPES[tensor.dtype]:
        raise LoadError(
            MALFORMED_FILE,
            f'file "{tensor.path}" changed while it was read',
            f"Tensor {show(tensor.name)} is now of another shape or dtype.",
        )
    return array


def connect(dsn):
    """A connection to a database that has the extension, within the transaction of the caller's
    statements.

    In it names mean what they mean in pg_catalog, whatever the role's search_path has before that,
    and no timeout (TIMEOUTS) of the role or the database ends it. It is READ COMMITTED: having
    waited for another import it sees what that one did.
    """
    try:
        connection = psycopg.connect(
            dsn,
            cursor_factory=psycopg.RawCursor,  # $1, as on the server
            client_encoding="UTF8",
            fallback_application_name="gpt2-loader",
        )
    except psycopg.Error as error:
        raise LoadError(
            NOT_READY,
            "could not connect to the database",
            " ".join(str(error).split()),
            "Name it: --dsn, GPT2_DSN, or libpq's variables (PGHOST, PGDATABASE, ...); for a "
            'checkout\'s private server: eval "$(make -s env)"',
        ) from None
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.execute("SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)")
    connection.execute(
        # a server has those of its version
        "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY ($1)",
        (TIMEOUTS,),
    )
    installed = connection.execute("SELECT to_regclass('gpt2.model') IS NOT NULL").fetchone()[0]
    if not installed:
        database = connection.info.dbname
        connection.close()
        raise LoadError(
            NOT_READY,
            f'database "{database}" does not have the extension gpt2',
            "It has no table gpt2.model.",
            "CREATE EXTENSION gpt2 CASCADE;",
        )
    return connection


def check(dsn, name, replace):
    """Raises the errors that an import of a model under a name would meet in the database: told
    before a model is fetched and read, and without a connection that waits meanwhile."""
    with connect(dsn) as connection:
        database, read_only = connection.execute(
            "SELECT current_database(), current_setting('transaction_read_only') = 'on'"
        ).fetchone()
        if read_only:
            raise LoadError(
                NOT_READY,
                f'database "{database}" is read-only',
                "It is a standby's, or default_transaction_read_only is on.",
                "Load the model on the primary server.",
            )
        connection.execute(
            "SELECT gpt2._check_may_load(), gpt2._check_free($1, $2)", (name, replace)
        )


class Target:
    """A psycopg connection as the importer's target."""

    def __init__(self, connection):
        self._connection = connection

    def execute(self, sql, *arguments):
        cursor = self._connection.execute(sql, arguments)
        return cursor.fetchall() if cursor.description else []

    def copy(self, table, columns, chunks):
        sql = f"COPY gpt2.{table} ({columns}) FROM STDIN (FORMAT BINARY)"
        with self._connection.cursor() as cursor, cursor.copy(sql) as copy:
            copy.write(copy_binary.HEADER)
            for chunk in chunks:
                copy.write(chunk)
            copy.write(copy_binary.TRAILER)


class Source(NamedTuple):
    """Where a model comes from: the name that it gives the model, its origin, and the directory,
    or None of a model of the hub that is still to be fetched.

    revision: of a model of the hub, its commit once it was fetched; notice: what the user should
    know of how it was, or None.
    """

    name: str
    origin: str
    directory: str | None
    revision: str | None = None
    notice: str | None = None

    def fetch(self, tokenizer=None):
        """The Source with its directory. tokenizer: as for a Checkpoint."""
        if self.directory is not None:
            return self
        if tokenizer not in (None, OWN):
            os.listdir(tokenizer)  # of a directory that is not there, an error before the download
        from gpt2_loader import hub  # takes half a second, and is not needed for a directory

        directory, commit, notice = hub.fetch(self.origin, self.revision, tokenizer)
        return self._replace(directory=directory, revision=commit, notice=notice)


def find_source(source, revision=None):
    """The Source that a directory, the name of a bundled model or a hub id means; nothing is
    fetched yet."""
    bundled = resources.files(__package__) / "models" / source
    is_id = source and not source.startswith((".", "/", "~")) and source.count("/") <= 1
    if os.path.isdir(source):
        directory = os.path.abspath(source)
    elif is_id and "/" not in source and bundled.is_dir():
        directory = str(bundled)
    elif is_id:
        return Source(source.split("/")[-1], source, None, revision)
    else:
        raise LoadError(
            NO_FILE,
            f'directory "{source}" does not exist',
            "A hub id is not meant either.",
            SOURCES,
        )
    if revision is not None:
        raise LoadError(
            BAD_ARGUMENT, "--revision is for models of the hub", f'"{source}" is a directory.'
        )
    return Source(os.path.basename(directory), directory, directory)
