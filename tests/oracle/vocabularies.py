"""Model directories whose vocabularies are laid out as people's are, with all kinds of added tokens.

Each has a model of one block, so that transformers and the extension can load it. What transformers
makes of TEXTS with them is in vocabularies.json (make_vocabulary_fixtures.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from oracle.checkpoints import write_checkpoint

#: rows of wte: more than most vocabularies have, so that they are padded
N_VOCAB = 300
SHAPE = dict(n_layer=1, n_head=1, n_embd=8, n_positions=64, vocab_size=N_VOCAB)
MERGES = ["Ġ t", "h e", "Ġt he", "o p", "op e", "ope n", "i n"]

TEXTS = [
    "",
    "open the pen",
    "a<|endoftext|>b",
    "<|endoftext|>",
    "  <|endoftext|>  the <|endoftext|><|endoftext|>\n",
    "SELECT the open  SELECT SELECTed SELE CT",
    " SELECT\tFROM FROMSELECT",
    "<s>open the pen</s> <pad>",
    "it's [USER] the [USER]'s [ASSISTANT]\n\n[USER]",
    "é ünder <né>né",
    "ab abc abcd a.b a*b (a) [a] \\d ^a$ |",
    "<|im_start|>the\n<|im_end|>\n",
]


def _write(directory: Path, name: str, content) -> None:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (directory / name).write_text(text, encoding="utf-8")


def _base(directory: Path, extra: list[str], config: dict, n_vocab: int = N_VOCAB) -> list[str]:
    """A model, and a vocabulary in vocab.json and merges.txt: bytes, MERGES, extra tokens."""
    from gpt2_loader.vocabulary import byte_encoder

    write_checkpoint(directory, SHAPE | {"vocab_size": n_vocab})
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    tokens = [*byte_encoder(), *(merge.replace(" ", "") for merge in MERGES), *extra]
    _write(directory, "vocab.json", {token: i for i, token in enumerate(tokens)})
    _write(directory, "merges.txt", "\n".join(["#version: 0.2", *MERGES, ""]))
    return tokens


def _tokenizer_json(directory: Path, tokens: list[str], added: list[dict]) -> None:
    """tokenizer.json in the place of vocab.json and merges.txt."""
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink()
    _write(
        directory,
        "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": MERGES,
            },
        },
    )


def _added(number: int | None, content: str, special: bool = False, **options) -> dict:
    token = dict(
        content=content,
        single_word=False,
        lstrip=False,
        rstrip=False,
        normalized=not special,
        special=special,
    )
    return ({} if number is None else {"id": number}) | token | options


END = "<|endoftext|>"


def plain(directory: Path) -> None:
    """<|endoftext|> in vocab.json, and nothing said of it."""
    _base(directory, [END], dict(bos_token_id=263, eos_token_id=263))


def no_end(directory: Path) -> None:
    """No <|endoftext|> at all, and nothing ends."""
    _base(directory, [], dict(bos_token_id=None, eos_token_id=None), n_vocab=263)


def added_tokens_json(directory: Path) -> None:
    """Ordinary and special tokens in added_tokens.json, told apart by special_tokens_map.json."""
    _base(directory, [END], dict(bos_token_id=263, eos_token_id=[263, 264]))
    _write(directory, "added_tokens.json", {"</s>": 264, "SELECT": 265, "FROM": 266, "<pad>": 267})
    _write(
        directory, "special_tokens_map.json", {"eos_token": "</s>", "pad_token": {
            "content": "<pad>", "lstrip": False, "rstrip": False, "normalized": True,
            "single_word": False}},
    )  # fmt: skip


def special_tokens_map(directory: Path) -> None:
    """Special tokens that stand in special_tokens_map.json alone: they come after the others."""
    _base(directory, [END], dict(bos_token_id=264, eos_token_id=263))
    _write(
        directory,
        "special_tokens_map.json",
        {"bos_token": "<s>", "additional_special_tokens": ["[USER]", "[ASSISTANT]"]},
    )


def added_tokens_decoder(directory: Path) -> None:
    """All in tokenizer_config.json, as transformers writes it since 4.34."""
    _base(directory, [END], dict(bos_token_id=263, eos_token_id=265))
    _write(
        directory,
        "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": END,
            "eos_token": "</s>",
            "unk_token": END,
            "additional_special_tokens": ["<s>"],
            "added_tokens_decoder": {
                "263": _added(None, END, True),
                "264": _added(None, "<s>", True),
                "265": _added(None, "</s>", True),
                "266": _added(None, "SELECT"),
                "267": _added(None, "a*b"),
                "268": _added(None, "abc"),
                "269": _added(None, "abcd"),
                "270": _added(None, "né"),
            },
        },
    )


def tokenizer_json(directory: Path) -> None:
    """All in tokenizer.json, of a generic class."""
    tokens = _base(directory, [END], dict(bos_token_id=263, eos_token_id=265))
    _tokenizer_json(
        directory,
        tokens,
        [
            _added(263, END, True),
            _added(264, "<|im_start|>", True),
            _added(265, "<|im_end|>", True),
            _added(266, "SELECT"),
            _added(267, " FROM", normalized=False),
        ],
    )
    _write(
        directory,
        "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"},
    )


def beyond_the_rows(directory: Path) -> None:
    """Added tokens for which the model has no row."""
    _base(directory, [END], dict(bos_token_id=263, eos_token_id=263), n_vocab=265)
    _write(directory, "added_tokens.json", {"SELECT": 264, "FROM": 265, "abc": 266})


def within_the_rows(directory: Path) -> None:
    """beyond_the_rows without them: transformers would ask for rows that are not there."""
    beyond_the_rows(directory)
    _write(directory, "added_tokens.json", {"SELECT": 264})


LAYOUTS: dict[str, Callable[[Path], None]] = {
    layout.__name__: layout
    for layout in (
        plain,
        no_end,
        added_tokens_json,
        special_tokens_map,
        added_tokens_decoder,
        tokenizer_json,
        beyond_the_rows,
    )
}
#: layout -> the one that transformers is asked about in its place
ASKED = {"beyond_the_rows": within_the_rows}
