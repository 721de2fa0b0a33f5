"""Rows in the binary format of COPY, whole arrays at a time.

A file is a header, the rows and a trailer; a row is its number of columns (int16) and for each
column its length in bytes (int32) and value, big-endian. pgvector's vector is its dimensions
(int16), an unused int16 and the elements (float4). An enum is its label.
Source: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
"""

from __future__ import annotations

import struct

import numpy as np

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


def rows(*columns):
    """Rows of fixed length, as bytes.

    A column is a number or a label that is the same in every row, an array [n_rows] of integers
    (int4) or floats (float4), or an array [n_rows, n] of floats (vector(n)).
    """
    fields = [("n_columns", ">i2")]
    values = {"n_columns": len(columns)}
    for i, column in enumerate(columns):
        length, value = f"length{i}", f"value{i}"
        if isinstance(column, str):
            column = np.asarray(column.encode())
            n_bytes, fields_of_column = column.itemsize, [(value, column.dtype)]
        else:
            column = np.asarray(column)
            if column.ndim == 2:
                n = column.shape[1]
                n_bytes = 4 + 4 * n
                fields_of_column = [(f"n{i}", ">i2"), (f"unused{i}", ">i2"), (value, ">f4", (n,))]
                values[f"n{i}"] = n
            else:
                n_bytes, fields_of_column = 4, [(value, f">{column.dtype.kind}4")]
        fields += [(length, ">i4"), *fields_of_column]
        values[length] = n_bytes
        values[value] = column
    n_rows = next(len(c) for c in values.values() if np.ndim(c) > 0)
    records = np.zeros(n_rows, dtype=fields)
    for name, value in values.items():
        records[name] = value
    return records.tobytes()


def token_rows(tokenizer, tokens):
    """Rows of gpt2.token (tokenizer, token, bytes, mergeable = false) of a list of byte strings."""
    return b"".join(
        struct.pack(">hiiiii", 4, 4, tokenizer, 4, token, len(text)) + text + b"\0\0\0\1\0"
        for token, text in enumerate(tokens)
    )
