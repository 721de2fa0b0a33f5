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
    show,
)

OWN = "gpt2"  # the name of GPT-2's own vocabulary, tokenizer 1 of the extension
OWN_N_TOKEN = 50257
END_OF_TEXT = "<|endoftext|>"

# tokenizer classes that read byte-level byte-pair encoding as GPT-2 does
CLASSES = (
    "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "PreTrainedTokenizer",
    "TokenizersBackend",
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
