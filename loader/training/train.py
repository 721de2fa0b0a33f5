"""Trains the bundled model from scratch on what corpus.py made, and writes it as a checkpoint.

Usage: build/venv/bin/python loader/training/train.py --minutes 150   (needs the group `training`)

On a GPU where there is one, in bfloat16; else on the CPU's cores. The learning rate falls to zero
at the end of the time, or of --steps.

Only the most frequent tokens have a row of embeddings of their own; all others, seen or not, have
one and the same. The softmax in training is over the rows: the shared one counts for as many tokens
as it stands for, so that the loss is that of the whole vocabulary, and what training makes of the
shared row is how likely any of its tokens is.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

DATA = Path(__file__).resolve().parents[2] / "build/training"
N_TOKEN = 50257
END = N_TOKEN - 1
WARM_UP = 0.02  # of the training
CLIP = 1.0  # the gradient's norm


class Rows:
    """Which tokens have rows of their own: the n - 1 most frequent ones. Row n - 1 is the others'.

    of: int64 [N_TOKEN], the row of each token; n_shared: how many tokens share the last row.
    """

    def __init__(self, tokens: np.ndarray, n: int):
        counts = np.bincount(tokens, minlength=N_TOKEN)
        counts[END] = counts.max() + 1
        own = np.sort(np.argsort(-counts, kind="stable")[: n - 1])
        self.n = n
        self.of = np.full(N_TOKEN, n - 1, np.int64)
        self.of[own] = np.arange(n - 1)
        self.n_shared = N_TOKEN - (n - 1)
        self.share = 1 - counts[own].sum() / counts.sum()


class Windows:
    """Runs of n_seq + 1 tokens of a text, in random order: each token once, then all anew with
    other borders."""

    def __init__(self, text: torch.Tensor, n_seq: int, seed: int):
        self.text, self.n_seq = text, n_seq
        self.random = torch.Generator().manual_seed(seed)
        self.starts = torch.empty(0, dtype=torch.int64)

    def take(self, n: int) -> torch.Tensor:
        """[n, n_seq + 1]"""
        while len(self.starts) < n:
            first = int(torch.randint(self.n_seq, (1,), generator=self.random))
            starts = torch.arange(first, len(self.text) - self.n_seq, self.n_seq)
            order = torch.randperm(len(starts), generator=self.random)
            self.starts = torch.cat([self.starts, starts[order]])
        now, self.starts = self.starts[:n], self.starts[n:]
        places = now[:, None] + torch.arange(self.n_seq + 1)
        return self.text[places.to(self.text.device)].long()


class Data:
    """Batches of the manual and of the other documents, and the documents for the test, as rows."""

    def __init__(self, folder: Path, n_manual: int, options: argparse.Namespace, device: str):
        train = np.load(folder / "train.npy")
        self.rows = Rows(train, options.rows)
        self.device = device
        manual, other = self._rows(train[:n_manual]), self._rows(train[n_manual:])
        self.parts = [
            Windows(part, options.context, options.seed + i)
            for i, part in enumerate((manual, other))
        ]
        self.options = options
        self.random = np.random.default_rng(options.seed)
        self.tests = {
            name: self._rows(np.load(folder / f"test_{name}.npy"))
            for name in ("postgresql", "other")
        }
        print(
            f"{len(manual)} tokens of the manual, {len(other)} of others; {self.rows.n} rows, "
            f"{100 * self.rows.share:.2f} % of the tokens share one of them",
            flush=True,
        )

    def _rows(self, tokens: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.rows.of[tokens].astype(np.int32)).to(self.device)

    def batch(self, progress: float) -> torch.Tensor:
        """[batch, n_seq + 1]; the manual's share grows in the last part of the training."""
        first, last = self.options.manual
        late = max(0.0, (progress - self.options.turn) / (1 - self.options.turn))
        share = first + (last - first) * late
        n = math.floor(share * self.options.batch + float(self.random.random()))
        n = min(n, self.options.batch)
        manual, other = self.parts
        return torch.cat([manual.take(n), other.take(self.options.batch - n)])


