"""What a program has to do here, ours and transformers included."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from tokenizers import ByteLevelBPETokenizer


class Peer(ABC):
    """A program with the checkpoint in it, in one thread. It chooses greedily. <|endoftext|> ends
    nothing: who can is told so, and ours chooses it once in 50,000 times with random weights."""

    name: str
    #: how far its log probabilities may be from transformers': see same.py
    tolerance: float

    def clock(self) -> float:
        """Seconds of CPU that it has used so far. With one thread these are the seconds of a wall
        clock on a machine that does nothing else, and on a busy one they swing by less."""
        return time.process_time()

    @abstractmethod
    def log_probabilities(self, tokens: list[int]) -> np.ndarray:
        """[n_vocab]: of each token after the last."""

    @abstractmethod
    def generate(self, tokens: list[int], n: int) -> list[int]:
        """The n tokens that it chooses after a prompt."""

    @abstractmethod
    def first_token(self, tokens: list[int]) -> None:
        """Reads a prompt of which it keeps nothing from before, and chooses one token."""

    @abstractmethod
    def extend(self, tokens: list[int], n: int) -> None:
        """Chooses n tokens. What it can keep of the prompt it keeps from one call to the next."""

    @abstractmethod
    def complete(self, texts: list[str], n: int) -> list[str]:
        """The whole way: texts to tokens, n more of each, those to texts."""

    def close(self) -> None:  # noqa: B027 (most have nothing to end)
        """Ends what it has started."""


class Tokenized:
    """The tokenizer of programs that have none of their own: the package `tokenizers`, which
    transformers uses too."""

    def __init__(self, directory: Path):
        self.tokenizer = ByteLevelBPETokenizer.from_file(
            str(directory / "vocab.json"), str(directory / "merges.txt")
        )

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self.tokenizer.encode_batch(texts)]

    def decode(self, rows: list[list[int]]) -> list[str]:
        return self.tokenizer.decode_batch(rows, skip_special_tokens=False)
