"""The header of a safetensors file: which tensor lies where.

A file is 8 bytes that give the length of the header (little-endian), the header (JSON), and the
tensors' bytes. Everything the header claims is checked here, before a byte of a tensor is read.
Source: the format's description at https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from gpt2_loader.errors import MALFORMED_FILE, LoadError
from gpt2_loader.files import parse_json

MAX_HEADER = 100_000_000  # bytes; the safetensors package has the same limit

ITEM_SIZE = {  # bytes
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


class Tensor(NamedTuple):
    """Where a tensor lies: its file, its name there, and its bytes start .. end - 1."""

    path: str
    name: str
    dtype: str
    shape: tuple
    start: int
    end: int


def read_header(path):
    """The tensors of a file: {name: Tensor}. Any claim that does not fit the file is an error."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if size < 8:
            raise _malformed(path, f"It has {size} bytes, fewer than the length of a header has.")
        if n_header > MAX_HEADER:
            raise _malformed(
                path, f"Its header would have {n_header} bytes; at most {MAX_HEADER} are allowed."
            )
        if 8 + n_header > size:
            raise _malformed(
                path,
                f"Its header would have {n_header} bytes, the file has {size}: it is truncated.",
            )
        header = file.read(n_header)
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed(path, "Its header is not UTF-8 text.") from None

    tensors = {
        name: _tensor(path, name, entry, 8 + n_header)
        for name, entry in parse_json(text, path).items()
        if name != "__metadata__"
    }
    end = 8 + n_header
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if tensor.start != end:
            raise _malformed(
                path, f'Tensor "{tensor.name}" does not begin where the one before it ends.'
            )
        end = tensor.end
    if end != size:
        raise _malformed(
            path, f"Its tensors end at byte {end}, the file has {size}: "
            + ("it is truncated." if end > size else "bytes are left over.")
        )  # fmt: skip
    return tensors


def _tensor(path, name, entry, data):
    """The Tensor that an entry of the header describes; data is where the tensors begin."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f'Tensor "{name}" needs dtype, shape and data_offsets.')
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise _malformed(path, f'Tensor "{name}" has the unknown dtype {dtype!r}.')
    if not _sizes(shape):
        raise _malformed(path, f'Tensor "{name}" has the shape {shape!r}.')
    if not _sizes(offsets) or len(offsets) != 2:
        raise _malformed(path, f'Tensor "{name}" has the offsets {offsets!r}.')
    n_bytes = math.prod(shape) * ITEM_SIZE[dtype]
    if offsets[1] - offsets[0] != n_bytes:
        raise _malformed(
            path,
            f'Tensor "{name}" of {dtype} {list(shape)} has {n_bytes} bytes, '
            f"its offsets are {offsets[0]} and {offsets[1]}.",
        )
    return Tensor(path, name, dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _sizes(value):
    """Whether a value is a list of integers from 0 on."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _malformed(path, detail):
    return LoadError(
        MALFORMED_FILE,
        f'file "{path}" is not a valid safetensors file',
        detail,
        "Download or save it again.",
    )
