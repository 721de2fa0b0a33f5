"""Writes tests/oracle/tasks.npz: what transformers makes of texts with each of the checkpoints and
with the tests' own model.

Usage: build/venv/bin/python tests/oracle/make_task_fixtures.py   (needs the group `oracle`)

<model>/text, tokens                     a text, in the first n_vocab - 1 tokens of GPT-2's
<model>/logprobs, entropies, loss        of all its tokens but the first; entropies in nats
<model>/ranks                            [n_seq - 1, 2]: least and largest, as near logits may swap
<model>/embedded/<pooling>/<block>       hidden states, pooled; block "last": after ln_f
<model>/long/text, strides, perplexities a text longer than the context, in sliding windows
<model>/choices/<n>                      log P(choice | prompt) for CHOICES, prompt PROMPTS[n]; NaN
                                         where they are longer than the context
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from checkpoints import SHAPES, write_checkpoint
from tokenizer import tokenizer
from transformers import GPT2LMHeadModel
from transformers_reference import load

DEMO = Path(__file__).parent.parent.parent / "tests/models/manual"
TEXT = "The rows of a table\nin no order; é 😀."
DEMO_TEXT = """To create an index on a table, use the CREATE INDEX command. Zebras dance at 7:30;
the planner (see Section 14.1) does not care about \u201cübung\u201d."""
LONG = (
    "An index is a table of the rows that are in a table. ",
    "It is not in the order of 1997, or of the index; ",
    "the server reads the table in the end, and so on. ",
)
#: the empty prompt begins a document; one choice alone is longer than a chunk of positions
PROMPTS = ["", "The", "The rows of a table are"]
CHOICES = [" in", " not", "x", " the order of the table", "é 😀", " 1234567890 1234567890"]
#: two logits that are nearer than this may swap places
NEAR = 1e-3


def log_softmax(model: GPT2LMHeadModel, tokens: list[int]) -> torch.Tensor:
    """[n_seq, n_vocab], float64."""
    return model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)


def score(model: GPT2LMHeadModel, tokens: list[int]) -> dict[str, np.ndarray]:
    p = log_softmax(model, tokens)[:-1]
    target = p.gather(1, torch.tensor(tokens[1:])[:, None])
    ids = torch.tensor([tokens])
    return {
        "logprobs": target[:, 0].numpy(),
        "ranks": torch.stack(
            [1 + (p > target + NEAR).sum(1), (p > target - NEAR).sum(1)], 1
        ).numpy(),
        "entropies": torch.distributions.Categorical(logits=p).entropy().numpy(),
        "loss": model(ids, labels=ids).loss.numpy(),
    }


def perplexity(model: GPT2LMHeadModel, tokens: list[int], stride: int) -> float:
    """As huggingface.co/docs/transformers/perplexity, with each loss weighted by the number of
    tokens that it is the mean of: the page takes one off in each window."""
    ids = torch.tensor([tokens])
    total, counted, before = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + model.config.n_positions, len(tokens))
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - before)] = -100
        n = int((labels[:, 1:] != -100).sum())
        if n:
            total += float(model(ids[:, begin:end], labels=labels).loss) * n
        counted, before = counted + n, end
        if end == len(tokens):
            break
    return math.exp(total / counted)


def embedded(model: GPT2LMHeadModel, tokens: list[int]) -> dict[str, np.ndarray]:
    hidden = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    result = {}
    for block in {"last", 0, model.config.n_layer // 2}:
        # the last of the hidden states is after ln_f: the last block's own is not among them
        if block != "last" and block >= model.config.n_layer - 1:
            continue
        x = hidden[-1 if block == "last" else block + 1][0]
        weight = torch.arange(1, len(tokens) + 1, dtype=x.dtype)
        result |= {
            f"embedded/mean/{block}": x.mean(0),
            f"embedded/last/{block}": x[-1],
            f"embedded/max/{block}": x.amax(0),
            f"embedded/weighted/{block}": (x * weight[:, None]).sum(0) / weight.sum(),
        }
    return {key: value.numpy() for key, value in result.items()}


def choose(model: GPT2LMHeadModel, prompt: list[int], choice: list[int]) -> float:
    p = log_softmax(model, prompt + choice)
    return sum(float(p[len(prompt) + i - 1, token]) for i, token in enumerate(choice))


@torch.inference_mode()
def fixtures(model: GPT2LMHeadModel, text: str, strides: list[int]) -> dict[str, np.ndarray]:
    n_ctx, n_vocab = model.config.n_positions, model.config.vocab_size
    reference = tokenizer(n_vocab)

    def encode(text: str) -> list[int]:
        return reference.encode(text).ids

    tokens = encode(text)
    long = ""
    while len(encode(long)) < 2.3 * n_ctx:
        long += LONG[len(long) % 3]
    choices = [
        [
            choose(model, encode(prompt) or [n_vocab - 1], encode(choice))
            if len(encode(prompt)) + len(encode(choice)) <= n_ctx
            else np.nan
            for choice in CHOICES
        ]
        for prompt in PROMPTS
    ]
    return {
        "text": np.array(text),
        "tokens": np.array(tokens),
        **score(model, tokens),
        **embedded(model, tokens),
        "long/text": np.array(long),
        "long/strides": np.array(strides),
        "long/perplexities": np.array([perplexity(model, encode(long), s) for s in strides]),
        **{f"choices/{n}": np.array(values) for n, values in enumerate(choices)},
    }


def main() -> None:
    seeds = np.load(Path(__file__).with_name("fixtures.npz"))
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, values: dict[str, np.ndarray]) -> None:
        arrays.update({f"{name}/{key}": value for key, value in values.items()})
        print(
            f"{name:14} {len(values['tokens'])} tokens, loss {float(values['loss']):.4f}, "
            f"perplexities {values['long/perplexities'].round(2)}, "
            f"{sum(low < high for low, high in values['ranks'])} ranks within a range"
        )

    for name, shape in SHAPES.items():
        n_ctx = shape["n_positions"]
        with tempfile.TemporaryDirectory() as directory:
            model = load(write_checkpoint(Path(directory), shape, int(seeds[f"{name}/seed"])))
        # the larger ones take seconds a window
        strides = [n_ctx // 2, n_ctx - 1, n_ctx] if n_ctx * shape["n_embd"] < 10_000 else []
        strides += [1, 5] if n_ctx < 64 else []
        add(name, fixtures(model, TEXT, strides))
    add("demo", fixtures(load(DEMO), DEMO_TEXT, [128]))
    np.savez_compressed(Path(__file__).with_name("tasks.npz"), **arrays)


if __name__ == "__main__":
    main()
