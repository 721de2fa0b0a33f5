"""GPT-2 checkpoints of several shapes with random weights, the same on every machine.

The weights come from numpy's RandomState, whose stream is frozen, so they need not be kept: only
what transformers computes from them is (tests/oracle/fixtures.npz, by make_fixtures.py). The scales
are larger than a fresh model's, with which greedy text repeats one token for ever and proves
nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gpt2_loader.vocabulary import byte_encoder
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2]

N_GREEDY = 64
#: length of the prompts whose every activation is kept
N_TRACED = 5

#: name -> what differs from transformers' GPT2Config defaults
SHAPES: dict[str, dict] = {
    "one_block": dict(n_layer=1, n_head=2, n_embd=32, n_positions=128, vocab_size=300),
    "narrow_mlp": dict(n_layer=2, n_head=3, n_embd=48, n_positions=100, vocab_size=500, n_inner=40),
    "odd_widths": dict(
        n_layer=4,
        n_head=5,
        n_embd=35,
        n_positions=97,
        vocab_size=401,
        n_inner=111,
        layer_norm_epsilon=1e-3,
    ),
    "untied": dict(
        n_layer=3, n_head=2, n_embd=64, n_positions=256, vocab_size=600, tie_word_embeddings=False
    ),
    "unscaled": dict(
        n_layer=2, n_head=4, n_embd=64, n_positions=128, vocab_size=350, scale_attn_weights=False
    ),
    "five_blocks": dict(n_layer=5, n_head=2, n_embd=128, n_positions=256, vocab_size=1000),
    # its keys and values of 16 positions end to end are longer than a vector may be
    "one_wide_head": dict(n_layer=1, n_head=1, n_embd=1040, n_positions=64, vocab_size=300),
    "short_context": dict(n_layer=2, n_head=2, n_embd=32, n_positions=32, vocab_size=300),
}

#: checkpoints that are told apart by how they are loaded. Their weights are float16's numbers, so
#: that both dtypes are the same model: write_loaded
LOADED: dict[str, dict] = {
    # as CodeParrot's and Stanford's
    "inverse_layer": dict(
        n_layer=4,
        n_head=2,
        n_embd=48,
        n_positions=64,
        vocab_size=300,
        scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True,
    ),
    "inverse_layer_only": dict(
        n_layer=4,
        n_head=3,
        n_embd=48,
        n_positions=64,
        vocab_size=300,
        scale_attn_weights=False,
        scale_attn_by_inverse_layer_idx=True,
    ),
    # what each matrix is multiplied with passes 65504
    "loud": dict(n_layer=2, n_head=2, n_embd=48, n_positions=64, vocab_size=300, n_inner=111),
    # a neuron of it in float32 is larger than a page; as wide as Cerebras-GPT 1.3B
    "wide": dict(n_layer=1, n_head=16, n_embd=2048, n_positions=24, vocab_size=300, n_inner=2100),
}

#: models whose searches come to different ends: (seed, how much <|endoftext|> is favoured)
BEAM_MODELS: dict[str, tuple[int, float]] = {
    "narrow_mlp": (3, 3),
    "odd_widths": (4, 2),
    "untied": (5, 6),
    "short_context": (6, 1.2),
}

#: GPT-2's whole vocabulary, on which figures like the article's are made (make_verify_fixtures.py)
VERIFIED = dict(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=50257)

#: the real model's shape: too large for a fixture, run live by `make test-oracle`
SHAPE_124M = dict(n_layer=12, n_head=12, n_embd=768, n_positions=1024, vocab_size=50257)


def config(shape: dict) -> dict:
    """config.json of a shape."""
    end = shape["vocab_size"] - 1
    return dict(
        model_type="gpt2",
        architectures=["GPT2LMHeadModel"],
        activation_function="gelu_new",
        bos_token_id=end,
        eos_token_id=end,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        n_ctx=shape["n_positions"],
        **shape,
    )


def tensors(shape: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights by their Hugging Face names, float32; linear weights are [n_in, n_out]."""
    random = np.random.RandomState(seed)
    width = shape["n_embd"]
    inner = shape.get("n_inner") or 4 * width

    def normal(*dims: int, scale: float, mean: float = 0.0) -> np.ndarray:
        return (mean + scale * random.standard_normal(dims)).astype(np.float32)

    result = {
        "wte.weight": normal(shape["vocab_size"], width, scale=0.2),
        "wpe.weight": normal(shape["n_positions"], width, scale=0.3),
        "ln_f.weight": normal(width, scale=0.2, mean=1.0),
        "ln_f.bias": normal(width, scale=0.2),
    }
    for block in range(shape["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            result[f"h.{block}.{norm}.weight"] = normal(width, scale=0.2, mean=1.0)
            result[f"h.{block}.{norm}.bias"] = normal(width, scale=0.2)
        for layer, n_in, n_out in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, inner),
            ("mlp.c_proj", inner, width),
        ):
            result[f"h.{block}.{layer}.weight"] = normal(n_in, n_out, scale=2.0 / n_in**0.5)
            result[f"h.{block}.{layer}.bias"] = normal(n_out, scale=0.2)
    if shape.get("tie_word_embeddings") is False:
        result["lm_head.weight"] = normal(shape["vocab_size"], width, scale=0.4)
    return {
        name if name.startswith("lm_head") else f"transformer.{name}": tensor
        for name, tensor in result.items()
    }


