"""What transformers computes: hidden states, logits and greedy tokens of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import GPT2LMHeadModel


def load(directory: Path) -> GPT2LMHeadModel:
    """The checkpoint in float32, for inference."""
    return GPT2LMHeadModel.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@torch.inference_mode()
def forward(model: GPT2LMHeadModel, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(hidden [n_layer + 1, n_seq, n_embd], logits of the last position [n_vocab]).

    hidden holds the embeddings, then each block's output; the last is after ln_f.
    """
    out = model(torch.tensor([tokens]), output_hidden_states=True)
    return torch.stack(out.hidden_states)[:, 0].numpy(), out.logits[0, -1].numpy()


@torch.inference_mode()
def greedy(model: GPT2LMHeadModel, tokens: list[int], n: int) -> tuple[list[int], float]:
    """(up to n greedy tokens, stopping behind <|endoftext|> or at the context's end, the least
    gap between the two largest logits on the way)."""
    text, gap, new, past = list(tokens), float("inf"), list(tokens), None
    while len(text) < min(len(tokens) + n, model.config.n_positions):
        out = model(torch.tensor([new]), past_key_values=past, use_cache=True)
        top, past = out.logits[0, -1].topk(2), out.past_key_values
        gap = min(gap, float(top.values[0] - top.values[1]))
        new = [int(top.indices[0])]
        text += new
        if text[-1] == model.config.eos_token_id:
            break
    return text[len(tokens) :], gap
