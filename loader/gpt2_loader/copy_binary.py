"""Rows in the binary format of COPY, whole arrays at a time.

A file is a header, the rows and a trailer; a row is its number of columns (int16) and for each
column its length in bytes (int32) and value, big-endian. pgvector's vector is its dimensions
(int16), an unused int16 and the elements (float4); its halfvec is the same with float2. An enum is
its label. An array is its dimensions (int32), flags (int32), the type of its elements (oid), its
length and first subscript (int32), and for each element its length in bytes (int32) and value.
Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; array_recv() in
src/backend/utils/adt/arrayfuncs.c of PostgreSQL
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


class Array(NamedTuple):
    """A column of SQL arrays: values [n_rows, length, n] of vector[] (float32) or halfvec[]
    (float16)."""

    element_type: int  # its oid
    values: np.ndarray


def rows(*columns):
    """Rows of fixed length, as bytes.

    A column is a number or a label that is the same in every row, an array [n_rows] of integers
    (int4), an array [n_rows, n] of floats (vector(n)), or an Array.
    """
    parts = [_column(column) for column in columns]
    n_rows = next(n for n in map(_n_rows, columns) if n is not None)
    dtype = [("n_columns", ">i2")]
    for i, (part, _) in enumerate(parts):
        dtype += [(f"length{i}", ">i4"), (f"column{i}", part)]
    records = np.zeros(n_rows, dtype)
    records["n_columns"] = len(columns)
    for i, (part, value) in enumerate(parts):
        records[f"length{i}"] = np.dtype(part).itemsize
        _set(records[f"column{i}"], value)
    return records.tobytes()


def _n_rows(column):
    """Rows of a column, None for one that is the same in every row."""
    values = column.values if isinstance(column, Array) else column
    return len(values) if np.ndim(values) > 0 else None


def _column(column):
    """(dtype of a column's value in a row, the value)."""
    if isinstance(column, Array):
        length = column.values.shape[1]
        element = _element(column.values[0, 0])
        header = [(name, ">i4") for name in ("n_dims", "flags", "type", "length", "first")]
        return [*header, ("element", [("n_bytes", ">i4"), ("value", element)], (length,))], column
    if isinstance(column, str):
        return f"S{len(column)}", column.encode()
    if np.ndim(column) == 2:
        return _element(column[0]), column
    return ">i4", column


def _element(value):
    """dtype of the vector or halfvec of an array [n] of floats."""
    number = value.dtype.newbyteorder(">")
    return [("n", ">i2"), ("unused", ">i2"), ("x", number, value.shape)]


def _set(field, value):
    """Puts the value of a column into all rows' field."""
    if isinstance(value, Array):
        field["n_dims"], field["first"] = 1, 1
        field["type"], field["length"] = value.element_type, value.values.shape[1]
        elements = field["element"]
        elements["n_bytes"] = elements.dtype["value"].itemsize
        _set(elements["value"], value.values)
    elif field.dtype.names:  # vectors
        field["n"] = value.shape[-1]
        field["x"] = value
    else:
        field[...] = value


def token_rows(tokenizer, tokens, special):
    """Rows of gpt2.token (tokenizer, token, bytes, mergeable = false, special) of a list of byte
    strings; special: {token: bool}, the others have NULL."""
    null = struct.pack(">i", -1)
    flags = {number: struct.pack(">i?", 1, value) for number, value in special.items()}
    return b"".join(
        struct.pack(">hiiiii", 5, 4, tokenizer, 4, token, len(text))
        + text
        + struct.pack(">i?", 1, False)
        + flags.get(token, null)
        for token, text in enumerate(tokens)
    )