def loss(model: GPT2LMHeadModel, batch: torch.Tensor, n_shared: int) -> torch.Tensor:
    """Mean of -log P(token), in nats, over the whole vocabulary."""
    before, after = batch[:, :-1], batch[:, 1:]
    logits = model(before, use_cache=False).logits.float()
    shared = logits.shape[-1] - 1
    counts = torch.zeros(shared + 1, device=logits.device)
    counts[shared] = math.log(n_shared)
    each = cross_entropy((logits + counts).flatten(0, 1), after.flatten(), reduction="none")
    return (each + counts[after.flatten()]).mean()


class Schedule:
    """How far the training is, from 0 to 1, by time or by steps, and the learning rate there."""

    def __init__(self, minutes: float | None, steps: int | None):
        self.seconds = 60 * minutes if minutes else None
        self.steps = steps
        self.start = time.monotonic()

    def progress(self, step: int) -> float:
        done = [0.0]
        if self.seconds:
            done.append((time.monotonic() - self.start) / self.seconds)
        if self.steps:
            done.append(step / self.steps)
        return min(max(done), 1.0)

    @staticmethod
    def rate(progress: float) -> float:
        """Of the highest: up in a line, then down in a line to zero."""
        return min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP)) + 1e-4


def optimizers(model: GPT2LMHeadModel, options: argparse.Namespace) -> list:
    """Muon for the blocks' matrices, AdamW for all else; decay for matrices only.

    On a CPU AdamW for all: Muon computes in bfloat16, which took longer there than the gradient.
    """
    blocks = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    tables = [p for n, p in model.named_parameters() if ".h." not in n and p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    adam = [
        {"params": tables, "weight_decay": options.decay, "lr": options.rate},
        {"params": others, "weight_decay": 0.0, "lr": options.rate},
    ]
    made = []
    if model.device.type == "cuda":
        rates = {"lr": options.block_rate, "adjust_lr_fn": "match_rms_adamw"}
        made.append(torch.optim.Muon(blocks, weight_decay=options.decay, **rates))
    else:
        adam.append({"params": blocks, "weight_decay": options.decay, "lr": options.rate / 2})
    made.append(torch.optim.AdamW(adam, betas=(0.9, 0.98), fused=model.device.type == "cuda"))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["highest"] = group["lr"]
    return made


def new_model(options: argparse.Namespace) -> GPT2LMHeadModel:
    torch.manual_seed(options.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=options.rows,
            n_positions=options.context,
            n_embd=options.width,
            n_layer=options.blocks,
            n_head=options.heads,
            resid_pdrop=options.dropout,
            embd_pdrop=options.dropout,
            attn_pdrop=0.0,
            bos_token_id=options.rows - 2,
            eos_token_id=options.rows - 2,
        )
    )


@torch.no_grad()
def test(model: GPT2LMHeadModel, data: Data, n: int) -> dict[str, float]:
    """Nats a token on the first n batches of windows of each test text."""
    model.eval()
    n_seq, size, result = data.options.context, data.options.batch, {}
    for name, text in data.tests.items():
        starts = torch.arange(0, len(text) - n_seq, n_seq)[: n * size]
        total = 0.0
        for some in starts.split(16):
            places = (some[:, None] + torch.arange(n_seq + 1)).to(text.device)
            total += float(loss(model, text[places].long(), data.rows.n_shared)) * len(some)
        result[name] = total / len(starts)
    model.train()
    return result


class Report:
    """Lines about the steps since the line before."""

    def __init__(self, n_step_token: int):
        self.n_step_token = n_step_token
        self.losses: list[torch.Tensor] = []
        self.start = self.since = time.monotonic()

    def line(self, step: int, progress: float, tested: dict[str, float]) -> None:
        now = time.monotonic()
        a_second = len(self.losses) * self.n_step_token / (now - self.since)
        print(
            f"step {step}, {now - self.start:.0f} s, {progress:.3f}: "
            f"{step * self.n_step_token / 1e6:.1f} million tokens, {a_second:.0f} a second; "
            f"loss {float(torch.stack(self.losses).mean()):.3f}"
            + "".join(f", {name} {value:.3f}" for name, value in tested.items()),
            flush=True,
        )
        self.losses, self.since = [], now


