"""Writes tests/oracle/fixtures.npz: what transformers computes from the checkpoints, and from the
bundled model.

Usage: build/venv/bin/python tests/oracle/make_fixtures.py   (needs the dependency group `oracle`)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from checkpoints import N_GREEDY, ROOT, SHAPES, write_checkpoint
from tokenizer import tokenizer
from transformers import GPT2LMHeadModel
from transformers_reference import forward, greedy, load

#: a greedy comparison over a smaller gap between two logits would test rounding, not the model
LEAST_GAP = 1e-3
LEAST_DISTINCT = 12
BUNDLED = ROOT / "loader/gpt2_loader/models/demo"
#: what the bundled model goes on with in many different tokens
TEXT = "You can drop a table"


def prompt_tokens(n_vocab: int) -> list[int]:
    """A prompt of 12 tokens that every vocabulary here has."""
    return [(37 * i + 5) % (n_vocab - 1) for i in range(12)]


def fixtures(
    name: str, model: GPT2LMHeadModel, tokens: list[int], text: list[int]
) -> dict[str, np.ndarray]:
    """tokens: the prompt's; text: the greedy ones after it."""
    hidden, logits = forward(model, tokens)
    return {
        f"{name}/tokens": np.array(tokens),
        f"{name}/greedy": np.array(text),
        f"{name}/hidden": hidden,
        f"{name}/logits": logits,
    }


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, shape in SHAPES.items():
        for seed in range(100):
            with tempfile.TemporaryDirectory() as directory:
                model = load(write_checkpoint(Path(directory), shape, seed))
            tokens = prompt_tokens(shape["vocab_size"])
            text, gap = greedy(model, tokens, N_GREEDY)
            whole = len(tokens) + len(text) == min(len(tokens) + N_GREEDY, shape["n_positions"])
            if whole and gap > LEAST_GAP and len(set(text)) >= LEAST_DISTINCT:
                break
        else:
            raise SystemExit(f"{name}: no seed gives a varied greedy text")
        arrays[f"{name}/seed"] = np.array(seed)
        arrays |= fixtures(name, model, tokens, text)
        print(
            f"{name:14} seed {seed:2}  {len(text)} tokens, {len(set(text))} distinct, gap {gap:.4f}"
        )
    model, tokens = load(BUNDLED), tokenizer().encode(TEXT).ids
    text, gap = greedy(model, tokens, N_GREEDY)
    if gap <= LEAST_GAP or len(set(text)) < LEAST_DISTINCT:
        raise SystemExit(f"demo: gap {gap:.4f}, {len(set(text))} distinct tokens: another TEXT")
    arrays |= fixtures("demo", model, tokens, text)
    print(f"demo: {len(text)} tokens, {len(set(text))} distinct, gap {gap:.4f}")
    np.savez_compressed(Path(__file__).with_name("fixtures.npz"), **arrays)


if __name__ == "__main__":
    main()
