"""GPT-2's tokenizer by the `tokenizers` package, from the list of merges that ours is made of."""

from __future__ import annotations

from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from tokenizers.pre_tokenizers import ByteLevel

MERGES = Path(__file__).parent.parent.parent / "sql/install/vocab.bpe"


def tokenizer(n_vocab: int = 50257) -> ByteLevelBPETokenizer:
    """The ids follow from the merges: the bytes, then the merges in order, then <|endoftext|>. A
    smaller vocabulary has the first of the merges."""
    lines = MERGES.read_text(encoding="utf-8").splitlines()[1 : n_vocab - 256]
    merges = [tuple(line.split(" ")) for line in lines]
    tokens = sorted(ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)} | {"<|endoftext|>": n_vocab - 1}
    return ByteLevelBPETokenizer(vocabulary, merges)
