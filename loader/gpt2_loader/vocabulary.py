"""A model's vocabulary: the bytes of every token, and the merges that make tokens of bytes.

It comes as tokenizer.json, or as vocab.json and merges.txt; where a directory has neither, the
model uses GPT-2's own. Files write a byte as a printable character (bytes_to_unicode() in
openai/gpt-2, src/encoder.py).

Only GPT-2's way of tokenizing is supported: byte-level byte-pair encoding with its pattern for
words. Special tokens such as <|endoftext|> get their ids, but are ordinary text in a prompt.
"""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from gpt2_loader.errors import NO_FILE, UNSUPPORTED, WRONG_DATA, LoadError
from gpt2_loader.files import has, read_json, read_text

OWN_N_TOKEN = 50257  # GPT-2's own vocabulary, tokenizer 1 of the extension
END_OF_TEXT = b"<|endoftext|>"


class Vocabulary(NamedTuple):
    """tokens: the bytes of id 0, 1, ...; merges: (left, right, token) ids, the first goes first."""

    tokens: list
    merges: list

    def sha256(self):
        """Hash of what it holds, in hexadecimal: equal vocabularies in other files are equal.

        A line a token (its bytes in hexadecimal), an empty line, a line a merge (its three ids).
        """
        lines = [token.hex() for token in self.tokens]
        lines += [""]
        lines += ["%d %d %d" % merge for merge in self.merges]
        return hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()


def byte_encoder():
    """{character: byte}: the characters that stand for bytes, in the order of GPT-2's ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + n): byte for n, byte in enumerate(others)},
    }


def read_vocabulary(directory):
    """The vocabulary of a model directory, or None where it has none and GPT-2's own is meant."""
    options = "tokenizer_config.json"
    if has(directory, options):
        path = os.path.join(directory, options)
        config = read_json(path)
        for option in ("add_prefix_space", "add_bos_token"):
            if config.get(option):
                raise _unsupported(path, f"{option} is set")
    path = os.path.join(directory, "tokenizer.json")
    if os.path.isfile(path):
        try:
            return _read_tokenizer_json(path)
        except (AttributeError, KeyError, TypeError) as error:
            raise _wrong(path, f"A part of it is missing or of the wrong type: {error}.") from None

    names = ("vocab.json", "merges.txt")
    missing = [name for name in names if not has(directory, name)]
    if len(missing) == 2:
        return None
    if missing:
        raise LoadError(
            NO_FILE,
            f'directory "{directory}" has no {missing[0]}',
            "A vocabulary is vocab.json and merges.txt, or tokenizer.json.",
            "Add the file, or remove the other where the model uses GPT-2's own vocabulary.",
        )
    path = os.path.join(directory, "vocab.json")
    ids = read_json(path)
    if has(directory, "added_tokens.json"):
        ids.update(read_json(os.path.join(directory, "added_tokens.json")))
    lines = read_text(os.path.join(directory, "merges.txt")).split("\n")
    merges = [
        line.rstrip("\r").split(" ")
        for line in lines
        if line.strip() and not line.startswith("#version")
    ]
    return _vocabulary(path, ids, merges)


def _read_tokenizer_json(path):
    """The vocabulary of a file of the tokenizers library; what is not GPT-2's way is refused."""
    file = read_json(path)
    model = _part(path, file, "model")
    if model.get("type", "BPE") != "BPE":
        raise _unsupported(path, f"its model is {model['type']}, not BPE")
    if file.get("normalizer") is not None:
        raise _unsupported(path, "it has a normalizer")
    words = _part(path, file, "pre_tokenizer")
    if words.get("type") != "ByteLevel":
        raise _unsupported(path, f"its pre_tokenizer is {words.get('type')}, not ByteLevel")
    if words.get("add_prefix_space", True):
        raise _unsupported(path, "add_prefix_space is set")
    if not words.get("use_regex", True):
        raise _unsupported(path, "use_regex is not set")
    for option in (
        "dropout",
        "ignore_merges",
        "continuing_subword_prefix",
        "end_of_word_suffix",
    ):
        if model.get(option):
            raise _unsupported(path, f"{option} is set")
    after = _part(path, file, "post_processor")
    adds = [part for part in after.get("single", []) if "SpecialToken" in part]
    if after.get("type", "ByteLevel") not in ("ByteLevel", "TemplateProcessing") or adds:
        raise _unsupported(path, "its post_processor adds tokens")

    ids = dict(_part(path, model, "vocab"))
    for added in file.get("added_tokens") or []:
        if not added.get("special"):
            raise _unsupported(path, f"the added token {added.get('content')!r} is not special")
        ids[added["content"]] = added["id"]
    merges = [
        merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])
    ]
    return _vocabulary(path, ids, merges)


def _part(path, file, key):
    """The object at a key of a JSON object, or an empty one."""
    value = file.get(key)
    if not isinstance(value, (dict, type(None))):
        raise _wrong(path, f'"{key}" is not an object.')
    return value or {}


def _vocabulary(path, ids, merges):
    """The Vocabulary of {token as written: id} and [left, right] as written."""
    wrong = next((t for t, i in ids.items() if type(i) is not int or i < 0), None)
    if wrong is not None:
        raise _wrong(path, f"The id of {wrong!r} is not a number from 0 on.")
    written = {i: token for token, i in ids.items()}
    if len(written) < len(ids):
        twice = next(t for t, i in ids.items() if written[i] != t)
        raise _wrong(path, f"Two tokens have the id {ids[twice]}.")
    n_token = max(written, default=-1) + 1
    if len(written) < n_token:
        hole = next(i for i in range(n_token) if i not in written)
        raise _wrong(path, f"No token has the id {hole}.")

    byte_of = byte_encoder()
    for character, byte in byte_of.items():
        if character not in ids:
            raise _unsupported(path, f"no token stands for the byte 0x{byte:02x}")

    def text(token):
        # A special token may have other characters; then it is its UTF-8, as in `tokenizers`.
        if all(character in byte_of for character in token):
            return bytes(byte_of[character] for character in token)
        return token.encode("utf-8", "surrogatepass")

    pairs = {}
    for merge in merges:
        if len(merge) != 2 or not all(part in ids for part in (*merge, "".join(merge))):
            raise _wrong(path, f"The merge {' '.join(map(str, merge))!r} is not of its tokens.")
        left, right = merge
        pairs[ids[left], ids[right]] = ids[left + right]
    if len(pairs) < len(merges):
        raise _wrong(path, "A merge is there twice.")
    return Vocabulary(
        [text(written[i]) for i in range(n_token)],
        [(left, right, token) for (left, right), token in pairs.items()],
    )


def _wrong(path, detail):
    return LoadError(WRONG_DATA, f'the vocabulary of "{path}" is not consistent', detail)


def _unsupported(path, what):
    return LoadError(
        UNSUPPORTED,
        f'the tokenizer of "{path}" is not supported: {what}',
        "Supported is byte-level byte-pair encoding as GPT-2 does it.",
    )
