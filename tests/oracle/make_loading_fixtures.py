"""Writes tests/oracle/loading.npz: what transformers computes from the checkpoints of LOADED.

Usage: build/venv/bin/python tests/oracle/make_loading_fixtures.py   (needs the group `oracle`)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from checkpoints import LOADED, write_loaded
from transformers_reference import forward, greedy, load

TOKENS = [5, 42, 79, 57, 0]  # &KpZ!
N_GREEDY = 12
#: a greedy comparison over a smaller gap between two logits, as a share of the largest, would test
#: the rounding to float16
LEAST_GAP = 0.02
LEAST_DISTINCT = 6


@torch.inference_mode()
def attention(model, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(queries, keys and values [n_layer, n_seq, 3 * n_embd], pattern [n_layer, n_head, n_seq,
    n_seq])."""
    qkv: list[torch.Tensor] = []
    for block in model.transformer.h:
        block.attn.c_attn.register_forward_hook(
            lambda module, inputs, output: qkv.append(output[0].clone())
        )
    out = model(torch.tensor([tokens]), output_attentions=True)
    return torch.stack(qkv).numpy(), torch.stack(out.attentions)[:, 0].numpy()


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, shape in LOADED.items():
        for seed in range(200):
            with tempfile.TemporaryDirectory() as directory:
                model = load(write_loaded(Path(directory), name, seed))
            hidden, logits = forward(model, TOKENS)
            text, gap = greedy(model, TOKENS, N_GREEDY)
            share = gap / np.abs(logits).max()
            if len(text) == N_GREEDY and share > LEAST_GAP and len(set(text)) >= LEAST_DISTINCT:
                break
        else:
            raise SystemExit(f"{name}: no seed gives a varied greedy text")
        arrays |= {
            f"{name}/seed": np.array(seed),
            f"{name}/tokens": np.array(TOKENS),
            f"{name}/greedy": np.array(text),
            f"{name}/hidden": hidden[:, -1],
            f"{name}/logits": logits,
        }
        if shape.get("scale_attn_by_inverse_layer_idx"):
            arrays[f"{name}/qkv"], arrays[f"{name}/pattern"] = attention(model, TOKENS)
        print(f"{name:20} seed {seed:3}  {len(set(text))} distinct, gap {share:.3f} of the largest")
    np.savez_compressed(Path(__file__).with_name("loading.npz"), **arrays)


if __name__ == "__main__":
    main()
