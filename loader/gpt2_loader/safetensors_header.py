"""The header of a safetensors file: which tensor lies where.

A file is 8 bytes that give the length of the header (little-endian), the header (JSON), and the
tensors' bytes. Everything the header claims is checked here, before a byte of a tensor is read, and
whatever the safetensors package refuses is: the command line reads tensors through it.
Source: the format's description at https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from gpt2_loader.errors import MALFORMED_FILE, LoadError
from gpt2_loader.files import open_file, parse_json, show

MAX_HEADER = 10_000_000  # bytes: 60 kB for the largest GPT-2; the safetensors package takes 100 MB
MAX_DIMENSIONS = 32  # of a tensor: numpy before version 2 has no more
MAX_ELEMENTS = 1 << 57  # were no dimension 0: the package counts a tensor's bits in 64 bits

ITEM_SIZE = {  # bytes; the dtypes that every version of the package has
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
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
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
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
        entries = parse_json(header.decode("utf-8"), path)
    except UnicodeDecodeError:
        raise _malformed(path, "Its header is not UTF-8 text.") from None

    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _malformed(path, "Its __metadata__ is not an object of texts.")
    tensors = {name: _tensor(path, name, entry, 8 + n_header) for name, entry in entries.items()}
    end = 8 + n_header
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if tensor.start != end:
            raise _malformed(
                path, f"Tensor {show(tensor.name)} does not begin where the one before it ends."
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
    title = f"Tensor {show(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f"{title} needs dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise _malformed(path, f"{title} has the unknown dtype {show(dtype)}.")
    if (
        not _sizes(shape)
        or len(shape) > MAX_DIMENSIONS
        or math.prod(n or 1 for n in shape) > MAX_ELEMENTS
    ):
        raise _malformed(path, f"{title} has the shape {show(shape)}.")
    if not _sizes(offsets) or len(offsets) != 2:
        raise _malformed(path, f"{title} has the offsets {show(offsets)}.")
    n_bytes = math.prod(shape) * ITEM_SIZE[dtype]
    if offsets[1] - offsets[0] != n_bytes:
        raise _malformed(
            path,
            f"{title} of {dtype} {list(shape)} has {n_bytes} bytes, "
            f"its offsets are {offsets[0]} and {offsets[1]}.",
        )
    return Tensor(path, name, dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _sizes(value):
    """Whether a value is a list of sizes as the package has them, of 64 bits."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 64 for n in value)


def _malformed(path, detail):
    return LoadError(
        MALFORMED_FILE,
        f'file "{path}" is not a valid safetensors file',
        detail,
        "Download or save it again.",
    )
