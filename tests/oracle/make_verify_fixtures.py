"""Writes tests/verify/random.json: the figures of article.json for a model with random weights.

Usage: build/venv/bin/python tests/oracle/make_verify_fixtures.py  (needs the dependency group `oracle`)

transformers computes them, tokenizers splits the texts; numbers are rounded as the article's are.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from checkpoints import VERIFIED, write_checkpoint
from tokenizer import tokenizer
from transformers_reference import load

ARTICLE = Path(__file__).parent.parent / "verify" / "article.json"
N_TOKENS = 10


def rounded(values: torch.Tensor, places: int) -> list:
    """Numbers, a list a row, to so many decimals."""
    return [[round(float(x), places) for x in row] for row in values]


def shortest(values: torch.Tensor) -> list[float]:
    """float32 numbers in as few digits as tell them apart."""
    return [float(str(value)) for value in values.numpy()]


@torch.inference_mode()
def main() -> None:
    reference = tokenizer()
    article = json.loads(ARTICLE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        model = load(write_checkpoint(Path(directory), VERIFIED))
    ids = reference.encode(article["prompt"]).ids
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda module, inputs, output: outputs.update({name: output}))

    block = model.transformer.h[0]
    keep("qkv", block.attn.c_attn)
    keep("attn", block.attn)
    keep("block", block)
    keep("ln_f", model.transformer.ln_f)
    inputs = []
    block.attn.c_proj.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    out = model(torch.tensor([ids]), output_attentions=True)
    kept = dict(outputs)  # of this prompt, and not of those that follow
    width, d = model.config.n_embd, model.config.n_embd // model.config.n_head
    pattern = out.attentions[0][0, 0]
    embeddings = model.transformer.wte.weight[ids] + model.transformer.wpe.weight[: len(ids)]
    logits = out.logits[0, -1]
    top = logits.topk(5)
    chances = [(top.values / t).softmax(0) for t in (0.5, 1, 2)]
    end = reference.encode(article["distribution"]["prompt"]).ids
    over_all = model(torch.tensor([end])).logits[0, -1].softmax(0)
    order = over_all.argsort(descending=True).tolist()
    text = reference.encode(article["generation"]["prompt"]).ids
    for _ in range(N_TOKENS):
        text = [*text, int(model(torch.tensor([text])).logits[0, -1].argmax())]
    block_output = kept["block"]
    block_output = block_output[0] if isinstance(block_output, tuple) else block_output
    figures = {
        "source": "transformers, for a model with random weights (make_verify_fixtures.py)",
        "bpe": article["bpe"],
        "prompt": article["prompt"],
        "tokens": ids,
        "embeddings": {"values": [shortest(row) for row in embeddings[:, :5]]},
        "block0_head0": {
            "q": rounded(kept["qkv"][0, :, :3], 3),
            "k": rounded(kept["qkv"][0, :, width : width + 3], 3),
            "v": rounded(kept["qkv"][0, :, 2 * width : 2 * width + 3], 3),
            "pattern": [rounded(pattern[i : i + 1, : i + 1], 2)[0] for i in range(len(ids))],
            "z": rounded(inputs[0][0, :, : min(3, d)], 3),
        },
        "block0_attn_out": {"values": rounded(kept["attn"][0][0, :, :10], 3)},
        "block0_resid_post": {"values": rounded(block_output[0, :, :10], 3)},
        "ln_final": {"values": rounded(kept["ln_f"][0, :, :10], 3)},
        "next_token": {
            "rows": [
                [
                    token,
                    reference.decode([token]),
                    round(float(top.values[i]), 3),
                    *(round(float(chance[i]), 2) for chance in chances),
                ]
                for i, token in enumerate(top.indices.tolist())
            ]
        },
        "distribution": {
            "prompt": article["distribution"]["prompt"],
            "likeliest": [[reference.decode([t]), significant(over_all[t])] for t in order[:5]],
            "least": [[reference.decode([t]), significant(over_all[t])] for t in order[-5:]],
        },
        "generation": {
            "prompt": article["generation"]["prompt"],
            "text": reference.decode(text),
        },
    }
    path = ARTICLE.with_name("random.json")
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def significant(value: torch.Tensor) -> float:
    """To five significant digits: sums in another order change the seventh."""
    return float(f"{float(value):.4e}")


if __name__ == "__main__":
    main()