def write_vocabulary(directory: Path, n_vocab: int) -> None:
    """Writes vocab.json and merges.txt: GPT-2's first n_vocab - 1 tokens, and <|endoftext|>."""
    lines = (ROOT / "sql/install/vocab.bpe").read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines[1:] if line][: n_vocab - 1 - 256]
    tokens = [*byte_encoder(), *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (directory / "merges.txt").write_text("\n".join([lines[0], *merges, ""]), encoding="utf-8")


def write_checkpoint(directory: Path, shape: dict, seed: int = 0, end: float = 0) -> Path:
    """Writes config.json and model.safetensors; returns the directory.

    end is added to the mean logit of <|endoftext|>, for texts that come to an end.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config(shape)))
    write_vocabulary(directory, shape["vocab_size"])
    weights = tensors(shape, seed)
    bias = weights["transformer.ln_f.bias"]
    output = weights.get("lm_head.weight", weights["transformer.wte.weight"])
    output[-1] += end * bias / (bias @ bias)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_loaded(directory: Path, name: str, seed: int) -> Path:
    """Writes a checkpoint of LOADED; returns the directory."""
    write_checkpoint(directory, LOADED[name])
    weights = tensors(LOADED[name], seed)
    if name == "loud":
        make_loud(weights, LOADED[name])
    for key, value in weights.items():
        if value.ndim == 2 and "wpe" not in key:
            weights[key] = value.astype(np.float16).astype(np.float32)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def make_loud(weights: dict[str, np.ndarray], shape: dict, factor: float = 2.0**17) -> None:
    """Makes activations large where a matrix reads them, and its weights small; queries, keys, and
    what is added to the residual stream stay as they were."""
    for block in range(shape["n_layer"]):
        h = f"transformer.h.{block}"
        for part in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
            weights[f"{h}.{part}"] *= factor
        weights[f"{h}.attn.c_attn.weight"][:, : 2 * shape["n_embd"]] /= factor
        weights[f"{h}.attn.c_proj.weight"] /= factor
        weights[f"{h}.mlp.c_proj.weight"] /= factor
    weights["transformer.ln_f.weight"] *= factor
    weights["transformer.ln_f.bias"] *= factor


def write_hub_cache(home: Path, model: str = "openai-community/gpt2") -> None:
    """Puts a tiny checkpoint where huggingface_hub keeps a model that it has fetched, so that its
    name can be typed without a network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = home / f".cache/huggingface/hub/models--{model.replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(commit)
    write_checkpoint(cache / "snapshots" / commit, SHAPES["one_block"])


def steering(shape: dict) -> list[tuple[int, int | None, np.ndarray, float]]:
    """(block, position or None for all, vector [n_embd], scale): before the first block, in the
    middle, after the last; twice at one place."""
    random = np.random.RandomState(2)
    return [
        (block, position, random.standard_normal(shape["n_embd"]).astype(np.float32), scale)
        for block, position, scale in [
            (0, 1, 0.5),
            (shape["n_layer"] - 1, None, -0.75),
            (shape["n_layer"] - 1, 2, 2.0),
            (shape["n_layer"], 3, 1.0),
        ]
    ]
