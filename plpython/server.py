"""The server's side of an import: numpy reads the tensors, COPY takes them from a temporary file.

A file, because no array of a hundred million floats should pass through PL/Python's conversion
of a datum at a time. It has no name: COPY, in the same process, opens it by its descriptor, and
nothing is left of it whatever ends that process.
"""

from __future__ import annotations

import math
import tempfile

import numpy as np
from gpt2_loader import copy_binary, importer
from gpt2_loader.checkpoint import Checkpoint
from gpt2_loader.errors import MALFORMED_FILE, LoadError, from_os_error
from gpt2_loader.files import open_file, show

FILE_SIZE = 1 << 25  # bytes of rows in the temporary file, about: bounds the disk space

QUERY_CANCELED = "57014"

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def load_model(plpy, path, name, replace, tokenizer, dtype):
    """Loads the model directory at path; gives None, or (sqlstate, message, detail, hint).

    Before anything is read, the role is asked for the right. The caller raises the error: an
    exception that leaves PL/Python shows its class and the Python source to the user.
    """
    try:
        plpy.execute("SELECT gpt2._check_may_read_files(), gpt2._check_may_load()")
        checkpoint = Checkpoint(path, read_tensor, tokenizer=tokenizer)
        with tempfile.TemporaryFile() as file:
            importer.load(Target(plpy, file), checkpoint, name, path, replace=replace, dtype=dtype)
        for notice in checkpoint.notices():
            plpy.notice(notice)
    except LoadError as error:
        return error.sqlstate, error.message, error.detail, error.hint
    except OSError as error:
        error = from_os_error(error)
        hint = "The server reads it as the operating system's user that runs PostgreSQL."
        return error.sqlstate, error.message, error.detail, hint
    except plpy.SPIError as error:
        _, detail, hint, *_ = error.spidata
        if error.sqlstate == QUERY_CANCELED:
            # a function cannot lift the timeout of the statement that calls it
            hint = "Where it was statement_timeout, before it: SET statement_timeout = 0;"
            detail = "Nothing was loaded."
        return error.sqlstate, str(error), detail or "The database refused the model.", hint


def read_tensor(tensor, start, stop):
    """Rows start .. stop - 1 of a Tensor of floats."""
    dtype = np.dtype(DTYPES[tensor.dtype])
    row = math.prod(tensor.shape[1:])  # elements
    with open_file(tensor.path) as file:
        file.seek(tensor.start + start * row * dtype.itemsize)
        array = np.fromfile(file, dtype, (stop - start) * row)
    if array.size < (stop - start) * row:
        raise LoadError(
            MALFORMED_FILE,
            f'file "{tensor.path}" changed while it was read',
            f"Tensor {show(tensor.name)} is cut off.",
        )
    if tensor.dtype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")  # the upper half of a float32
    return array.reshape(stop - start, *tensor.shape[1:])


class Target:
    """The server programming interface as the importer's target."""

    TYPES = {int: "int", bool: "boolean", str: "text"}

    def __init__(self, plpy, file):
        self._plpy = plpy
        self._file = file

    def execute(self, sql, *arguments):
        plan = self._plpy.prepare(sql, [self.TYPES[type(value)] for value in arguments])
        result = self._plpy.execute(plan, arguments)
        return [tuple(row.values()) for row in result]

    def copy(self, table, columns, chunks):
        chunks = iter(chunks)
        file = self._file
        path = f"/dev/fd/{file.fileno()}"
        more = True
        while more:
            file.seek(0)
            file.truncate()
            file.write(copy_binary.HEADER)
            while file.tell() < FILE_SIZE:
                chunk = next(chunks, None)
                more = chunk is not None
                if not more:
                    break
                file.write(chunk)
            file.write(copy_binary.TRAILER)
            file.seek(0)  # which writes what is buffered; some systems share the position
            self._plpy.execute(f"COPY gpt2.{table} ({columns}) FROM '{path}' (FORMAT BINARY)")