def learn(model: GPT2LMHeadModel, made: list, rate: float, now: torch.Tensor) -> None:
    """One step of the optimizers, by a loss. rate: of the highest learning rate."""
    now.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    for optimizer in made:
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def train(options: argparse.Namespace, n_manual: int) -> tuple[GPT2LMHeadModel, Data]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    data = Data(options.data, n_manual, options, device)
    model = new_model(options).to(device)
    print(f"{sum(p.numel() for p in model.parameters())} parameters on {device}", flush=True)
    made = optimizers(model, options)
    step_loss = torch.compile(loss, dynamic=False) if options.compile else loss
    # without the cache: it would keep the weights of the first step, as one region holds all steps
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
        step_loss(model, data.batch(0), data.rows.n_shared).backward()  # compiles
        model.zero_grad(set_to_none=True)
        schedule = Schedule(options.minutes, options.steps)
        report, step = Report(options.batch * options.context), 0
        while (progress := schedule.progress(step)) < 1:
            now = step_loss(model, data.batch(progress), data.rows.n_shared)
            learn(model, made, schedule.rate(progress), now)
            report.losses.append(now.detach())
            step += 1
            if step % options.report == 0:
                report.line(step, progress, test(model, data, 2))
        tested = test(model, data, 10**6)
    print(f"{step} steps; nats a token in the tests: {tested}", flush=True)
    return model.float().cpu(), data


def rounded(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """float16 with so many of the mantissa's 10 bits: the rest are zeros, which compress away."""
    whole = tensor.to(torch.float16).view(torch.int16).int()
    step = 1 << (10 - bits)
    return (((whole + step // 2) // step) * step).to(torch.int16).view(torch.float16)


def export(rows: dict[str, torch.Tensor], row_of: np.ndarray, options: argparse.Namespace) -> None:
    """Writes the checkpoint, with a row for each token of GPT-2's vocabulary."""
    config = GPT2Config(
        vocab_size=N_TOKEN,
        n_positions=options.context,
        n_embd=rows["transformer.wte.weight"].shape[1],
        n_layer=options.blocks,
        n_head=options.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=END,
        eos_token_id=END,
    )
    whole = GPT2LMHeadModel(config)
    weights = {name: rounded(value, options.bits) for name, value in rows.items()}
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][row_of]
    wrong = whole.half().load_state_dict(weights, strict=False)
    assert wrong.missing_keys == ["lm_head.weight"] and not wrong.unexpected_keys, wrong
    whole.save_pretrained(options.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=DATA / "model")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rows", type=int, default=22_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128 if torch.cuda.is_available() else 8)
    parser.add_argument("--rate", type=float, default=3e-3, help="of the embeddings")
    parser.add_argument("--block-rate", type=float, default=6e-3, help="of the blocks, by Muon")
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--manual", type=float, nargs=2, default=(0.06, 0.2),
                        help="its share of a batch, at first and at the end")  # fmt: skip
    parser.add_argument("--turn", type=float, default=0.6, help="where the share begins to grow")
    parser.add_argument("--bits", type=int, default=5, help="of the mantissa, in the checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=200, help="steps between two lines")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available()
    )
    options = parser.parse_args()
    if not (options.minutes or options.steps):
        parser.error("give --minutes or --steps")
    n_manual = json.loads((options.data / "corpus.json").read_text())[0]["train"]["tokens"]
    model, data = train(options, n_manual)
    weights = {n: p for n, p in model.state_dict().items() if n != "lm_head.weight"}
    export(weights, data.rows.of, options)


if __name__ == "__main__":
    main()
