"""Prints how well models write on in texts that are for the test, a column a model: bits per byte,
of which a model of a smaller vocabulary has no advantage.

Usage: build/venv/bin/python loader/training/evaluate.py [MODEL]...   (needs group `training`)

By default the models are the one that was bundled before, which the tests have now, and the bundled
one.

Each document begins with <|endoftext|>, and each of its tokens is scored once, given all before it
in the document, as far as the context reaches: windows of the context's length, half a window
apart, of which the second half counts (of a document's first one, all). The sum of -log2 P(token)
over the documents' length in UTF-8 bytes is the figure; P is over the whole vocabulary, and nothing
is scored but the text.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/oracle"))
from tokenizer import tokenizer  # noqa: E402

DATA = ROOT / "build/training"
END = 50256
#: windows at once
N_WINDOW = 8
TEXTS = {
    "postgresql": "PostgreSQL's manual, pages held out here (the model before was trained on them)",
    "unseen": "PostgreSQL's manual, pages that neither was trained on",
    "other": "other documentation, pages held out here",
}
MODELS = (ROOT / "tests/models/manual", ROOT / "loader/gpt2_loader/models/demo")


def texts(path: Path) -> list[str]:
    """The documents of a file of GPT-2's tokens."""
    tokens = np.load(path)
    parts = np.split(tokens, np.flatnonzero(tokens == END))
    return [tokenizer_of(END + 1).decode(part[1:].tolist()) for part in parts if len(part) > 1]


def tokenizer_of(n_vocab: int, known: dict = {}):  # noqa: B006
    """The tokenizer of GPT-2's first tokens, made once."""
    if n_vocab not in known:
        known[n_vocab] = tokenizer(n_vocab)
    return known[n_vocab]


class Scorer:
    """-log2 P of texts by a checkpoint in float32."""

    def __init__(self, directory: Path):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32)
        self.model = model.eval().to(self.device)
        self.n_vocab = model.config.vocab_size
        self.context = model.config.n_positions

    @torch.inference_mode()
    def bits(self, text: str) -> float:
        """Of one document."""
        tokens = torch.tensor([self.n_vocab - 1, *tokenizer_of(self.n_vocab).encode(text).ids])
        length = min(self.context, len(tokens))
        ends = [*range(length, len(tokens), self.context // 2), len(tokens)]
        windows = torch.stack([tokens[end - length : end] for end in ends])
        new = [length - 1, *np.diff(ends).tolist()]
        total = 0.0
        for first in range(0, len(ends), N_WINDOW):
            some = slice(first, first + N_WINDOW)
            total += self.nats(windows[some].to(self.device), new[some])
        return total / math.log(2)

    def nats(self, windows: torch.Tensor, new: list[int]) -> float:
        """Of the last tokens of windows [n, length], of each as many as new says."""
        hidden = self.model.transformer(windows).last_hidden_state
        before = [row[-n - 1 : -1] for row, n in zip(hidden, new, strict=True)]
        after = [row[-n:] for row, n in zip(windows, new, strict=True)]
        logits = self.model.lm_head(torch.cat(before))
        return float(cross_entropy(logits, torch.cat(after), reduction="sum"))

    def bits_per_byte(self, documents: list[str]) -> float:
        n_byte = sum(len(document.encode()) for document in documents)
        return sum(self.bits(document) for document in documents) / n_byte


def size(directory: Path) -> str:
    """A line about a checkpoint."""
    file = (directory / "model.safetensors").read_bytes()
    shape = json.loads((directory / "config.json").read_text())
    return (
        f"{directory}: {len(file) / 1e6:.2f} MB, by zlib {len(zlib.compress(file, 9)) / 1e6:.2f}; "
        f"blocks {shape['n_layer']}, width {shape['n_embd']}, context {shape['n_positions']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="*", default=MODELS)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    for number, directory in enumerate(options.models, 1):
        print(f"{number}  {size(directory)}")
    print("\nbits per byte")
    print(*(f"{number:<5}" for number in range(1, len(options.models) + 1)))
    models = [Scorer(directory) for directory in options.models]
    for name, what in TEXTS.items():
        documents = texts(options.data / f"test_{name}.npy")
        n_byte = sum(len(document.encode()) for document in documents)
        print(
            *(f"{model.bits_per_byte(documents):.3f}" for model in models),
            f" {what}: {len(documents)} documents, {n_byte} bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()
