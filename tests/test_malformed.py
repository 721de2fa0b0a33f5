"""Malformed model directories: JSON of the right syntax and the wrong content, what is too large,
and what is no file. Each by both importers; tests/fuzz.py has what nobody thought of."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import PROPERTY
from fuzz import LONGEST, PYTHON, server
from gpt2_loader import client, files, safetensors_header, vocabulary
from gpt2_loader.checkpoint import Checkpoint
from gpt2_loader.errors import LoadError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_loader import (  # noqa: F401  fixtures among them
    CONFIG,
    Refused,
    database,
    db,
    directory,
    entry,
    file_of,
    has_plpython,
    load_by_client,
    make_tensors,
    readable,
    refused,
    tokenizer_json,
    write,
    write_vocabulary,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"
HUGE = "1" + "0" * 100_000
MEGABYTE = "x" * 1_000_000


@pytest.fixture(scope="module")
def session(database):  # noqa: F811
    """One session of the server, which starts Python once."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=["client", "server"])
def load(request, database, session):  # noqa: F811
    """load(directory): by one importer, then by the other, as the model "m"."""

    def by_server(folder: Path) -> None:
        readable(folder)
        try:
            session.execute("SELECT gpt2_load_model(%s, 'm')", [str(folder)])
        except psycopg.Error as error:
            raise refused(error) from error

    if request.param == "client":
        return lambda folder: load_by_client(database, folder, tokenizer=None)
    if not has_plpython(session):
        pytest.skip("the server has no PL/Python")
    return by_server


def write_model(folder: Path) -> None:
    """A model of 260 tokens with a vocabulary, in the files that all models have."""
    config = CONFIG | {"vocab_size": 260}
    write(folder, make_tensors(config), config)
    write_vocabulary(folder)


def write_shard(folder: Path) -> None:
    """Its weights in a shard, with an index."""
    (folder / WEIGHTS).rename(folder / SHARD)
    names = safetensors_header.read_header(str(folder / SHARD))
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, SHARD)}))


