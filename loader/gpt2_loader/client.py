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
from gpt2_loader.vocabulary import OTHERS

HUB_FILES = [
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    *OTHERS,
]

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
    """A connection to a database that has the extension."""
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
    installed = connection.execute("SELECT to_regclass('gpt2.model') IS NOT NULL").fetchone()[0]
    connection.rollback()
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
    """Where a model comes from: a directory, the name it gives the model, and its origin."""

    directory: str
    name: str
    origin: str
    revision: str | None


def find_source(source, revision=None):
    """The Source that a directory, the name of a bundled model or a hub id means."""
    bundled = resources.files(__package__) / "models" / source
    is_id = source and not source.startswith((".", "/", "~")) and source.count("/") <= 1
    if os.path.isdir(source):
        directory = os.path.abspath(source)
    elif is_id and "/" not in source and bundled.is_dir():
        directory = str(bundled)
    elif is_id:
        return _from_hub(source, revision)
    else:
        raise LoadError(
            NO_FILE, f'directory "{source}" does not exist', "A hub id is not meant either.", _HINT
        )
    if revision is not None:
        raise LoadError(
            BAD_ARGUMENT, "--revision is for models of the hub", f'"{source}" is a directory.'
        )
    return Source(directory, os.path.basename(directory), directory, None)


_HINT = (
    "SOURCE is a directory with config.json and model.safetensors, the bundled model demo, or a "
    "hub id such as openai-community/gpt2."
)


def _from_hub(hub_id, revision):
    import huggingface_hub  # takes half a second, and is not needed for a directory

    try:
        directory = huggingface_hub.snapshot_download(
            hub_id, revision=revision, allow_patterns=HUB_FILES
        )
    except Exception as error:  # of many kinds: the network, the hub, the id, the disk
        raise LoadError(
            NO_FILE,
            f'"{hub_id}" is not a directory, and the hub does not give a model of that id',
            str(error).strip().split("\n")[0] or type(error).__name__,
            _HINT,
        ) from None
    # the folder of a snapshot is named after its commit
    return Source(directory, hub_id.split("/")[-1], hub_id, os.path.basename(directory))
