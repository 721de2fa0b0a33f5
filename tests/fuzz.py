"""Broken model directories, read by both importers: both load the same, or both refuse.

A directory that could be loaded is changed in one to three places, and the command line's importer
(the safetensors package) and the server's (its own reader, plpython/server.py) load what comes of
it into a target that only listens. Nothing but LoadError and OSError may be raised, what one
refuses the other has to refuse with the same words, and what they load has to be the same bytes.
The two readers of a safetensors file's header are compared for themselves too.

No server is needed:

    PYTHONPATH=tests build/venv/bin/python -m fuzz --files 20000

`make fuzz` runs the long form, a process a core, and prints a table. A mutation is the same for the
same seed and number, whatever went before it.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.util
import json
import os
import random
import re
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from gpt2_loader import checkpoint, client, importer
from gpt2_loader.errors import LoadError, from_os_error
from gpt2_loader.safetensors_header import read_header
from oracle.vocabularies import LAYOUTS
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent

#: why our reader of headers refuses what the safetensors package takes
STRICTER = (
    "is there twice",
    "needs dtype, shape and data_offsets",
    "__metadata__ is not",
    "has the unknown dtype",
    "has U+0000",
    "has the shape",
    "A number has",
)

#: what an error that nobody worded looks like
PYTHON = re.compile(
    r"Traceback|object (is|has|does)|NoneType|<class|unhashable|recursion depth|codec can't"
    r"|must be (str|bytes|int|real)|invalid literal|not subscriptable|list indices|\bexpected str\b"
)
LONGEST = 1000  # characters of an error's message, detail or hint


def _server():
    """plpython/server.py as a module."""
    spec = importlib.util.spec_from_file_location("gpt2_server", ROOT / "plpython/server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


server = _server()


# What is changed


class Link(NamedTuple):
    """A symbolic link in the place of a file."""

    target: str


class Folder(NamedTuple):
    """A directory in the place of a file."""


def read_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def write_files(directory: Path, files: dict) -> None:
    for name, content in files.items():
        path = directory / name
        if isinstance(content, Link):
            path.symlink_to(content.target)
        elif isinstance(content, Folder):
            path.mkdir()
        else:
            path.write_bytes(content)


def _sharded(directory: Path) -> None:
    """Two shards and an index in the place of model.safetensors."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    names = list(weights)
    shards = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, directory / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _generation(directory: Path) -> None:
    config = {"bos_token_id": 263, "eos_token_id": [263, 5], "transformers_version": "4.40.0"}
    (directory / "generation_config.json").write_text(json.dumps(config))