def write_tokenizer_json(folder: Path, **changes) -> None:
    """tokenizer.json in the place of vocab.json and merges.txt; model__x is x of its model."""
    tokens = write_vocabulary(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    content = tokenizer_json(tokens)
    for key, value in changes.items():
        part, _, option = key.partition("__")
        content[part] = {**content[part], option: value} if option else value
    (folder / "tokenizer.json").write_text(json.dumps(content))


def refusal(load, directory) -> Refused:  # noqa: F811
    """The error of a directory, which has to be worded, and no longer than can be read."""
    with pytest.raises(Refused) as error:
        load(directory)
    for text in (error.value.message, error.value.detail, error.value.hint or ""):
        assert len(text) < LONGEST
        assert not PYTHON.search(text)
    assert error.value.message and error.value.detail
    return error.value


# Wrong content


def raw(name: str, text: str):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def of(name: str, content):
    return raw(name, json.dumps(content))


def config(**changes):
    return of("config.json", CONFIG | {"vocab_size": 260} | changes)


def config_number(text: str, key: str = "n_layer"):
    """config.json with a number as it is written."""
    content = json.dumps(CONFIG | {"vocab_size": 260, key: "NUMBER"})
    return raw("config.json", content.replace('"NUMBER"', text))


def header(content: dict, data: bytes = b""):
    return lambda folder: (folder / WEIGHTS).write_bytes(file_of(content, data))


def tokenizer(**changes):
    return lambda folder: write_tokenizer_json(folder, **changes)


def index(weight_map):
    def apply(folder: Path) -> None:
        write_shard(folder)
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return apply


def named_tensor(name: str):
    """One more tensor in the file."""

    def apply(folder: Path) -> None:
        path = folder / WEIGHTS
        data = path.read_bytes()
        n_header = struct.unpack("<Q", data[:8])[0]
        content = json.loads(data[8 : 8 + n_header])
        end = len(data) - 8 - n_header
        content[name] = entry(end, end + 8)
        path.write_bytes(file_of(content, data[8 + n_header :] + bytes(8)))

    return apply


NOT_TEXT = "has U+0000, or half a surrogate pair"
WRONG = {
    # config.json
    "activation in a list": (config(activation_function=["gelu_new"]), "22000", "activation_function is not a text"),
    "activation is an object": (config(activation_function={}), "22000", "activation_function is not a text"),
    "activation of 1 MB": (config(activation_function=MEGABYTE), "0A000", '"xxxx'),
    "architectures is a number": (config(architectures=5), "22000", "architectures is not a list: 5"),
    "architectures is a text": (config(architectures="GPT2Model"), "22000", 'architectures is not a list: "GPT2Model"'),
    "architectures of numbers": (config(architectures=[5]), "0A000", "architecture 5 is not supported"),
    "architectures of lists": (config(architectures=[["GPT2Model"]]), "0A000", "is not supported"),
    "model_type is a list": (config(model_type=["gpt2"]), "0A000", 'model_type ["gpt2"] is not supported'),
    "model_type with NUL": (config(model_type="gpt2\0"), "22P03", NOT_TEXT),
    "model_type with half a pair": (config(model_type="gpt2\ud800"), "22P03", NOT_TEXT),
    "a key with NUL": (config(**{"a\0": 1}), "22P03", NOT_TEXT),
    "a text deep within": (config(a=[{"b": [["\udc00"]]}]), "22P03", NOT_TEXT),
    "tokenizer_class is a list": (config(tokenizer_class=["a"]), "0A000", 'its tokenizer_class is ["a"]'),
    "NaN": (config_number("NaN"), "22P03", "NaN is not a number that JSON has"),
    "Infinity": (config_number("Infinity"), "22P03", "Infinity is not a number that JSON has"),
    "-Infinity": (config_number("-Infinity", "eos_token_id"), "22P03", "-Infinity is not a number"),
    "1e999": (config_number("1e999", "layer_norm_epsilon"), "22P03", "The number 1e999 is too large"),
    "-0": (config_number("-0", "n_inner"), "22000", "n_inner is not a positive integer: -0.0"),
    "10**100000": (config_number(HUGE), "22P03", "A number has 100001 digits"),
    "10**100000 in a list": (config_number(f"[1, {HUGE}]", "eos_token_id"), "22P03", "A number has 100001 digits"),
    "10**90": (config_number("1" + "0" * 90, "n_embd"), "0A000", "is not supported"),
    "10**90 blocks": (config_number("1" + "0" * 90), "22000", 'tensor "h.2.ln_1.weight" is missing'),
    "deep": (config(a=json.loads("[" * 70 + "]" * 70)), "22P03", "nested deeper than 64"),
    "very deep": (raw("config.json", '{"a":' * 50_000 + "1" + "}" * 50_000), "22P03", "nested deeper than 64"),
    "a long key twice": (raw("config.json", f'{{"{MEGABYTE}": 1, "{MEGABYTE}": 2}}'), "22P03", "is there twice"),
    "a byte order mark": (raw("config.json", "\ufeff{}"), "22P03", "begins with a byte order mark"),
    "a byte that is not UTF-8": (lambda d: (d / "config.json").write_bytes(b'{"a": "\xe9"}'), "22P03", "Byte 7, 0xe9"),
    "n_embd is 0": (config(n_embd=0), "22000", "n_embd is not a positive integer: 0"),
    "n_positions is a fraction": (config(n_positions=16.5), "22000", "n_positions is not a positive integer: 16.5"),
    "vocab_size is a text": (config(vocab_size="260"), "22000", 'vocab_size is not a positive integer: "260"'),
    "n_layer is a long text": (config(n_layer=MEGABYTE), "22000", "n_layer is not a positive integer"),
    # generation_config.json
    "eos is an object": (of("generation_config.json", {"eos_token_id": {}}), "22000", "eos_token_id is not a token id: {}"),
    "eos in lists": (of("generation_config.json", {"eos_token_id": [[1]]}), "22000", "eos_token_id is not a token id: [1]"),
    "eos is a list of null": (of("generation_config.json", {"eos_token_id": [None]}), "22000", "eos_token_id is not a token id: null"),
    "bos is a fraction": (of("generation_config.json", {"bos_token_id": 1.5}), "22000", "bos_token_id is not a token id: 1.5"),
    "generation is a list": (of("generation_config.json", []), "22P03", "Its JSON is not an object"),
    # the header of a safetensors file
    "metadata with numbers": (header({"__metadata__": {"a": 1}}), "22P03", "__metadata__ is not an object of texts"),
    "metadata is null": (header({"__metadata__": None}), "22P03", "__metadata__ is not an object of texts"),
    "metadata is a text": (header({"__metadata__": "a"}), "22P03", "__metadata__ is not an object of texts"),
    "a tensor's name of 1 MB": (named_tensor(MEGABYTE), "0A000", "is not one of GPT-2's"),
    "a tensor's name with NUL": (named_tensor("a\0"), "22P03", NOT_TEXT),
    "a tensor's name with half a pair": (named_tensor("a\ud800"), "22P03", NOT_TEXT),
    "a tensor's name with an escape": (named_tensor("\x1b[2J\x9b"), "0A000", r'"\u001b[2J\x9b"'),
    "a tensor with and without transformer.": (named_tensor("wte.weight"), "22000", 'tensor "wte.weight" is there twice'),
    "an offset of -0": (lambda d: (d / WEIGHTS).write_bytes(file_of(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[-0,0]}}')), "22P03", "offsets [-0.0, 0]"),
    "an offset of 10**100000": (lambda d: (d / WEIGHTS).write_bytes(file_of(b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,0]}}' % HUGE.encode())), "22P03", "A number has 100001 digits"),
    "an offset is NaN": (lambda d: (d / WEIGHTS).write_bytes(file_of(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}')), "22P03", "NaN is not a number"),
    "a size of 65 bits": (header({"a": entry(0, 0, shape=(0, 1 << 64))}), "22P03", "shape [0, 18446744073709551616]"),
    "an empty tensor that overflows": (header({"a": entry(0, 0, shape=(1 << 62, 8, 0))}), "22P03", "has the shape"),
    "33 dimensions": (header({"a": entry(0, 4, shape=[1] * 33)}, bytes(4)), "22P03", "has the shape"),
    "100,000 dimensions": (header({"a": entry(0, 0, shape=[1 << 62] * 100_000)}), "22P03", "has the shape"),
    "a dtype of 1 MB": (header({"a": entry(0, 8, dtype=MEGABYTE)}, bytes(8)), "22P03", "has the unknown dtype"),
    # model.safetensors.index.json
    "no weight_map": (index(None), "22000", "weight_map is not an object: null"),
    "weight_map is a list": (index([SHARD]), "22000", "weight_map is not an object"),
    "a shard is a number": (index({"a": 5}), "22000", "a shard in weight_map is not a text: 5"),
    "a shard is null": (index({"a": None}), "22000", "a shard in weight_map is not a text: null"),
    "a shard is a list": (index({"a": [SHARD]}), "22000", "a shard in weight_map is not a text"),
    "a shard above": (index({"a": "../x.safetensors"}), "22000", 'names "../x.safetensors"'),
    "a shard below": (index({"a": "x/y.safetensors"}), "22000", 'names "x/y.safetensors"'),
    "an absolute shard": (index({"a": "/etc/x.safetensors"}), "22000", 'names "/etc/x.safetensors"'),
    "an empty shard": (index({"a": ""}), "22000", 'names ""'),
    "a shard of another kind": (index({"a": "config.json"}), "22000", 'names "config.json"'),
    "a shard's name of 1 MB": (index({"a": f"{MEGABYTE}.safetensors"}), "22000", 'names "xxx'),
    "a shard with NUL": (index({"a": "a\0.safetensors"}), "22P03", NOT_TEXT),
    "a shard with half a pair": (index({"a": "\ud800.safetensors"}), "22P03", NOT_TEXT),
    "a tensor of 1 MB in the index": (index({MEGABYTE: SHARD}), "22000", '"xxxx'),
    # vocab.json and merges.txt
    "vocab is a list": (raw("vocab.json", "[]"), "22P03", "Its JSON is not an object"),
    "a token's id is a list": (of("vocab.json", {"a": []}), "22000", 'The id of "a" is not a number'),
    "a token's id is true": (of("vocab.json", {"a": True}), "22000", 'The id of "a" is not a number'),
    "a token with NUL": (of("vocab.json", {"a\0": 0}), "22P03", NOT_TEXT),
    "a token with half a pair": (of("vocab.json", {"\udfff": 0}), "22P03", NOT_TEXT),
    "a merge of 1 MB": (raw("merges.txt", MEGABYTE), "22000", "is not of its tokens"),
    "a merge of spaces": (raw("merges.txt", "a" + " " * 1_000_000 + "b"), "22000", "is not of its tokens"),
    # tokenizer.json
    "model is a list": (tokenizer(model=[]), "22000", "model is not an object: []"),
    "model's type is a list": (tokenizer(model__type=["BPE"]), "0A000", 'its model is ["BPE"], not BPE'),
    "vocab is a text": (tokenizer(model__vocab="a"), "22000", 'vocab is not an object: "a"'),
    "merges is an object": (tokenizer(model__merges={}), "22000", "merges is not a list: {}"),
    "a merge is a number": (tokenizer(model__merges=[5]), "22000", "a merge is not a list: 5"),
    "a merge is an object": (tokenizer(model__merges=[{}]), "22000", "a merge is not a list: {}"),
    "a merge of lists": (tokenizer(model__merges=[["a", []]]), "22000", "a part of a merge is not a text: []"),
    "a merge of three": (tokenizer(model__merges=[["a", "b", "c"]]), "22000", 'The merge "a b c" is not of its tokens'),
    "dropout is a list": (tokenizer(model__dropout=[]), "0A000", "dropout is set"),
    "pre_tokenizer is a list": (tokenizer(pre_tokenizer=["ByteLevel"]), "22000", "pre_tokenizer is not an object"),
    "post_processor is a text": (tokenizer(post_processor="ByteLevel"), "22000", "post_processor is not an object"),
    "single is an object": (tokenizer(post_processor={"type": "TemplateProcessing", "single": {}}), "22000", "single is not a list"),
    "a part is a text": (tokenizer(post_processor={"type": "TemplateProcessing", "single": ["SpecialToken"]}), "22000", "a part of post_processor is not an object"),
    "added_tokens is an object": (tokenizer(added_tokens={}), "22000", "added_tokens is not a list"),
    "an added token is a text": (tokenizer(added_tokens=["a"]), "22000", 'an added token is not an object: "a"'),
    "an added token without id": (tokenizer(added_tokens=[{"content": "<s>"}]), "22000", "the id of an added token is not an integer: null"),
    "an added token's id is a text": (tokenizer(added_tokens=[{"content": "<s>", "id": "260"}]), "22000", "the id of an added token is not an integer"),
    "an added token's id is below 0": (tokenizer(added_tokens=[{"content": "<s>", "id": -1}]), "22000", 'The id of "<s>" is not a number from 0 on'),
    "an added token's content is a list": (tokenizer(added_tokens=[{"content": ["<s>"], "id": 260}]), "22000", "the content of an added token is not a text"),
    "an added token is empty": (tokenizer(added_tokens=[{"content": "", "id": 260}]), "22000", "An added token is empty"),
    "special is a number": (tokenizer(added_tokens=[{"content": "<s>", "id": 260, "special": 1}]), "22000", "special is not true or false: 1"),
    "normalized is a text": (tokenizer(added_tokens=[{"content": "<s>", "id": 260, "normalized": "no"}]), "22000", "normalized is not true or false"),
    "lstrip is a list": (tokenizer(added_tokens=[{"content": "<s>", "id": 260, "lstrip": []}]), "0A000", "lstrip is set"),
    "a token of 501 characters": (tokenizer(added_tokens=[{"content": "x" * 501, "id": 260}]), "0A000", "it has 501 characters in a token, more than 500"),
    "words for 1 MB": (tokenizer(added_tokens=[{"content": f"{i:0500}", "id": 260 + i} for i in range(2001)]), "0A000", "it has 1000513 characters in added tokens, more than 1000000"),
    # the other files of a tokenizer
    "options are a list": (of("tokenizer_config.json", []), "22P03", "Its JSON is not an object"),
    "add_bos_token is a text": (of("tokenizer_config.json", {"add_bos_token": "no"}), "0A000", "add_bos_token is set"),
    "class is a number": (of("tokenizer_config.json", {"tokenizer_class": 5}), "0A000", "its tokenizer_class is 5"),
    "decoder is a list": (of("tokenizer_config.json", {"added_tokens_decoder": []}), "22000", "added_tokens_decoder is not an object"),
    "decoder of numbers": (of("tokenizer_config.json", {"added_tokens_decoder": {"260": 5}}), "22000", "an added token is not an object: 5"),
    "decoder by names": (of("tokenizer_config.json", {"added_tokens_decoder": {"a": {"content": "a"}}}), "22000", 'The id "a" is not a number from 0 on'),
    "decoder by Arabic digits": (of("tokenizer_config.json", {"added_tokens_decoder": {"٣": {"content": "a"}}}), "22000", "is not a number from 0 on"),
    "decoder by huge numbers": (of("tokenizer_config.json", {"added_tokens_decoder": {HUGE: {"content": "a"}}}), "22000", "is not a number from 0 on"),
    "eos_token is a number": (of("tokenizer_config.json", {"eos_token": 5}), "22000", "an added token is not an object: 5"),
    "eos_token is a list": (of("special_tokens_map.json", {"eos_token": ["</s>"]}), "22000", "an added token is not an object"),
    "eos_token with NUL": (of("special_tokens_map.json", {"eos_token": "\0"}), "22P03", NOT_TEXT),
    "eos_token without content": (of("special_tokens_map.json", {"eos_token": {"id": 5}}), "22000", "the content of an added token is not a text: null"),
    "special tokens are a text": (of("special_tokens_map.json", {"additional_special_tokens": "<s>"}), "22000", 'additional_special_tokens is not a list: "<s>"'),
    "special tokens are numbers": (of("special_tokens_map.json", {"extra_special_tokens": [5]}), "22000", "an added token is not an object: 5"),
    "map is a text": (of("special_tokens_map.json", "a"), "22P03", "Its JSON is not an object"),
    "added_tokens.json is a list": (of("added_tokens.json", ["a"]), "22P03", "Its JSON is not an object"),
    "an added id is a list": (of("added_tokens.json", {"a": [260]}), "22000", 'The id of "a" is not a number from 0 on'),
    "an added id is below 0": (of("added_tokens.json", {"<s>": -5}), "22000", 'The id of "<s>" is not a number from 0 on'),
    "an added token with half a pair": (of("added_tokens.json", {"\ud800": 260}), "22P03", NOT_TEXT),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content(load, directory, case):  # noqa: F811
    apply, sqlstate, text = WRONG[case]
    write_model(directory)
    apply(directory)
    error = refusal(load, directory)
    assert error.sqlstate == sqlstate, error
    assert text in f"{error.message}\n{error.detail}"


@pytest.mark.parametrize("options", [{}, {"add_bos_token": False, "pad_token": None}])
def test_what_models_have(db, load, directory, options):  # noqa: F811
    """What looks odd and is not: 10^30, and options that are called like tokens."""
    write_model(directory)
    more = {"model_max_length": int(1e30), "eos_token": {"content": "<|endoftext|>"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(more | options))
    load(directory)


# What is too large

TOO_LARGE = {
    "config.json": files.MAX_OPTIONS,
    "generation_config.json": files.MAX_OPTIONS,
    "tokenizer_config.json": files.MAX_OPTIONS,
    "special_tokens_map.json": files.MAX_OPTIONS,
    "added_tokens.json": files.MAX_VOCABULARY,
    "vocab.json": files.MAX_VOCABULARY,
    "merges.txt": files.MAX_VOCABULARY,
    "tokenizer.json": files.MAX_VOCABULARY,
    INDEX: files.MAX_INDEX,
}


def write_so_that_it_is_read(folder: Path, name: str) -> Path:
    """A model for which the file of a name, which is removed, would be read; its path."""
    write_model(folder)
    if name in (INDEX, SHARD):
        write_shard(folder)
    path = folder / name
    path.unlink(missing_ok=True)
    return path


def sparse(path: Path, size: int, begin: bytes = b"") -> None:
    """A file of that size that takes no space."""
    path.write_bytes(begin)
    os.truncate(path, size)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large(load, directory, name):  # noqa: F811
    sparse(write_so_that_it_is_read(directory, name), 2_000_000_000)
    error = refusal(load, directory)
    assert (error.sqlstate, error.message) == ("54000", f'file "{directory / name}" is too large')
    assert error.detail == f"It has 2000000000 bytes or more; at most {TOO_LARGE[name]} are read."


def test_as_large_as_may_be(db, load, directory):  # noqa: F811
    """The limit is the last size that is taken."""
    write_model(directory)
    path = directory / "config.json"
    content = path.read_bytes()
    path.write_bytes(content + b" " * (files.MAX_OPTIONS - len(content)))
    load(directory)
    path.write_bytes(content + b" " * (files.MAX_OPTIONS - len(content) + 1))
    assert refusal(load, directory).sqlstate == "54000"


MANY = {
    "a header of 99 MB": (WEIGHTS, lambda: file_of(b"{" + b"{}," * 33_000_000)[:20_000_000], "22P03", "at most 10000000"),
    "a header of objects": (WEIGHTS, lambda: file_of(b'{"a":[' + b"{}," * 3_000_000 + b"{}]}"), "54000", "at most 2000000"),
    "a vocabulary of lists": ("vocab.json", lambda: b"[" + b"[]," * 10_000_000 + b"[]]", "54000", "at most 2000000"),
    "merges of nothing": ("merges.txt", lambda: b"\n" * 30_000_000, "54000", "lines; at most 2000000"),
    "a tokenizer.json of commas": ("tokenizer.json", lambda: b"[" + b"0," * 15_000_000 + b"0]", "54000", "at most 2000000"),
}  # fmt: skip


@pytest.mark.parametrize("case", MANY)
def test_too_many_values(load, directory, case):  # noqa: F811
    name, content, sqlstate, text = MANY[case]
    write_so_that_it_is_read(directory, name).write_bytes(content())
    error = refusal(load, directory)
    assert error.sqlstate == sqlstate
    assert text in error.detail


def test_too_many_tokens(directory, monkeypatch):  # noqa: F811
    write_model(directory)
    monkeypatch.setattr(vocabulary, "MAX_TOKENS", 259)
    with pytest.raises(LoadError, match="it has 260 tokens, more than 259"):
        read(directory)


def read(folder: Path) -> None:
    Checkpoint(str(folder), client.read_tensor)


@pytest.mark.parametrize("size", [2_000_000_000, files.MAX_OPTIONS])
def test_memory_is_bounded(directory, size):  # noqa: F811
    """What is read is a few times the limit, at most: this is one file as large as may be."""
    write_model(directory)
    sparse(directory / "config.json", size, b"{")
    tracemalloc.start()
    try:
        with pytest.raises(LoadError):
            read(directory)
        assert tracemalloc.get_traced_memory()[1] < 5 * files.MAX_OPTIONS
    finally:
        tracemalloc.stop()


def test_nothing_is_kept_of_what_an_index_does_not_name(directory):  # noqa: F811
    write_model(directory)
    write_shard(directory)
    for name in ("a.safetensors", "b.safetensors"):
        more = {f"{name}.{i}": np.zeros(1, np.float32) for i in range(10)}
        save_file(more, directory / name)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"] |= {"a.safetensors.0": "a.safetensors", "b.safetensors.0": "b.safetensors"}
    (directory / INDEX).write_text(json.dumps(index))
    with pytest.raises(LoadError, match=r'tensor "a.safetensors.0" is not one of GPT-2'):
        read(directory)


WORD = st.text("ab", min_size=1, max_size=5)


@settings(PROPERTY, max_examples=200)
@given(texts=st.lists(WORD, max_size=3), others=st.lists(WORD, max_size=3))
def test_overlaps(texts, others):
    """Against each pair, part by part."""
    found = vocabulary._overlap(texts, others)
    pairs = {
        (a, b)
        for a in texts
        for b in others
        if a in b or any(b.endswith(a[:n]) for n in range(1, min(len(a), len(b))))
    }
    assert found in pairs if pairs else found is None


# What is no file

NAMES = (*TOO_LARGE, WEIGHTS, SHARD)


@pytest.fixture
def waiting():
    """waiting(path) makes a pipe. Whoever waits for it is let go after half a minute: the server's
    statement_timeout would not do that, the signal does not end open()."""
    timers = []

    def make(path: Path) -> None:
        def let_go() -> None:
            with open(os.open(path, os.O_RDWR | os.O_NONBLOCK), "wb"):
                pass

        os.mkfifo(path)
        timers.append(threading.Timer(30, let_go))
        timers[-1].start()

    yield make
    for timer in timers:
        timer.cancel()


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe(load, directory, waiting, name):  # noqa: F811
    path = write_so_that_it_is_read(directory, name)
    waiting(path)
    error = refusal(load, directory)
    assert (error.sqlstate, error.message) == ("42809", f'"{path}" is not a file')
    assert error.detail == "It is a pipe."
    assert error.hint


def test_names_beyond_ascii(new_database, directory):  # noqa: F811
    """Also in a database whose locale has none."""
    folder = directory / "modèle 模型"
    folder.mkdir()
    write_model(folder)
    write_shard(folder)
    shard = "é😀.safetensors"
    (folder / SHARD).rename(folder / shard)
    index = folder / INDEX
    index.write_text(index.read_text().replace(SHARD, shard))
    readable(directory)
    dsn = new_database("ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2 CASCADE")
        if not has_plpython(connection):
            pytest.skip("the server has no PL/Python")
        connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
        connection.execute("SELECT gpt2_load_model(%s)", [str(folder)])
        assert connection.execute("SELECT name FROM gpt2_models()").fetchone() == (folder.name,)
        (folder / shard).unlink()
        with pytest.raises(psycopg.Error) as error:
            connection.execute("SELECT gpt2_load_model(%s, 'm')", [str(folder)])
        assert error.value.diag.message_primary == f'could not read "{folder / shard}"'


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


OTHERS = {
    "a directory": Path.mkdir,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "merges.txt", WEIGHTS])
def test_other_kinds(load, directory, name, kind):  # noqa: F811
    path = write_so_that_it_is_read(directory, name)
    OTHERS[kind](path)
    error = refusal(load, directory)
    assert (error.sqlstate, error.message) == ("42809", f'"{path}" is not a file')
    assert error.detail == f"It is {kind}."


@pytest.mark.parametrize("name", ["config.json", "special_tokens_map.json", WEIGHTS])
def test_a_link(db, load, directory, name):  # noqa: F811
    """To a file it is one, as in the hub's cache; to nothing it is an error, not no file."""
    write_model(directory)
    path = directory / name
    target = directory / "blob"
    if path.exists():
        path.rename(target)
    else:
        target.write_text("{}")
    path.symlink_to("blob")
    load(directory)
    target.unlink()
    error = refusal(load, directory)
    assert (error.sqlstate, error.message) == ("58P01", f'could not read "{path}"')


def test_what_is_opened_is_looked_at_too(tmp_path, waiting, monkeypatch):
    """Where a pipe is put in a file's place between the two."""
    pipe = tmp_path / "pipe"
    waiting(pipe)
    a_file = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda *arguments, **more: a_file)
    with pytest.raises(LoadError, match="is not a file"):
        files.open_file(str(pipe))


READERS = {
    "client": lambda tensor: client.read_tensor(tensor, 0, 1),
    "server": lambda tensor: server.read_tensor(tensor, 0, 1),
    "hash": lambda tensor: files.sha256([tensor.path]),
}


def weights(folder: Path):
    """A tensor of a model whose header was read."""
    write_model(folder)
    return safetensors_header.read_header(str(folder / WEIGHTS))["transformer.wpe.weight"]


@pytest.mark.parametrize("reader", READERS)
def test_weights_become_a_pipe(directory, waiting, reader):  # noqa: F811
    tensor = weights(directory)
    os.unlink(tensor.path)
    waiting(tensor.path)
    with pytest.raises(LoadError, match="is not a file"):
        READERS[reader](tensor)


@pytest.mark.parametrize("reader", ["client", "server"])
def test_weights_are_cut_off(directory, reader):  # noqa: F811
    tensor = weights(directory)
    os.truncate(tensor.path, tensor.start + 10)
    with pytest.raises(LoadError, match="changed while it was read") as error:
        READERS[reader](tensor)
    assert error.value.detail


def test_weights_become_others(directory):  # noqa: F811
    tensor = weights(directory)
    save_file({tensor.name: np.zeros((16, 9), np.float32)}, tensor.path)
    with pytest.raises(LoadError, match="changed while it was read"):
        client.read_tensor(tensor, 0, 1)


@pytest.mark.parametrize(
    "value, text",
    [
        ("a", '"a"'),
        (None, "null"),
        ([True, 1.5, {"é": "Ġ"}], '[true, 1.5, {"é": "Ġ"}]'),
        ("\0\n\x1b\x7f\x9b\ud800\u202e", r'"\u0000\n\u001b\x7f\x9b\ud800\u202e"'),
        ("x" * 101, f'"{"x" * 100}..."'),
        ([1] * 1000, "[" + "1, " * 66 + "1..."),
    ],
)
def test_a_value_in_an_error(value, text):
    assert files.show(value) == text
