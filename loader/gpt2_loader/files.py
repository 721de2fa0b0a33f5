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
