"""Writes tests/oracle/prompts.npz: what transformers makes of prompts that are token ids, which no
text gives: dialogues, where the end of a text stands after each turn, and beginnings of characters.

Usage: build/venv/bin/python tests/oracle/make_prompt_fixtures.py   (needs the group `oracle`)

<model>/<prompt>/tokens            the ids
<model>/<prompt>/greedy            greedy tokens after them, with <|endoftext|> where it is chosen
<model>/<prompt>/text              both, decoded
<model>/<prompt>/logprobs          of all ids but the first, where there is one
<model>/<prompt>/embedded          hidden states after ln_f, their mean
<model>/<prompt>/choices           log P(choice | ids) of CHOICES
<model>/long/tokens                more than the context holds: the prompts "left" and "right" are
                                   its last and first tokens, with room for N_NEW
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from checkpoints import SHAPES, write_checkpoint
from make_fixtures import LEAST_GAP
from make_task_fixtures import choose, embedded, log_softmax
from tokenizer import tokenizer
from transformers_reference import greedy, load

MODELS = ("narrow_mlp", "untied", "short_context")
N_NEW = 8
CHOICES = [" in", "x", "é 😀", " the"]
TURNS = ("Is it in?", "No, on the table. ", "Oh!")


def prompts(n_vocab: int, n_ctx: int) -> dict[str, list[int]]:
    """{name: ids} for a model whose last token is <|endoftext|>."""
    end = n_vocab - 1

    def encode(text: str) -> list[int]:
        return tokenizer(n_vocab).encode(text).ids

    turns = [encode(turn) for turn in TURNS]
    long = [token for n in range(n_ctx) for token in [*turns[n % 3], end]][: n_ctx + 20]
    return {
        "end": [end],
        "dialogue": [token for turn in turns[:2] for token in [*turn, end]],
        "ends": [end, end, *turns[2], end, end],
        # the first two bytes of four, and the last byte of one
        "split": encode("a 😀")[:-2],
        "rest": [*encode("é")[1:], *encode(" a")],
        "long": long,
        "left": long[N_NEW + 20 :],
        "right": long[: n_ctx - N_NEW],
    }


@torch.inference_mode()
def main() -> None:
    seeds = np.load(Path(__file__).with_name("fixtures.npz"))
    arrays: dict[str, np.ndarray] = {}
    for name in MODELS:
        shape = SHAPES[name]
        n_vocab, n_ctx = shape["vocab_size"], shape["n_positions"]
        with tempfile.TemporaryDirectory() as directory:
            model = load(write_checkpoint(Path(directory), shape, int(seeds[f"{name}/seed"])))
        for prompt, tokens in prompts(n_vocab, n_ctx).items():
            arrays[f"{name}/{prompt}/tokens"] = np.array(tokens)
            if prompt == "long":
                continue
            new, gap = greedy(model, tokens, N_NEW)
            if gap < LEAST_GAP:
                raise SystemExit(f"{name} {prompt}: a gap of {gap} between two logits")
            p = log_softmax(model, tokens)[:-1]
            text = tokenizer(n_vocab).decode([*tokens, *new], skip_special_tokens=False)
            arrays |= {
                f"{name}/{prompt}/greedy": np.array(new),
                f"{name}/{prompt}/text": np.array(text),
                f"{name}/{prompt}/logprobs": p.gather(1, torch.tensor(tokens[1:])[:, None])[
                    :, 0
                ].numpy(),
                f"{name}/{prompt}/embedded": embedded(model, tokens)["embedded/mean/last"],
                f"{name}/{prompt}/choices": np.array(
                    [
                        choose(model, tokens, tokenizer(n_vocab).encode(choice).ids)
                        for choice in CHOICES
                    ]
                ),
            }
            print(f"{name:14} {prompt:9} {len(tokens):3} tokens, gap {gap:.3f}: {text!r}")
    np.savez_compressed(Path(__file__).with_name("prompts.npz"), **arrays)


if __name__ == "__main__":
    main()
