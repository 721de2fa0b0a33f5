\echo Use "CREATE EXTENSION gpt2_plpython3u" to load this file. \quit


-- ---- plpython/known.sql

-- What somebody has hung on the tables of gpt2 before, as a trigger, is his: no reason to refuse.
SELECT pg_catalog.set_config(E'gpt2.known', (
    SELECT pg_catalog.array_agg(d::pg_catalog.text)::pg_catalog.text
    FROM gpt2._foreign_dependencies() AS d), true);


-- ---- plpython/modules.sql

-- The modules of the Python package gpt2_loader that the server needs, in the order in which they
-- import each other: one reader for the command line and the server.

CREATE FUNCTION gpt2._python_modules()
RETURNS TABLE (name text, source text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 9
SET search_path = pg_catalog, pg_temp
AS $modules$
VALUES
('errors', $python$
"""The one exception of the importers: an error as PostgreSQL reports it."""

from __future__ import annotations

MALFORMED_FILE = "22P03"
WRONG_DATA = "22000"
BAD_ARGUMENT = "22023"
UNSUPPORTED = "0A000"
NO_FILE = "58P01"
NO_PRIVILEGE = "42501"
IO_ERROR = "58030"
NOT_READY = "55000"
TOO_LARGE = "54000"
WRONG_FILE = "42809"


class LoadError(Exception):
    """A model cannot be loaded. Message, detail and hint are worded as the server's."""

    def __init__(self, sqlstate, message, detail, hint=None):
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint


def from_os_error(error):
    """The LoadError of an OSError: a file that is not there or may not be read; of one without a
    name, which is a temporary one or open already, the operating system tells what is wrong."""
    sqlstate = {
        FileNotFoundError: NO_FILE,
        NotADirectoryError: NO_FILE,
        PermissionError: NO_PRIVILEGE,
    }.get(type(error), IO_ERROR)
    name = error.filename
    if isinstance(name, bytes):
        name = name.decode("utf-8", "backslashreplace")
    message = "could not read or write a file" if name is None else f'could not read "{name}"'
    return LoadError(sqlstate, message, f"{error.strerror}.")
$python$),
('files', $python$
"""The files of a model directory: which are opened, how much of one is read, and what JSON holds.

A model may come from anywhere. So what is no file is not opened, every file is read up to a limit,
and a value is of the type that is asked for, or an error that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat

from gpt2_loader.errors import MALFORMED_FILE, TOO_LARGE, WRONG_DATA, WRONG_FILE, LoadError

# Bytes that a file may have, by what it is. The header of a safetensors file has its own limit
# (safetensors_header.py); tensors have none, they are read in parts.
MAX_OPTIONS = 4_000_000  # config.json and its like: 1 kB; with thousands of labels or tokens 1 MB
MAX_INDEX = 4_000_000  # 50 kB for the 580 tensors of the largest GPT-2
MAX_VOCABULARY = 32_000_000  # tokenizer.json: 4 MB with GPT-2's tokens, 17 MB with 250,000

# What a JSON text may hold. A value takes up to 200 bytes of memory, whatever its length in the
# file; numbers and depths are bounded because Python's own bounds differ between versions.
MAX_VALUES = 2_000_000  # twice what a tokenizer.json with 250,000 tokens has
MAX_DEPTH = 64  # a tokenizer.json has 7
MAX_DIGITS = 100  # of an integer: model_max_length of a tokenizer_config.json has 31

TOO_DEEP = f"Its lists and objects are nested deeper than {MAX_DEPTH}."

SHOWN = 100  # characters of a file's value that are put into an error

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
TYPES = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "an integer"
}  # fmt: skip

# What a JSON escape can put into a text, and neither UTF-8 nor the database can hold.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


# Opening and reading


def _on_disk(path):
    """A path as the system has it, in UTF-8: in a database whose locale is C, Python would take
    ASCII alone."""
    return path.encode("utf-8", "surrogateescape")


def names(directory):
    """The names in a directory, in order."""
    found = os.listdir(_on_disk(directory))
    return sorted(name.decode("utf-8", "surrogateescape") for name in found)


def has(directory, name):
    """Whether a directory has something of this name, be it a file or what open_file refuses."""
    try:
        os.lstat(_on_disk(os.path.join(directory, name)))
    except FileNotFoundError:
        return False
    return True


def open_file(path):
    """A file, opened to read bytes.

    To open a pipe would be to wait for its other end, and to open a device may do something: so it
    is looked at before, and, lest it was changed, what was opened is looked at too.
    """
    _check_kind(path, os.stat(_on_disk(path)))
    descriptor = os.open(_on_disk(path), os.O_RDONLY | os.O_NONBLOCK)
    try:
        _check_kind(path, os.fstat(descriptor))
    except LoadError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _check_kind(path, status):
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise LoadError(
            WRONG_FILE,
            f'"{path}" is not a file',
            f"It is {kind}.",
            "Put the model's file, or a link to it, in its place.",
        )


def read_text(path, limit):
    """The text of a UTF-8 file of at most limit bytes."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # a file that grows, or whose size is not known before (/proc), is not believed either
        data = file.read(limit + 1) if size <= limit else b""
    size = max(size, len(data))
    if size > limit:
        raise LoadError(
            TOO_LARGE,
            f'file "{path}" is too large',
            f"It has {size} bytes or more; at most {limit} are read.",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LoadError(
            MALFORMED_FILE,
            f'file "{path}" is not UTF-8 text',
            f"Byte {error.start}, 0x{data[error.start]:02x}, does not belong there.",
        ) from None


def read_lines(path, limit):
    """The lines of a UTF-8 file of at most limit bytes."""
    text = read_text(path, limit)
    _check_number(path, text.count("\n"), "lines")
    return text.split("\n")


def sha256(paths):
    """Hash of the files one after the other, in hexadecimal: what cat | sha256sum prints."""
    digest = hashlib.sha256()
    for path in paths:
        with open_file(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


# JSON


class _Invalid(ValueError):
    """A JSON text that Python's parser would take; its argument is the error's detail."""


def read_json(path, limit=MAX_OPTIONS):
    """The object that a JSON file of at most limit bytes holds: see parse_json."""
    return parse_json(read_text(path, limit), path)


def parse_json(text, path):
    """The object in a JSON text; path is for the error.

    Beyond what Python asks of JSON: a key is not there twice, numbers are finite, texts are Unicode
    without U+0000, and there is no more of anything than the limits above allow.
    """
    _check_number(path, text.count(",") + text.count("[") + text.count("{"), "values")
    try:
        if text.startswith("\ufeff"):
            raise _Invalid("It begins with a byte order mark.")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_constant,
        )
        _check_values(value)
    except RecursionError:
        detail = TOO_DEEP
    except json.JSONDecodeError as error:
        detail = f"{error.msg}: line {error.lineno}, column {error.colno}."
    except _Invalid as error:
        detail = str(error)
    else:
        if isinstance(value, dict):
            return value
        raise LoadError(MALFORMED_FILE, f'file "{path}" is not valid', "Its JSON is not an object.")
    raise LoadError(MALFORMED_FILE, f'file "{path}" is not valid JSON', detail)


def _check_number(path, n, what):
    if n > MAX_VALUES:
        raise LoadError(
            TOO_LARGE,
            f'file "{path}" is too large',
            f"It has some {n} {what}; at most {MAX_VALUES} are read.",
        )


def _object(pairs):
    keys = dict(pairs)
    if len(keys) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Invalid(f"Key {show(twice)} is there twice.")
    return keys


def _integer(digits):
    if len(digits) > MAX_DIGITS:
        raise _Invalid(f"A number has {len(digits)} digits; at most {MAX_DIGITS} are read.")
    # -0 is a float, as in the safetensors package: it is no size
    return int(digits) if digits != "-0" else -0.0


def _fraction(digits):
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Invalid(f"The number {digits[:SHOWN]} is too large.")
    return value


def _constant(name):
    raise _Invalid(f"{name} is not a number that JSON has.")


def _check_values(value):
    """Refuses what is nested too deeply, and texts that are none."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and NO_TEXT.search(value):
                raise _Invalid(f"The text {show(value)} has U+0000, or half a surrogate pair.")
        level = inner
    if level:
        raise _Invalid(TOO_DEEP)


def expect(value, kind, what, path):
    """A value of JSON, which must be of a type: dict, list, str, bool or int; what: its name."""
    if type(value) is not kind:
        raise LoadError(
            WRONG_DATA, f"{what} is not {TYPES[kind]}: {show(value)}", f'File "{path}" has it.'
        )
    return value


def member(values, key, kind, path, default=None):
    """The value at a key of an object, which must be of a type; null is like none at all."""
    value = values.get(key)
    return default if value is None else expect(value, kind, key, path)


def show(value):
    """A value as an error shows it: as JSON, printable, and not longer than an error may be."""
    if isinstance(value, str) and len(value) > SHOWN:
        value = f"{value[:SHOWN]}..."
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > 2 * SHOWN:
        text = f"{text[: 2 * SHOWN]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
$python$),
('safetensors_header', $python$
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
$python$),
('copy_binary', $python$
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
$python$),
('vocabulary', $python$
"""A model's vocabulary: the bytes of every token, the merges that make tokens of bytes, and the
tokens that were added to them.

It comes as tokenizer.json, or as vocab.json and merges.txt; added tokens stand in four files more.
What they mean is decided as transformers' GPT2Tokenizer decides it, and what the extension does not
do as `tokenizers` does is refused here, by name: all but byte-level byte-pair encoding with GPT-2's
pattern for words. Files write a byte as a printable character (bytes_to_unicode() in openai/gpt-2,
src/encoder.py).
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from gpt2_loader.errors import NO_FILE, UNSUPPORTED, WRONG_DATA, LoadError
from gpt2_loader.files import (
    MAX_DIGITS,
    MAX_VOCABULARY,
    expect,
    has,
    member,
    names,
    read_json,
    read_lines,
    show
)

OWN = "gpt2"  # the name of GPT-2's own vocabulary, tokenizer 1 of the extension
OWN_N_TOKEN = 50257
END_OF_TEXT = "<|endoftext|>"

# tokenizer classes that read byte-level byte-pair encoding as GPT-2 does
CLASSES = (
    "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "PreTrainedTokenizer",
    "TokenizersBackend"
)  # fmt: skip
# files of other tokenizers
OTHERS = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.bpe")
_OR_OWN = "Where it is GPT-2's own, say so: --tokenizer gpt2, or tokenizer => 'gpt2'."
# attributes of a tokenizer that name a special token, or several; other ones end in _token
SPECIAL = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
)  # fmt: skip
LISTS_OF_SPECIAL = ("additional_special_tokens", "extra_special_tokens")

# what an option has that is not set
UNSET = (None, False, "", 0)

MAX_TOKENS = 1_000_000  # sql/tokenizer/bpe.sql has a character for each; the largest have 250,000
MAX_TOKEN = 500  # characters of a token, which an index has to hold; GPT-2's longest has 128
MAX_ADDED = 1_000_000  # characters of all added tokens: 50,000 words


class Vocabulary(NamedTuple):
    """tokens: the bytes of id 0, 1, ...; merges: (left, right, token) ids, the first goes first;
    special: {id of an added token: whether it is special}. A special token is text in a prompt,
    unless it is asked for; another added one is found before a text is split into words."""

    tokens: list
    merges: list
    special: dict

    @property
    def n_token(self):
        return len(self.tokens)

    def sha256(self):
        """Hash of what it holds, in hexadecimal: equal vocabularies in other files are equal.

        A line a token (its bytes in hexadecimal; after them 'added' or 'special' for an added
        token), an empty line, a line a merge (its three ids).
        """
        kinds = {None: "", False: " added", True: " special"}
        lines = [f"{t.hex()}{kinds[self.special.get(i)]}" for i, t in enumerate(self.tokens)]
        lines += [""]
        lines += ["%d %d %d" % merge for merge in self.merges]
        return hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()


class OwnPart(NamedTuple):
    """The first n_token tokens of GPT-2's own vocabulary; with an end, the last is <|endoftext|>
    in the place of what it is there. The database has them: vocabulary() gives a Vocabulary."""

    n_token: int
    has_end: bool

    @property
    def special(self):
        return {self.n_token - 1: True} if self.has_end else {}

    def vocabulary(self, tokens, merges):
        """tokens: the bytes of at least the first n_token; merges: all, as in Vocabulary."""
        n = self.n_token - self.has_end
        end = [END_OF_TEXT.encode()] if self.has_end else []
        return Vocabulary(
            tokens[:n] + end, [merge for merge in merges if max(merge) < n], self.special
        )


class _Added(NamedTuple):
    """A token that is added to a vocabulary; id is None where it is that of the vocabulary, or
    the next one. normalized: looked for after the ones that are not."""

    content: str
    id: int | None
    special: bool
    normalized: bool


def byte_encoder():
    """{character: byte}: the characters that stand for bytes, in the order of GPT-2's ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + n): byte for n, byte in enumerate(others)},
    }


def read_vocabulary(tokenizer, directory, config, n_vocab, ends=None):
    """The vocabulary of a model: a Vocabulary, or None for GPT-2's own, or an OwnPart of it.

    tokenizer: OWN, a directory, or None for the model's directory; config: the model's config.json,
    as read; n_vocab: rows of its token embeddings; ends: eos_token_id, as read.
    """
    if tokenizer == OWN:
        if n_vocab >= OWN_N_TOKEN:
            return None
        return OwnPart(n_vocab, n_vocab - 1 in (ends if isinstance(ends, list) else [ends]))
    if tokenizer is not None:
        names(tokenizer)  # of a directory that is not there, an error by name
        directory, config = tokenizer, {}
    path = os.path.join(directory, "tokenizer_config.json")
    options = read_json(path) if has(directory, "tokenizer_config.json") else {}
    for option in ("add_prefix_space", "add_bos_token", "add_eos_token"):
        if options.get(option) not in UNSET:
            raise _unsupported(path, f"{option} is set")
    for file, values in ((path, options), (os.path.join(directory, "config.json"), config)):
        name = values.get("tokenizer_class")
        if name is not None and name not in CLASSES:
            raise _unsupported(file, f"its tokenizer_class is {show(name)}")
    path = os.path.join(directory, "tokenizer.json")
    if has(directory, "tokenizer.json"):
        ids, merges, added = _read_tokenizer_json(path, read_json(path, MAX_VOCABULARY))
        return _with_added(path, directory, options, ids, merges, added)

    missing = [name for name in ("vocab.json", "merges.txt") if not has(directory, name)]
    if len(missing) == 1:
        raise LoadError(
            NO_FILE,
            f'directory "{directory}" has no {missing[0]}',
            "A vocabulary is vocab.json and merges.txt, or tokenizer.json.",
            f"Add the file. {_OR_OWN}",
        )
    if missing:
        return _none(directory, n_vocab)
    path = os.path.join(directory, "vocab.json")
    merges = [
        line.rstrip("\r").split(" ", 2)
        for line in read_lines(os.path.join(directory, "merges.txt"), MAX_VOCABULARY)
        if line.strip() and not line.startswith("#version")
    ]
    return _with_added(path, directory, options, read_json(path, MAX_VOCABULARY), merges, [])


def _none(directory, n_vocab):
    """None, for GPT-2's own vocabulary, or an error where a directory without one means another."""
    others = [name for name in (*OTHERS, "added_tokens.json") if has(directory, name)]
    if others:
        raise LoadError(
            UNSUPPORTED,
            f'the tokenizer of "{directory}" is not supported: it is {others[0]}',
            "Supported is byte-level byte-pair encoding as GPT-2 does it: tokenizer.json, or "
            "vocab.json and merges.txt.",
            _OR_OWN,
        )
    if n_vocab < OWN_N_TOKEN:
        raise LoadError(
            NO_FILE,
            f'directory "{directory}" has no vocabulary',
            f"GPT-2's own has {OWN_N_TOKEN} tokens, the model {n_vocab}.",
            f"Add tokenizer.json, or vocab.json and merges.txt. {_OR_OWN}",
        )
    return None


def _read_tokenizer_json(path, file):
    """ids, merges and added tokens of a file of the tokenizers library; what is not GPT-2's way is
    refused."""
    model = member(file, "model", dict, path, {})
    if model.get("type", "BPE") != "BPE":
        raise _unsupported(path, f"its model is {show(model['type'])}, not BPE")
    if file.get("normalizer") is not None:
        raise _unsupported(path, "it has a normalizer")
    words = member(file, "pre_tokenizer", dict, path, {})
    if words.get("type") != "ByteLevel":
        raise _unsupported(path, f"its pre_tokenizer is {show(words.get('type'))}, not ByteLevel")
    if words.get("add_prefix_space") is not False:
        raise _unsupported(path, "add_prefix_space is set")
    if words.get("use_regex", True) is not True:
        raise _unsupported(path, "use_regex is not set")
    for option in (
        "dropout",
        "ignore_merges",
        "continuing_subword_prefix",
        "end_of_word_suffix",
    ):
        if model.get(option) not in UNSET:
            raise _unsupported(path, f"{option} is set")
    after = member(file, "post_processor", dict, path, {})
    parts = member(after, "single", list, path, [])
    adds = [
        part for part in parts
        if "SpecialToken" in expect(part, dict, "a part of post_processor", path)
    ]  # fmt: skip
    if after.get("type", "ByteLevel") not in ("ByteLevel", "TemplateProcessing") or adds:
        raise _unsupported(path, "its post_processor adds tokens")
    merges = [_merge(path, merge) for merge in member(model, "merges", list, path, [])]
    tokens = [
        expect(token, dict, "an added token", path)
        for token in member(file, "added_tokens", list, path, [])
    ]
    added = [
        _added_token(path, token, expect(token.get("id"), int, "the id of an added token", path))
        for token in tokens
    ]
    return member(model, "vocab", dict, path, {}), merges, added


def _merge(path, value):
    """[left, right] of a merge of tokenizer.json: a text with a space in it, or a list."""
    if isinstance(value, str):
        return value.split(" ", 2)
    parts = expect(value, list, "a merge", path)
    return [expect(part, str, "a part of a merge", path) for part in parts]


def _added_token(path, value, number=None, special=False):
    """The _Added of its description: a text, or an object with its options."""
    if isinstance(value, str):
        value = {"content": value}
    content = expect(value, dict, "an added token", path).get("content")
    if not expect(content, str, "the content of an added token", path):
        raise _wrong(path, "An added token is empty.")
    for option in ("lstrip", "rstrip", "single_word"):
        if value.get(option) not in UNSET:
            raise _unsupported(path, f"{option} is set for the added token {show(content)}")
    special = member(value, "special", bool, path, special)
    return _Added(content, number, special, member(value, "normalized", bool, path, not special))


def _with_added(path, directory, options, ids, merges, added):
    """The Vocabulary with all added tokens of a directory; added: those of tokenizer.json.

    As transformers does: added_tokens_decoder of tokenizer_config.json is the whole list; without
    it special_tokens_map.json says which are special and added_tokens.json adds some. A special
    token that nothing lists is an added one too.
    """
    source = os.path.join(directory, "tokenizer_config.json")
    listed = member(options, "added_tokens_decoder", dict, source)
    named = dict(options)
    if listed is not None:
        special = _special_tokens(source, named)
        added = added + [
            _added_token(source, token, _id(source, number)) for number, token in listed.items()
        ]
        return _vocabulary(path, ids, merges, added, special)
    source = os.path.join(directory, "special_tokens_map.json")
    if has(directory, "special_tokens_map.json"):
        named.update(read_json(source))
    special = _special_tokens(source, named)
    source = os.path.join(directory, "added_tokens.json")
    if has(directory, "added_tokens.json"):
        special_texts = {token.content for token in special}
        added = added + [
            _added_token(source, {"content": content, "special": content in special_texts}, number)
            for content, number in read_json(source, MAX_VOCABULARY).items()
        ]
    return _vocabulary(path, ids, merges, added, special)


def _id(path, key):
    """The id that a key of added_tokens_decoder means."""
    if not (key.isascii() and key.isdecimal() and len(key) <= MAX_DIGITS):
        raise _wrong(path, f"The id {show(key)} is not a number from 0 on.")
    return int(key)


def _special_tokens(path, named):
    """The _Added of each special token that a tokenizer's options name, in order."""
    if named.get("tokenizer_class") not in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        for key in ("bos_token", "eos_token", "unk_token"):
            named.setdefault(key, END_OF_TEXT)
    # what is no text nor an object is no token where the name is not one that transformers knows
    values = [
        value for key, value in named.items()
        if (key in SPECIAL or (key.endswith("_token") and isinstance(value, (str, dict))))
        and value not in UNSET
    ]  # fmt: skip
    for key in LISTS_OF_SPECIAL:
        more = named.get(key)
        if more not in UNSET:
            more = more.values() if isinstance(more, dict) else expect(more, list, key, path)
            values += more
    return [_added_token(path, value, special=True)._replace(special=True) for value in values]


def _vocabulary(path, ids, merges, added, special):
    """The Vocabulary of {token as written: id}, [left, right] as written, and _Added tokens."""
    wrong = next((t for t, i in ids.items() if type(i) is not int or i < 0), None)
    if wrong is not None:
        raise _wrong(path, f"The id of {show(wrong)} is not a number from 0 on.")
    ids = dict(ids)
    following = max(ids.values(), default=-1) + 1
    known = {}
    byte_of = byte_encoder()
    for token in (*added, *special):
        number = ids.get(token.content, following) if token.id is None else token.id
        if type(number) is not int or number < 0:
            raise _wrong(path, f"The id of {show(token.content)} is not a number from 0 on.")
        if ids.setdefault(token.content, number) != number:
            first = ids[token.content]
            raise _wrong(path, f"{show(token.content)} has the ids {first} and {number}.")
        following = max(following, number + 1)
        if token.content not in known or token.special:
            known[token.content] = token
        if len(token.content) == 1 and token.content in byte_of and not token.content.isascii():
            raise _unsupported(path, f"the added token {show(token.content)} is a byte's name")
    _check_sizes(path, ids, known)
    _check_overlaps(path, known.values())

    written = {i: token for token, i in ids.items()}
    if len(written) < len(ids):
        twice = next(t for t, i in ids.items() if written[i] != t)
        raise _wrong(path, f"Two tokens have the id {ids[twice]}.")
    n_token = max(written, default=-1) + 1
    if len(written) < n_token:
        hole = next(i for i in range(n_token) if i not in written)
        raise _wrong(path, f"No token has the id {hole}.")

    for character, byte in byte_of.items():
        if character not in ids:
            raise _unsupported(path, f"no token stands for the byte 0x{byte:02x}")

    def text(token):
        # An added token is a text as it is. So is one with other characters, as in `tokenizers`.
        if token not in known and all(character in byte_of for character in token):
            return bytes(byte_of[character] for character in token)
        return token.encode()

    pairs = {}
    for merge in merges:
        if len(merge) != 2 or not all(part in ids for part in (*merge, "".join(merge))):
            raise _wrong(path, f"The merge {show(' '.join(merge))} is not of its tokens.")
        left, right = merge
        pairs[ids[left], ids[right]] = ids[left + right]
    if len(pairs) < len(merges):
        raise _wrong(path, "A merge is there twice.")
    return Vocabulary(
        [text(written[i]) for i in range(n_token)],
        [(left, right, token) for (left, right), token in pairs.items()],
        {ids[token.content]: token.special for token in known.values()},
    )


def _check_overlaps(path, tokens):
    """Refuses tokens of which one could hide another: `tokenizers` looks for those that are
    normalized after the others, the extension for all at once."""
    first = [token.content for token in tokens if not token.normalized]
    then = [token.content for token in tokens if token.normalized]
    pair = _overlap(first, then) or _overlap(then, first)
    if pair:
        a, b = map(show, pair if pair[0] in first else reversed(pair))
        raise _unsupported(path, f"the added tokens {a} and {b} overlap, and one is normalized")


def _overlap(texts, others):
    """(a, b): a text that one of the others holds, or begins with the end of which; or None."""
    whole = set(texts)
    lengths = {len(a) for a in texts}
    beginnings = {a[:n]: a for a in texts for n in range(1, len(a))}
    for b in others:
        parts = (b[i : i + n] for n in lengths for i in range(len(b) - n + 1))
        ends = (b[i:] for i in range(1, len(b)))
        held = next((part for part in parts if part in whole), None)
        begun = next((beginnings[end] for end in ends if end in beginnings), None)
        if held or begun:
            return held or begun, b
    return None


def _check_sizes(path, ids, added):
    """Refuses more tokens, and longer ones, than the extension can have; added: what was added."""
    longest = max(map(len, ids), default=0)
    total = sum(map(len, added))
    for n, most, what in (
        (len(ids), MAX_TOKENS, "tokens"),
        (longest, MAX_TOKEN, "characters in a token"),
        (total, MAX_ADDED, "characters in added tokens"),
    ):
        if n > most:
            raise _unsupported(path, f"it has {n} {what}, more than {most}")


def _wrong(path, detail):
    return LoadError(WRONG_DATA, f'the vocabulary of "{path}" is not consistent', detail)


def _unsupported(path, what):
    return LoadError(
        UNSUPPORTED,
        f'the tokenizer of "{path}" is not supported: {what}',
        "Supported is byte-level byte-pair encoding as GPT-2 does it.",
    )
$python$),
('checkpoint', $python$
"""A model directory: config.json and safetensors files, checked against each other.

What the extension does not compute as transformers does is refused here, by name. Defaults and
synonyms are those of transformers' GPT2Config.
"""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

import numpy as np

from gpt2_loader import files
from gpt2_loader.errors import NO_FILE, UNSUPPORTED, WRONG_DATA, LoadError
from gpt2_loader.files import expect, member, show
from gpt2_loader.safetensors_header import ITEM_SIZE, read_header
from gpt2_loader.vocabulary import OWN_N_TOKEN, read_vocabulary

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"

# The last is that of trl's first versions. Models for a task (GPT2ForSequenceClassification, ...)
# are not among them: transformers' GPT2LMHeadModel reads them, but they were trained for their own
# head, and nothing kept the language model beside it what it was.
ARCHITECTURES = (
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2DoubleHeadsModel",
    "GPT2HeadWithValueModel"
)

# transformers has several names for the two formulas
ACTIVATIONS = {
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu": "gelu",
    "gelu_python": "gelu",
}

# Buffers of older checkpoints: the causal mask.
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")

# Heads beside the language model's: those of transformers, and trl's v_head.
HEADS = re.compile(r"(multiple_choice_head|summary|score|classifier|qa_outputs|v_head)\..*")

N_NAMED = 8  # tensors of a notice that are named

# files that may hold weights, in the place of model.safetensors
OTHER_WEIGHTS = re.compile(r"\.(safetensors|bin|pt|h5|msgpack)$|\.ckpt")

DTYPES = ("F32", "F16", "BF16")

MAX_NAME = 255  # characters of a file's name; no system has more

# A product of two float4 below about 1e-38 is an underflow, which pgvector raises as an error.
# Weights this small are stored as 0: beside a weight of usual size, 0.01, they are some 1e-28,
# and float4 resolves 1e-7.
TINY = 1e-30


class Config(NamedTuple):
    """config.json, in the extension's names; the fields are columns of gpt2.model."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int
    n_inner: int
    activation_function: str
    layer_norm_epsilon: float
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    tie_word_embeddings: bool


class Checkpoint:
    """A model directory whose files were checked; no tensor was read yet.

    config: a Config; vocabulary: a Vocabulary, or None for GPT-2's own; tokens: a Tokens; tensors:
    {name without "transformer.": Tensor}; n_bytes: size of these tensors; left_out: names of those
    of heads that language modelling does not use.

    tokenizer: which vocabulary is meant, where it is not the directory's: OWN for GPT-2's own, or
    another directory.

    `read_tensor(tensor, start, stop)` gives rows start .. stop - 1 of a Tensor as an array of
    floats: the client reads through the safetensors package, the server by itself. `progress` is
    told the bytes of each read.
    """

    def __init__(self, directory, read_tensor, progress=lambda n_bytes: None, tokenizer=None):
        files.names(directory)  # a directory that may not be read would look like an empty one
        self._read_tensor = read_tensor
        self._progress = progress
        self.directory = directory
        path, config = _config_file(directory)
        self.config = read_config(path, config)
        self.tensors, self.left_out = _find_tensors(directory, self.config)
        self._squares = dict.fromkeys(self.tensors, 0.0)
        self.n_bytes = sum(tensor.end - tensor.start for tensor in self.tensors.values())
        path, generation = _generation_config(directory, path, config)
        self.vocabulary = read_vocabulary(
            tokenizer, directory, config, self.config.n_vocab, generation.get("eos_token_id")
        )
        self.tokens = read_tokens(path, generation, self.config.n_vocab, self.vocabulary)

    def sha256(self):
        """Hash of the weight files, in the order of their names."""
        return files.sha256(sorted({tensor.path for tensor in self.tensors.values()}))

    def n_parameters(self):
        """Number of weights and biases in use."""
        return sum(
            (tensor.end - tensor.start) // ITEM_SIZE[tensor.dtype]
            for name, tensor in self.tensors.items()
            if not (name == "lm_head.weight" and self.config.tie_word_embeddings)
        )

    def notices(self):
        """What whoever loads the model should know of it, as texts."""
        if not self.left_out:
            return []
        names = ", ".join(map(show, self.left_out[:N_NAMED]))
        more = len(self.left_out) - N_NAMED
        return [
            f"left out {names}{f' and {more} more' if more > 0 else ''}: "
            "language modelling does not use them"
        ]

    def norm(self, name):
        """Root of the sum of the squares of a tensor's rows as far as they were read, each once; 0
        for a bias that the checkpoint does not have."""
        return math.sqrt(self._squares.get(name, 0.0))

    def read(self, name, start=0, stop=None):
        """Rows start .. stop - 1 of a tensor, all by default, as float32 [stop - start, ...]."""
        tensor = self.tensors[name]
        stop = tensor.shape[0] if stop is None else min(stop, tensor.shape[0])
        array = np.array(self._read_tensor(tensor, start, stop), dtype=np.float32)
        if not np.isfinite(array).all():
            raise LoadError(
                WRONG_DATA,
                f"tensor {show(tensor.name)} has a NaN or an infinity",
                f'It is in file "{tensor.path}".',
            )
        array[np.abs(array) < TINY] = 0
        with np.errstate(over="ignore"):
            self._squares[name] += float(np.vdot(array, array))
        self._progress((stop - start) * (tensor.end - tensor.start) // tensor.shape[0])
        return array

    def read_bias(self, name, n):
        """A bias [n]; one that the checkpoint does not have is 0."""
        return self.read(name) if name in self.tensors else np.zeros(n, dtype=np.float32)


def _config_file(directory):
    """The path of a model directory's config.json, and what it holds."""
    path = os.path.join(directory, "config.json")
    if not files.has(directory, "config.json"):
        lora = files.has(directory, "adapter_config.json")
        raise LoadError(
            NO_FILE,
            f'directory "{directory}" has no config.json',
            "It holds an adapter, not a model." if lora
            else "A model is a directory with config.json and model.safetensors.",
            "Merge the adapter into its model and save that." if lora else None,
        )  # fmt: skip
    return path, files.read_json(path)


def _generation_config(directory, path, config):
    """The path and content of the file that says what begins and ends a text: as in transformers
    generation_config.json, where there is one, in the place of config.json, which is given."""
    if not files.has(directory, GENERATION):
        return path, config
    path = os.path.join(directory, GENERATION)
    return path, files.read_json(path)


def read_config(path, config):
    """The Config that a config.json means."""

    def unsupported(what, supported=None):
        return LoadError(
            UNSUPPORTED, f"{what} is not supported", f'File "{path}" asks for it.', supported
        )

    def value(key, default, *synonyms):
        for name in (key, *synonyms):
            if config.get(name) is not None:
                return config[name]
        return default

    def number(key, default, *synonyms, most=None):
        n = value(key, default, *synonyms)
        if type(n) is not int or n < 1:
            raise LoadError(
                WRONG_DATA, f"{key} is not a positive integer: {show(n)}", f'File "{path}" has it.'
            )
        if most is not None and n > most:
            raise unsupported(f"{key} {n}", f"The largest is {most}.")
        return n

    def flag(key, default):
        return expect(value(key, default), bool, key, path)

    architectures = member(config, "architectures", list, path, [])
    model_type = config.get("model_type", "gpt2" if architectures else None)
    if model_type != "gpt2":
        raise unsupported(f"model_type {show(model_type)}", "Only gpt2 is.")
    if architectures and not any(name in ARCHITECTURES for name in architectures):
        raise unsupported(
            f"architecture {show(architectures[0])}", f"Supported are {', '.join(ARCHITECTURES)}."
        )
    if config.get("quantization_config"):
        raise unsupported("a quantized checkpoint", "Save the model in float32 or float16.")
    if flag("add_cross_attention", False):
        raise unsupported("add_cross_attention")
    activation = expect(value("activation_function", "gelu_new"), str, "activation_function", path)
    if activation not in ACTIVATIONS:
        raise unsupported(
            f"activation_function {show(activation)}", f"Supported are {', '.join(ACTIVATIONS)}."
        )
    epsilon = value("layer_norm_epsilon", 1e-5)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise LoadError(
            WRONG_DATA,
            f"layer_norm_epsilon is not between 0 and 1: {show(epsilon)}",
            f'File "{path}" has it.',
        )

    # pgvector's vector ends at 16000: of 4 * n_embd neurons, of values at all positions. Whether
    # the weights of a neuron fit a page depends on the server (gpt2._add_model).
    n_embd = number("n_embd", 768, "hidden_size", most=4000)
    n_head = number("n_head", 12, "num_attention_heads")
    if n_embd % n_head != 0:
        raise LoadError(
            WRONG_DATA,
            f"n_embd {n_embd} is not a multiple of n_head {n_head}",
            f'File "{path}" has them.',
        )
    return Config(
        n_vocab=number("vocab_size", OWN_N_TOKEN),
        n_ctx=number("n_positions", 1024, "max_position_embeddings", "n_ctx", most=16000),
        n_embd=n_embd,
        n_head=n_head,
        n_layer=number("n_layer", 12, "num_hidden_layers"),
        n_inner=number("n_inner", 4 * n_embd, most=16000),
        activation_function=ACTIVATIONS[activation],
        layer_norm_epsilon=float(epsilon),
        scale_attn_weights=flag("scale_attn_weights", True),
        # reorder_and_upcast_attn asks for the same in another order
        scale_attn_by_inverse_layer_idx=flag("scale_attn_by_inverse_layer_idx", False),
        tie_word_embeddings=flag("tie_word_embeddings", True),
    )


class Tokens(NamedTuple):
    """Which ids are tokens, and what they do; the fields are columns of gpt2.model."""

    n_token: int
    bos_token: int | None
    eos_tokens: list


def read_tokens(path, values, n_vocab, vocabulary):
    """The Tokens of a model with this many rows of wte. path, values: those of
    _generation_config; vocabulary: a Vocabulary, or None for GPT-2's own.

    As transformers does: config.json's default is GPT-2's <|endoftext|>; an id that no row has is
    never met.
    """
    has_default = os.path.basename(path) != GENERATION

    def ids(key, n_token):
        default = OWN_N_TOKEN - 1 if has_default and n_token == OWN_N_TOKEN else None
        value = values.get(key, default)
        value = [] if value is None else value if isinstance(value, list) else [value]
        wrong = [i for i in value if type(i) is not int]
        if wrong:
            raise LoadError(
                WRONG_DATA, f"{key} is not a token id: {show(wrong[0])}", f'File "{path}" has it.'
            )
        met = [i for i in dict.fromkeys(value) if 0 <= i < n_vocab]
        beyond = next((i for i in met if i >= n_token), None)
        if beyond is not None:
            raise LoadError(
                WRONG_DATA,
                f"{key} {beyond} is no token of the vocabulary",
                f"It has the tokens 0 to {n_token - 1}.",
                'Add it to added_tokens.json: {"<|endoftext|>": id}.',
            )
        return met

    n_token = vocabulary.n_token if vocabulary else OWN_N_TOKEN
    if n_vocab < n_token:
        # what is beyond the rows cannot be read; an added token need not be
        special = vocabulary.special if vocabulary else {}
        lost = [i for i in range(n_vocab, n_token) if i not in special]
        if lost:
            raise LoadError(
                WRONG_DATA,
                f"the vocabulary has {n_token} tokens, the model {n_vocab}",
                "Of some tokens there are no embeddings.",
                "Add the vocabulary that the model was trained with.",
            )
        n_token = n_vocab
    bos = ids("bos_token_id", n_token)
    return Tokens(n_token, bos[0] if bos else None, ids("eos_token_id", n_token))


def expected_tensors(config):
    """Every tensor of a model: its name and shape. HF's Conv1D weights are [n_in, n_out]."""
    n, n_inner = config.n_embd, config.n_inner
    yield "wte.weight", (config.n_vocab, n)
    yield "wpe.weight", (config.n_ctx, n)
    for block in range(config.n_layer):
        for layer, *shape in (
            ("ln_1", n),
            ("attn.c_attn", n, 3 * n),
            ("attn.c_proj", n, n),
            ("ln_2", n),
            ("mlp.c_fc", n, n_inner),
            ("mlp.c_proj", n_inner, n),
        ):
            yield f"h.{block}.{layer}.weight", tuple(shape)
            yield f"h.{block}.{layer}.bias", (shape[-1],)
    yield "ln_f.weight", (n,)
    yield "ln_f.bias", (n,)
    yield "lm_head.weight", (config.n_vocab, n)


def _find_tensors(directory, config):
    """{name: Tensor} of what expected_tensors names, and the names of what HEADS does; shapes,
    dtypes and names are checked."""
    found, left_out = {}, []
    for name, tensor in _all_tensors(directory).items():
        short = name[len("transformer.") :] if name.startswith("transformer.") else name
        if short in found:
            raise LoadError(
                WRONG_DATA,
                f"tensor {show(short)} is there twice",
                'Once with and once without "transformer." before its name.',
            )
        if HEADS.fullmatch(short):
            left_out.append(tensor.name)
        elif not BUFFERS.fullmatch(short):
            found[short] = tensor
    if config.tie_word_embeddings and "wte.weight" not in found and "lm_head.weight" in found:
        # save_model() of safetensors.torch writes what two names share under the first
        found["wte.weight"] = found.pop("lm_head.weight")

    tensors = {}
    for name, shape in expected_tensors(config):
        tensor = found.pop(name, None)
        if tensor is None:
            # a bias that is not there is 0; a tied lm_head is wte
            if name.endswith(".bias") or (name == "lm_head.weight" and config.tie_word_embeddings):
                continue
            raise LoadError(
                WRONG_DATA,
                f'tensor "{name}" is missing',
                f'Directory "{directory}" has no weight of that name.',
            )
        if tensor.dtype not in DTYPES:
            raise LoadError(
                UNSUPPORTED,
                f"tensor {show(tensor.name)} has the unsupported dtype {tensor.dtype}",
                f'It is in file "{tensor.path}".',
                "Save the model in float32, float16 or bfloat16.",
            )
        if tensor.shape != shape:
            raise LoadError(
                WRONG_DATA,
                f"tensor {show(tensor.name)} has shape {show(tensor.shape)} "
                f"instead of {list(shape)}",
                f'File "{tensor.path}" does not fit config.json.',
            )
        tensors[name] = tensor
    if found:
        tensor = min(found.values())
        raise LoadError(
            UNSUPPORTED,
            f"tensor {show(tensor.name)} is not one of GPT-2's",
            f'It is in file "{tensor.path}"; the model would not be what it is without it.',
            "A LoRA adapter has to be merged into its model before." if "lora_" in tensor.name
            else None,
        )  # fmt: skip
    return tensors, sorted(left_out)


def _all_tensors(directory):
    """{name: Tensor} of the directory's safetensors file, or of all that its index names."""
    if files.has(directory, WEIGHTS):
        return read_header(os.path.join(directory, WEIGHTS))
    if not files.has(directory, INDEX):
        others = [name for name in files.names(directory) if OTHER_WEIGHTS.search(name)]
        raise LoadError(
            NO_FILE,
            f'directory "{directory}" has no {WEIGHTS}',
            f"It has {', '.join(map(show, others[:8]))}." if others
            else f"It has no {INDEX} either.",
            "Convert it: save_pretrained() of transformers writes model.safetensors."
            if others else None,
        )  # fmt: skip
    return _sharded_tensors(directory, os.path.join(directory, INDEX))


def _sharded_tensors(directory, path):
    """{name: Tensor} of all that an index says, at a path. Nothing else of a shard is kept."""
    index = files.read_json(path, files.MAX_INDEX)
    names = {}
    for name, shard in expect(index.get("weight_map"), dict, "weight_map", path).items():
        expect(shard, str, "a shard in weight_map", path)
        is_name = os.path.basename(shard) == shard and len(shard) <= MAX_NAME
        if not is_name or not shard.endswith(".safetensors"):
            raise LoadError(
                WRONG_DATA,
                f'file "{path}" names {show(shard)}',
                "A shard is a safetensors file in the same directory.",
            )
        names.setdefault(shard, []).append(name)
    tensors = {}
    for shard in sorted(names):
        header = read_header(os.path.join(directory, shard))
        for name in names[shard]:
            if name not in header:
                raise LoadError(
                    WRONG_DATA,
                    f"tensor {show(name)} is missing",
                    f'File "{path}" says that it is in {show(shard)}.',
                )
            tensors[name] = header[name]
    return tensors
$python$),
('overflow', $python$
"""Whether the activations of a model may pass what float32 holds.

A bound of each is derived from the norms of the weights alone, for any text. |x| is the Euclidean
norm of a vector, |W| the root of the sum of the squares of a matrix, so that no number of x is
above |x|, nor |W x| above |W| |x|, nor any part of the sums that make it:

    normalize(x)    sqrt(n_embd), whatever x is: what a block computes does not depend on the
                    blocks before it
    z               sqrt(n_head) |v|, as a head's mean of values is no longer than the longest
    gelu(x)         |x|
    residual        the sum of what is added to it

The variance in a layer norm and the inner products of queries and keys multiply two activations:
their bound is the root of float32's largest number. GPT-2's are around 1e9 by this estimate, and
some thousands in truth.
"""

from __future__ import annotations

import math

from gpt2_loader.errors import WRONG_DATA, LoadError

LARGEST = math.sqrt(3.4e38)


def check(checkpoint):
    """Raises a LoadError where activations of a Checkpoint, of which every tensor was read, may
    overflow."""
    for name, tensor in checkpoint.tensors.items():
        if checkpoint.norm(name) > LARGEST:
            raise LoadError(
                WRONG_DATA,
                f'the weights of tensor "{tensor.name}" are too large',
                f"Their norm is above {LARGEST:.1e}, so that float32 cannot hold its square.",
                _HINT,
            )
    for place, bound in _bounds(checkpoint.config, checkpoint.norm):
        if bound > LARGEST:
            name = max(checkpoint.tensors, key=checkpoint.norm)
            raise LoadError(
                WRONG_DATA,
                f"the weights are too large: {place} may overflow",
                f"With such weights it may be {bound:.0e}, and float32 cannot hold the square of "
                f"what is above {LARGEST:.1e}. The largest norm is that of tensor "
                f'"{checkpoint.tensors[name].name}", {checkpoint.norm(name):.1e}.',
                _HINT,
            )


_HINT = "Weights of a trained model are below a thousand: download or save it again."


def _bounds(config, norm):
    """(place, bound of the activations there), as a token meets them. norm(name): of a tensor."""

    def layer_norm(layer):
        return math.sqrt(config.n_embd) * norm(f"{layer}.weight") + norm(f"{layer}.bias")

    def linear(layer, x):
        return norm(f"{layer}.weight") * x + norm(f"{layer}.bias")

    residual = norm("wte.weight") + norm("wpe.weight")
    yield "the embedding", residual
    for block in range(config.n_layer):
        h = f"h.{block}"
        qkv = linear(f"{h}.attn.c_attn", layer_norm(f"{h}.ln_1"))
        yield f"attention in block {block}", qkv
        residual += linear(f"{h}.attn.c_proj", math.sqrt(config.n_head) * qkv)
        neurons = linear(f"{h}.mlp.c_fc", layer_norm(f"{h}.ln_2"))
        yield f"the perceptron in block {block}", neurons
        residual += linear(f"{h}.mlp.c_proj", neurons)
        yield f"the residual stream after block {block}", residual
    y = layer_norm("ln_f")
    yield "the layer norm after the blocks", y
    yield "a logit", y * norm("wte.weight" if config.tie_word_embeddings else "lm_head.weight")
$python$),
('importer', $python$
"""Loading a checked model into a database, in the caller's transaction.

The database is a target whose search_path is pg_catalog, with two methods:
execute(sql, *arguments), with $1, $2, ... in sql, gives a list of rows;
copy(table, columns, chunks) takes rows in COPY's binary format, in chunks of bytes.
"""

from __future__ import annotations

import json

import numpy as np

from gpt2_loader import copy_binary, overflow
from gpt2_loader.errors import BAD_ARGUMENT, WRONG_DATA, LoadError
from gpt2_loader.vocabulary import OwnPart

CHUNK = 1 << 23  # bytes of a tensor that are read at a time: bounds the memory

COLUMNS = {"float32": ("weight", np.float32), "float16": ("half", np.float16)}

LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # in the order of the enum


def check(name, dtype):
    """Refuses arguments that no model can be loaded by."""
    if dtype not in COLUMNS:
        raise LoadError(
            BAD_ARGUMENT,
            f'dtype "{dtype}" does not exist',
            "It is float32 or float16.",
            "Leave it out for float32; float16 takes half the space and two thirds of the time.",
        )
    if not name:
        raise LoadError(
            BAD_ARGUMENT, "the name of a model may not be empty", "It is what queries call it by."
        )


def load(
    target, checkpoint, name, source, revision=None, replace=False, make_default=False,
    dtype="float32", sha256=None
):  # fmt: skip
    """Loads a Checkpoint under a name; the database's errors are for the caller.

    dtype: type of the linear layers' and the token embeddings' weights in the database; all
    else is float32. sha256: of the weight files, where the caller has read them.
    """
    check(name, dtype)
    properties = {
        **checkpoint.config._asdict(),
        **checkpoint.tokens._asdict(),
        "n_parameters": checkpoint.n_parameters(),
        "dtype": dtype,
        "source": source,
        "revision": revision,
        "sha256": sha256 or checkpoint.sha256(),
    }
    # One import at a time: a vocabulary found here must not go away with another model.
    target.execute("SELECT gpt2._lock_models()")
    properties["tokenizer"] = _tokenizer(target, checkpoint.vocabulary)
    [(model,)] = target.execute(
        "SELECT gpt2._add_model($1, $2::jsonb, $3, $4)",
        name, json.dumps(properties), replace, make_default,
    )  # fmt: skip
    pages = _Pages(target, model, dtype)
    target.copy(
        "matrix_page",
        f"model, block, layer, slice, page, {pages.column}",
        _matrices(checkpoint, pages),
    )
    target.copy("bias", "model, block, layer, bias", _biases(checkpoint, model))
    target.copy("layer_norm", "model, block, layer, weight, bias", _layer_norms(checkpoint, model))
    target.copy("wpe", 'model, "position", weight', _position_embeddings(checkpoint, model))
    overflow.check(checkpoint)
    target.execute("SELECT gpt2._finish_model($1)", model)


def _tokenizer(target, vocabulary):
    """The number of a vocabulary in gpt2.tokenizer; it is added where it is not there yet."""
    if vocabulary is None:
        return 1  # GPT-2's own; files that hold the same are found by their hash
    if isinstance(vocabulary, OwnPart):
        tokens = target.execute("SELECT bytes FROM gpt2.token WHERE tokenizer = 1 ORDER BY token")
        merges = target.execute(
            'SELECT "left", "right", token FROM gpt2.merge WHERE tokenizer = 1 ORDER BY rank'
        )
        vocabulary = vocabulary.vocabulary([bytes(text) for (text,) in tokens], merges)
    sha256 = vocabulary.sha256()
    found = target.execute("SELECT tokenizer FROM gpt2.tokenizer WHERE sha256 = $1", sha256)
    if found:
        return found[0][0]
    [(tokenizer,)] = target.execute(
        "SELECT gpt2._add_tokenizer($1, $2)", sha256, len(vocabulary.tokens)
    )
    target.copy(
        "token",
        "tokenizer, token, bytes, mergeable, special",
        [copy_binary.token_rows(tokenizer, vocabulary.tokens, vocabulary.special)],
    )
    if vocabulary.merges:
        left, right, token = np.array(vocabulary.merges, dtype=np.int32).T
        target.copy(
            "merge",
            'tokenizer, rank, "left", "right", token',
            [copy_binary.rows(tokenizer, np.arange(len(token)), left, right, token)],
        )
    target.execute("SELECT gpt2._finish_tokenizer($1)", tokenizer)
    return tokenizer


class _Pages:
    """How a model's neurons are put in rows: page_size to a row, in a column of a type."""

    def __init__(self, target, model, dtype):
        self.model = model
        self.dtype = dtype
        self.column, self._numpy_dtype = COLUMNS[dtype]
        # an array in COPY's binary format names the type of its elements
        [(self.size, self._type)] = target.execute(
            """SELECT m.page_size, t.typelem::int
               FROM gpt2.model AS m, pg_catalog.pg_attribute AS a, pg_catalog.pg_type AS t
               WHERE m.model = $1 AND a.attrelid = 'gpt2.matrix_page'::regclass
                 AND a.attname = $2 AND t.oid = a.atttypid""",
            model, self.column,
        )  # fmt: skip

    def rows(self, tensor, key, first, weight):
        """Rows (model, key, page, weights) of neurons first, first + 1, ...: weight is [n, n_in],
        key is (block, layer, slice), first is a page's first."""
        with np.errstate(over="ignore"):
            weight = weight.astype(self._numpy_dtype, copy=False)
        if self.dtype == "float16" and not np.isfinite(weight).all():
            raise LoadError(
                WRONG_DATA,
                f'tensor "{tensor}" does not fit float16',
                "It has a weight above 65504.",
                "Load the model with dtype float32.",
            )
        whole = len(weight) // self.size * self.size
        for start, stop, size in ((0, whole, self.size), (whole, len(weight), len(weight) - whole)):
            if start < stop:
                page = np.arange((first + start) // self.size, -(-(first + stop) // self.size))
                values = weight[start:stop].reshape(len(page), size, -1)
                yield copy_binary.rows(
                    self.model, *key, page, copy_binary.Array(self._type, values)
                )


def _matrices(checkpoint, pages):
    """Rows of matrix_page, in the order of the key."""
    yield from _token_embeddings(checkpoint, pages, "wte")
    if not checkpoint.config.tie_word_embeddings:
        yield from _token_embeddings(checkpoint, pages, "lm_head")
    yield from _linear(checkpoint, pages)


def _token_embeddings(checkpoint, pages, name):
    """Rows of matrix_page: wte or lm_head, which are in no block."""
    n_rows = checkpoint.tensors[f"{name}.weight"].shape[0]
    step = max(1, CHUNK // (4 * checkpoint.config.n_embd * pages.size)) * pages.size
    for start in range(0, n_rows, step):
        weight = checkpoint.read(f"{name}.weight", start, start + step)
        if name == "wte" and checkpoint.config.tie_word_embeddings:
            _check_tie(checkpoint, weight, start)
        yield from pages.rows(f"{name}.weight", (-1, name, 0), start, weight)


def _position_embeddings(checkpoint, model):
    """Rows (model, position, weight [n_embd])."""
    weight = checkpoint.read("wpe.weight")
    yield copy_binary.rows(model, np.arange(len(weight)), weight)


def _check_tie(checkpoint, wte, start):
    """A file of a tied model may hold lm_head.weight too; it has to be the same as wte.weight."""
    if "lm_head.weight" in checkpoint.tensors:
        lm_head = checkpoint.read("lm_head.weight", start, start + len(wte))
        if not np.array_equal(lm_head, wte):
            raise LoadError(
                WRONG_DATA,
                'tensor "lm_head.weight" differs from "wte.weight"',
                "tie_word_embeddings in config.json says that they are the same.",
                'Set "tie_word_embeddings": false where the model has an output projection of '
                "its own.",
            )


def _layer_norms(checkpoint, model):
    """Rows (model, block, layer, weight [n_embd], bias [n_embd])."""
    n_layer, n_embd = checkpoint.config.n_layer, checkpoint.config.n_embd
    for block in range(n_layer + 1):
        for layer in ("ln_1", "ln_2") if block < n_layer else ("ln_f",):
            tensor = f"h.{block}.{layer}" if block < n_layer else layer
            weight = checkpoint.read(f"{tensor}.weight")
            bias = checkpoint.read_bias(f"{tensor}.bias", n_embd)
            yield copy_binary.rows(model, block, layer, weight[np.newaxis], bias[np.newaxis])


def _layers(checkpoint):
    """(block, layer, tensor, n_in, n_out) of every linear layer, in the order of the key."""
    for block in range(checkpoint.config.n_layer):
        for layer in LINEAR:
            tensor = f"h.{block}.{layer}"
            yield block, layer, tensor, *checkpoint.tensors[f"{tensor}.weight"].shape


def _biases(checkpoint, model):
    """Rows (model, block, layer, bias [n_out])."""
    for block, layer, tensor, _, n_out in _layers(checkpoint):
        bias = checkpoint.read_bias(f"{tensor}.bias", n_out)
        yield copy_binary.rows(model, block, layer, bias[np.newaxis])


def _linear(checkpoint, pages):
    """Rows of matrix_page: the linear layers.

    A neuron is a column of the checkpoint's weight [n_in, n_out]: what one output unit makes of its
    inputs. Slice s holds inputs s * n_embd and on.
    """
    n_embd = checkpoint.config.n_embd
    for block, layer, tensor, n_in, _ in _layers(checkpoint):
        for start in range(0, n_in, n_embd):
            # [n_embd, n_out] -> [n_out, n_embd]
            weight = checkpoint.read(f"{tensor}.weight", start, start + n_embd).T
            key = (block, layer, start // n_embd)
            yield from pages.rows(f"{tensor}.weight", key, 0, weight)
$python$),
('server', $python$
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
$python$)
$modules$;
COMMENT ON FUNCTION gpt2._python_modules IS
    E'Python modules of the importer: names and source, each after those it imports';


-- ---- plpython/load_model.sql

-- A model from a directory on the server, read by PL/Python.
--
-- With the rights of the role that calls. A function of the definer's rights could not tell who
-- that is: a view that is refreshed, an index, a trigger or another such function runs with its
-- owner's rights in a session of somebody else's. Python itself may read what the server's
-- operating system user may, so it asks for pg_read_server_files, as COPY does.


CREATE FUNCTION gpt2._check_may_read_files()
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT gpt2._assert(r.inherited, E'insufficient_privilege',
        E'permission denied to read files on the server',
        CASE WHEN r.member
             THEN format(E'Role "%s" is a member of pg_read_server_files, but does not inherit its '
                         'privileges.', current_user)
             ELSE format(E'Role "%s" is not a member of pg_read_server_files.', current_user) END,
        CASE WHEN NOT r.member THEN format(E'GRANT pg_read_server_files TO %I;', current_user)
             WHEN current_setting(E'server_version_num')::int < 160000
             THEN format(E'ALTER ROLE %I INHERIT;', current_user)
             ELSE format(E'GRANT pg_read_server_files TO %I WITH INHERIT TRUE;', current_user) END
        || E' or load from the client: gpt2-loader load SOURCE')
    FROM (SELECT pg_has_role(current_user, E'pg_read_server_files', E'USAGE') AS inherited,
                 pg_has_role(current_user, E'pg_read_server_files', E'MEMBER') AS member) AS r;
END;
COMMENT ON FUNCTION gpt2._check_may_read_files IS
    E'true, or an error where the role lacks the privileges of pg_read_server_files';


-- The error, if any, is returned and not raised: PL/Python would put its exception's class before
-- the message and a Python traceback after it.
CREATE FUNCTION gpt2._load_model(
    path text, name text, replace boolean, tokenizer text, dtype text,
    OUT sqlstate text, OUT message text, OUT detail text, OUT hint text
)
LANGUAGE plpython3u VOLATILE
SET search_path = pg_catalog, pg_temp
AS $python$
import sys
import types

try:
    import numpy
except ImportError as error:
    return (
        "55000",
        "numpy is not installed for the server's Python",
        f"{error} (Python {sys.version.split()[0]})",
        "Install it on the server: apt-get install python3-numpy",
    )

# The package, made anew at each call so that an update of the extension takes effect.
package = sys.modules["gpt2_loader"] = types.ModuleType("gpt2_loader")
for module in plpy.execute("SELECT name, source FROM gpt2._python_modules()"):
    full_name = f"gpt2_loader.{module['name']}"
    sys.modules[full_name] = types.ModuleType(full_name)
    exec(compile(module["source"], full_name, "exec"), sys.modules[full_name].__dict__)
    setattr(package, module["name"], sys.modules[full_name])

return package.server.load_model(plpy, path, name, replace, tokenizer, dtype)
$python$;
COMMENT ON FUNCTION gpt2._load_model IS
    E'gpt2_load_model''s work; gives the error to raise, or NULLs';


CREATE FUNCTION gpt2_load_model(
    path text, name text DEFAULT NULL, replace boolean DEFAULT false, tokenizer text DEFAULT NULL,
    dtype text DEFAULT E'float32'
) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model text := coalesce(name, substring(path FROM '([^/]+)/*$'));
    error record;
BEGIN
    PERFORM gpt2._check_may_read_files();
    IF path IS NULL OR path NOT LIKE '/%' THEN
        RAISE EXCEPTION 'path of a model is not absolute: %', quote_nullable(path)
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'It is a directory on the server.',
                  HINT = 'SELECT gpt2_load_model(''/path/of/model'');';
    END IF;
    SELECT * INTO error
    FROM gpt2._load_model(path, coalesce(model, ''), coalesce(replace, false), tokenizer,
                          coalesce(dtype, ''));
    IF error.message IS NOT NULL THEN
        PERFORM gpt2._raise(NULL::boolean, error.sqlstate, error.message, error.detail, error.hint);
    END IF;
    RETURN model;
END;
$$;
COMMENT ON FUNCTION gpt2_load_model IS
    E'loads the model in a directory on the server; gives its name';

REVOKE EXECUTE ON FUNCTION gpt2_load_model, gpt2._load_model FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gpt2_load_model, gpt2._load_model TO pg_read_server_files;


-- ---- plpython/dependencies.sql

-- What was made must call nothing of somebody else's: see sql/install/dependencies.sql.

SET LOCAL search_path = pg_catalog, pg_temp;
DO $$
BEGIN
    PERFORM gpt2._check_dependencies(nullif(current_setting('gpt2.known'), '')::text[]);
END;
$$;