def _of_dtype(dtype):
    def apply(directory: Path) -> None:
        path = directory / "model.safetensors"
        weights = {name: tensor.astype(dtype) for name, tensor in load_file(path).items()}
        weights["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.uint8)
        save_file(weights, path, metadata={"format": "pt", "made_by": "é"})

    return apply


#: layout of oracle.vocabularies -> what is done to its directory
MORE = {
    "plain": (_generation,),
    "added_tokens_json": (_sharded,),
    "special_tokens_map": (_of_dtype(np.float16),),
    "tokenizer_json": (_of_dtype(ml_dtypes.bfloat16), _generation),
    "added_tokens_decoder": (_sharded, _generation),
}


def bases() -> list[dict[str, bytes]]:
    """The files of directories that can be loaded."""
    found = []
    for name, write in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            for change in MORE.get(name, ()):
                change(Path(folder))
            found.append(read_files(Path(folder)))
    return found


# How JSON is changed. What no Python value stands for is a text of its own, put in at the end.

LONG = "x" * 20_000
ODD = (
    "null true false 0 -0 -1 1 2 1.0 1.5 -0.0 1e3 1e999 -1e999 1e-999 NaN Infinity -Infinity "
    "18446744073709551615 18446744073709551616 9223372036854775807 9223372036854775808 4294967296 "
    '2147483648 1e400 "" "a" "gpt2" "0" "-1" "F32" "F64" "BF16" "C64" "__metadata__" "\\u0000" '
    '"a\\u0000b" "\\ud800" "x\\udc00" "\\ud83d\\ude00" "é" "Ġ" "Ġthe" "\\u001b[2J" "../x" "/etc" '
    '"<|endoftext|>" [] {} [[]] [{}] [null] [0] [-1] [1.5] [true] ["a"] [["a","b"]] {"a":1} '
    '{"a":null} {"content":"x"} {"content":"x","id":300} {"content":0} {"a":{"b":[]}} '
    '{"type":"BPE"} {"type":["ByteLevel"]} {"SpecialToken":1} {"a":1,"a":2} 01 +1 .5 1. 0x10 tru '
    "'a' \ufeff1"
).split() + [
    "",
    "9" * 50,
    "9" * 101,
    "9" * 5000,
    "0." + "3" * 5000,
    f'"{LONG}"',
    f'["{LONG}", 5]',
    '"a\nb"',
    "[" * 60 + "]" * 60,
    "[" * 70 + "]" * 70,
    "[" * 100_000,
    '{"a":' * 2000 + "1" + "}" * 2000,
]
NAMES = ("", "\0", "\ud800", "a", "é", LONG, "__metadata__", "wte.weight", "-1", "0", "id", "type")


class Raw:
    """JSON texts that stand where a value does."""

    def __init__(self):
        self.texts: list[str] = []

    def put(self, text: str) -> str:
        self.texts.append(text)
        return f"@raw {len(self.texts) - 1}@"

    def write(self, value) -> bytes:
        text = json.dumps(value)
        for i, raw in enumerate(self.texts):
            text = text.replace(f'"@raw {i}@"', raw)
        # a key that is there twice
        return text.replace('"@twice ', '"').encode()


def _parsed(data: bytes):
    """The object or list that a JSON text holds; None where it was broken before."""
    try:
        value = json.loads(data)
        json.dumps(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _places(value) -> list[tuple]:
    """(container, key) of every value within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += _places(inner)
    return found


def _near(value, rng: random.Random):
    """A value of the same type, not far from it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, value - 1, value * 2, -value, value + 8, value // 2, 0])
    if isinstance(value, str):
        i = rng.randrange(len(value) + 1)
        return value[:i] + rng.choice(["", "x", " ", "\0", "\ud800", "é", "."]) + value[i + 1 :]
    if isinstance(value, list):
        return rng.choice([value[1:], value + value[:1], value[::-1], value + [0]])
    return dict(list(value.items())[1:]) if value else value


def change_value(value, raw: Raw, rng: random.Random) -> str:
    """Changes one value within a JSON value; says how."""
    places = _places(value)
    if not places:
        text = raw.put(rng.choice(ODD))
        value.update({"a": text}) if isinstance(value, dict) else value.append(text)
        return "put a value where there is none"
    # a vocabulary has hundreds of values that are alike: the first and last are as good
    container, key = rng.choice(places if rng.random() < 0.3 else places[:40] + places[-10:])
    how = rng.choice(["odd"] * 6 + ["near"] * 4 + ["delete", "name", "twice", "copy", "wrap"])
    where = f"{how} at {key!r:.40}"
    if how == "near":
        container[key] = _near(container[key], rng)
    elif how == "delete":
        del container[key]
    elif how in ("name", "twice") and isinstance(container, dict):
        name = rng.choice(NAMES) if how == "name" else f"@twice {key}"
        container[name] = container.pop(key) if how == "name" else container[key]
    elif how == "copy":
        other, other_key = rng.choice(places)
        if other_key in (other if isinstance(other, dict) else range(len(other))):
            container[key] = copy.deepcopy(other[other_key])
    elif how == "wrap":
        container[key] = rng.choice([[container[key]], {"content": container[key]}])
    else:
        text = rng.choice(ODD)
        container[key] = raw.put(text)
        where += f": {text[:40]!r}"
    return where


def change_json(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    value = _parsed(data)
    if value is None:
        return change_bytes(data, rng)
    raw = Raw()
    what = change_value(value, raw, rng)
    return raw.write(value), what


def change_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    j = min(j, i + 20)
    noise = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
    changed = {
        "cut": data[:i],
        "lose": data[:i] + data[j:],
        "repeat": data[:j] + data[i:],
        "insert": data[:i] + noise + data[i:],
        "put over": data[:i] + noise + data[i + len(noise) :],
        "begin with": rng.choice([b"\xef\xbb\xbf", b" ", b"\0", b"\xff\xfe", b"\n"]) + data,
        "end with": data + rng.choice([b" ", b"\0", b"\n", b"{}", b"\x80", b" \n \t"]),
        "empty": b"",
    }
    how = rng.choice(list(changed))
    return changed[how], f"{how} at byte {i}"


# How a safetensors file is changed


def change_weights(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    n_header = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    header = _parsed(data[8 : 8 + n_header])
    if not isinstance(header, dict) or rng.random() < 0.1:
        return change_bytes(data, rng)
    tensors = data[8 + n_header :]
    raw = Raw()
    how = rng.choice(["value"] * 3 + ["layout"] * 4 + ["padding", "length", "data", "order"])
    padding = before = b""
    more = 0
    if how == "value":
        how = change_value(header, raw, rng)
    elif how == "layout":
        how, tensors = change_layout(header, tensors, rng)
    elif how == "padding":
        padding = rng.choice([b" ", b"\n", b"\t", b"\0", b"x", b" " * 9, b"\r\n", b"\v"])
        before = rng.choice([b"", b"", b" ", b"\n"])
    elif how == "length":
        more = rng.choice([-8, -1, 1, 8, 1 << 20, 1 << 40, (1 << 63) - 1000])
    elif how == "data":
        i = rng.randrange(len(tensors) // 4 + 1) * 4
        value = rng.choice(["nan", "inf", "-inf", "1e-40", "3e38"])
        tensors = tensors[:i] + struct.pack("<f", float(value)) + tensors[i + 4 :]
        how = f"{value} at byte {i}"
    else:
        header = dict(sorted(header.items(), key=lambda item: rng.random()))
    text = before + raw.write(header) + padding
    length = max(0, len(text) + more) % (1 << 64)
    return struct.pack("<Q", length) + text + tensors, how


def change_layout(header: dict, data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Changes where tensors lie, and what they are, in ways that a careless reader believes."""
    names = [name for name, entry in header.items() if _is_entry(entry)]
    if len(names) < 2:
        return "nothing", data
    one, other = rng.sample(names, 2)
    entry = header[one]
    start, end = entry["data_offsets"]
    how = rng.choice(
        ["shift", "start", "end", "swap", "share", "dtype", "dimensions", "empty", "extra",
         "trailing", "hole", "zero", "metadata", "one more"]
    )  # fmt: skip
    if how == "shift":
        by = rng.choice([-8, -4, -1, 1, 4, 8, 1 << 62, -(1 << 62)])
        entry["data_offsets"] = [start + by, end + by]
    elif how == "start":
        entry["data_offsets"] = [start + rng.choice([-4, -1, 1, 4]), end]
    elif how == "end":
        entry["data_offsets"] = [start, end + rng.choice([-4, -1, 1, 4])]
    elif how == "swap":
        header[one], header[other] = header[other], header[one]
    elif how == "share":
        entry["data_offsets"] = list(header[other]["data_offsets"])
    elif how == "dtype":
        entry["dtype"] = rng.choice(
            ["I32", "U32", "F32", "F16", "BF16", "U8", "BOOL", "F64", "C64", "F8_E8M0", "F4", "f32"]
        )
    elif how == "dimensions":
        shape = entry["shape"]
        entry["shape"] = rng.choice(
            [shape[::-1], [1, *shape], [*shape, 1], [-1, *shape], [2, *shape], [1] * 33 + shape]
        )
    elif how == "empty":
        header[rng.choice(["h.0.attn.bias", "h.0.attn.masked_bias", "x"])] = {
            "dtype": rng.choice(["F32", "U8", "F8_E4M3"]),
            "shape": rng.choice(
                [[0], [0, 5], [1 << 62, 0, 8], [1 << 64, 0], [0, 1 << 63, 1 << 63]]
            ),
            "data_offsets": [end, end],
        }
    elif how == "extra":
        header[rng.choice(["h.0.attn.bias", "lm_head.weight", "x", "\0", LONG])] = entry
        if rng.random() < 0.5:
            del header[one]
    elif how == "trailing":
        data = data + bytes(rng.choice([1, 8, 4096]))
    elif how == "hole":
        by = rng.choice([1, 4, 8])
        for name in names:
            if header[name]["data_offsets"][0] >= start:
                header[name]["data_offsets"] = [n + by for n in header[name]["data_offsets"]]
        data = data[:start] + bytes(by) + data[start:]
    elif how == "zero":
        entry["data_offsets"] = [start, start]
        entry["shape"] = [0, *entry["shape"]]
    elif how == "metadata":
        header["__metadata__"] = rng.choice([None, {}, {"a": 1}, {"a": None}, [], "x", {"a": {}}])
    else:  # one that is not aligned, and moves the others
        by = rng.choice([1, 3, 16])
        for name in names:
            header[name]["data_offsets"] = [n + by for n in header[name]["data_offsets"]]
        header["h.0.attn.bias"] = {"dtype": "U8", "shape": [by], "data_offsets": [0, by]}
        data = bytes(by) + data
    return f"{how} of {one:.40}", data


def _is_entry(entry) -> bool:
    """Whether it describes a tensor as it should."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    offsets = entry["data_offsets"]
    return (
        isinstance(entry["shape"], list)
        and isinstance(offsets, list)
        and [type(n) for n in offsets] == [int, int]
    )


# How a directory is changed


def mutate(files: dict, others: list[dict], rng: random.Random) -> tuple[dict, str]:
    """The files of a directory with one to three changes, and what they are."""
    files = dict(files)
    what = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        weights = [name for name in files if name.endswith(".safetensors")]
        rest = [name for name in files if name not in weights]
        name = rng.choice(weights if weights and rng.random() < 0.4 else rest or weights)
        if not isinstance(files[name], bytes) or rng.random() < 0.06:
            files[name], how = change_file(name, others, rng)
        elif name in weights:
            files[name], how = change_weights(files[name], rng)
        elif name.endswith(".json") and rng.random() < 0.85:
            files[name], how = change_json(files[name], rng)
        else:
            files[name], how = change_bytes(files[name], rng)
        files = {name: content for name, content in files.items() if content is not None}
        what.append(f"{name}: {how}")
        if not files:
            break
    return files, "; ".join(what)


def change_file(name: str, others: list[dict], rng: random.Random):
    """What stands in the place of a file, or None, and what that is."""
    options = {
        "nothing": None,
        "a directory": Folder(),
        "a link to nothing": Link("nonexistent"),
        "a link to itself": Link(name),
        "another model's": rng.choice(others).get(name),
    }
    how = rng.choice(list(options))
    return options[how], how


# How it is read


#: what a database answers to a query that has a text in it
ANSWERS = {
    "gpt2._add_model": [(1,)],
    "gpt2._add_tokenizer": [(2,)],
    "m.page_size": [(4, 12345)],
}


class Listener:
    """A database that takes everything: what it was told is in digest and arguments."""

    def __init__(self):
        self.digest = hashlib.sha256()
        self.arguments: list[tuple] = []

    def execute(self, sql, *arguments):
        self.arguments.append(arguments)
        return next((rows for text, rows in ANSWERS.items() if text in sql), [])

    def copy(self, table, columns, chunks):
        self.digest.update(f"{table} {columns}".encode())
        for chunk in chunks:
            self.digest.update(chunk)


class Options(NamedTuple):
    """What the user says: which vocabulary is meant, and the type of the weights."""

    tokenizer: str | None
    dtype: str


#: what differs from the first is asked for less often
OPTIONS = (
    *[Options(None, "float32")] * 6,
    *[Options(None, "float16")] * 2,
    Options("gpt2", "float32"),
)


class Wrong(NamedTuple):
    """What should not be: of a kind of KINDS, in words."""

    kind: str
    text: str


#: an exception that nobody worded; the readers do not see the same; an error's words
KINDS = ("tracebacks", "differences", "bad words")


def load(directory: str, read_tensor, options: Options) -> tuple:
    """What an importer makes of a directory: what it loads, or the error as it words it."""
    listener = Listener()
    try:
        found = checkpoint.Checkpoint(directory, read_tensor, tokenizer=options.tokenizer)
        importer.load(listener, found, "m", directory, dtype=options.dtype)
    except LoadError as error:
        return "refused", error.sqlstate, error.message, error.detail, error.hint
    except OSError as error:
        error = from_os_error(error)
        return "refused", error.sqlstate, error.message, error.detail, error.hint
    return "loaded", listener.digest.hexdigest(), listener.arguments


def compare_importers(directory: str, options: Options) -> tuple[str, list[Wrong]]:
    """What the importers do (loaded, an error's code, or raised), and what is wrong with it."""
    outcomes = {}
    for door, read_tensor in (("client", client.read_tensor), ("server", server.read_tensor)):
        try:
            outcomes[door] = load(directory, read_tensor, options)
        except Exception as error:  # that is what is looked for
            return "raised", [Wrong("tracebacks", f"{door} raised {error!r:.300}")]
    ours, theirs = outcomes["client"], outcomes["server"]
    wrong = []
    if ours != theirs:
        wrong.append(Wrong("differences", f"client {ours!r:.300}, server {theirs!r:.300}"))
    if ours[0] == "loaded":
        return "loaded", wrong
    _, sqlstate, message, detail, hint = ours
    wrong += [
        Wrong("bad words", f"{text!r:.300}")
        for text in (message, detail, hint)
        if not _is_good(text)
    ]
    if "changed while it was read" in message:
        wrong.append(Wrong("differences", f"only the package refuses it: {detail:.300}"))
    return sqlstate, wrong


def _is_good(text: str | None) -> bool:
    return text is None or (
        len(text) < LONGEST and "\0" not in text and _encodes(text) and not PYTHON.search(text)
    )


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def compare_headers(path: str) -> list[Wrong]:
    """Where our reader and the package disagree about a file."""
    try:
        with safe_open(path, framework="numpy") as file:
            package = {}
            for name in file.keys():  # noqa: SIM118  it is no dict
                part = file.get_slice(name)
                package[name] = (part.get_dtype(), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        package = error
    try:
        own = read_header(path)
    except (LoadError, OSError) as error:
        detail = getattr(error, "detail", None)
        if isinstance(package, Exception) or any(text in detail for text in STRICTER):
            return []
        return [Wrong("differences", f"we refuse what the package takes: {detail:.300}")]
    except Exception as error:  # that is what is looked for
        return [Wrong("tracebacks", f"our reader raised {error!r:.300}")]
    if isinstance(package, Exception):
        return [Wrong("differences", f"the package refuses what we take: {package!r:.300}")]
    if {name: (tensor.dtype, tensor.shape) for name, tensor in own.items()} != package:
        return [Wrong("differences", "we and the package see other tensors")]
    return [
        Wrong("differences", f"tensor {name:.40} has other values")
        for name, tensor in own.items()
        if tensor.dtype in server.DTYPES and tensor.shape and 0 not in tensor.shape
        if not np.array_equal(
            np.float32(client.read_tensor(tensor, 0, tensor.shape[0])),
            np.float32(server.read_tensor(tensor, 0, tensor.shape[0])),
            equal_nan=True,
        )
    ]


class Result(NamedTuple):
    """number: of the mutation; what: the changes; outcome: loaded, the code of the error by which
    it is refused, or raised; wrong: what should not be."""

    number: int
    what: str
    outcome: str
    wrong: list[Wrong]


def run(seed: int, first: int, n_files: int, keep: Path | None = None) -> Iterator[Result]:
    """Mutations first .. first + n_files - 1 of a seed; those that fail are kept in a directory."""
    originals = bases()
    for number in range(first, first + n_files):
        rng = random.Random(f"{seed}/{number}")
        options = rng.choice(OPTIONS)
        files, what = mutate(originals[number % len(originals)], originals, rng)
        with tempfile.TemporaryDirectory(prefix="gpt2_fuzz.") as folder:
            write_files(Path(folder), files)
            outcome, wrong = compare_importers(folder, options)
            for name, content in files.items():
                if name.endswith(".safetensors") and isinstance(content, bytes):
                    wrong += compare_headers(f"{folder}/{name}")
        if wrong and keep:
            kept = keep / f"{seed}-{number}"
            kept.mkdir(parents=True, exist_ok=True)
            write_files(kept, files)
        yield Result(number, f"{what} ({options.tokenizer}, {options.dtype})", outcome, wrong)


BLOCK = 250  # mutations that a process takes at once


def _block(seed: int, first: int, n_files: int, keep: Path | None) -> list[Result]:
    return list(run(seed, first, n_files, keep))


def run_all(
    seed: int, first: int, n_files: int, keep: Path | None = None
) -> Iterator[list[Result]]:
    """The same as run(), a process a core, in lists that come as they are done."""
    end = first + n_files
    # not forks: pytest's processes have threads
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        blocks = [
            pool.submit(_block, seed, start, min(BLOCK, end - start), keep)
            for start in range(first, end, BLOCK)
        ]
        for block in as_completed(blocks):
            yield block.result()


def table(outcomes: Counter, wrong: Counter) -> Iterable[str]:
    """What came of the mutations, a line a count."""
    refused = {code: n for code, n in outcomes.items() if code not in ("loaded", "raised")}
    rows = [
        ("files", outcomes.total()),
        ("loaded", outcomes["loaded"]),
        ("refused", sum(refused.values())),
        *((f"  {code}", n) for code, n in sorted(refused.items())),
        *((kind, wrong[kind]) for kind in KINDS),
    ]
    return (f"{name:<12}{n:>9,}" for name, n in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=2000, help="how many mutations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--keep", type=Path, help="directory for those that fail")
    options = parser.parse_args()
    outcomes, wrong = Counter(), Counter()
    seed = options.seed
    with tqdm(total=options.files, unit=" files", desc="files", mininterval=1) as progress:
        for results in run_all(seed, options.first, options.files, options.keep):
            progress.update(len(results))
            for result in results:
                outcomes[result.outcome] += 1
                for kind, text in result.wrong:
                    wrong[kind] += 1
                    progress.write(
                        f"{kind}: {text}\n    {result.what}\n"
                        "    again: PYTHONPATH=tests build/venv/bin/python -m fuzz "
                        f"--seed {seed} --first {result.number} --files 1"
                    )
    print("\n".join(table(outcomes, wrong)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
