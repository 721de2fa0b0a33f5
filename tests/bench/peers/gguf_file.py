"""A checkpoint as llama.cpp's file, GGUF.

What the architecture `gpt2` has in such a file, its tensors' names and the keys that say its shape,
is in the package gguf (gguf.MODEL_TENSORS, gguf.GGUFWriter) and in GGUF's specification:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import MODEL_TENSOR as T
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file

#: the weights of layer norms; all have a bias too
NORMS = {"ln_1": T.ATTN_NORM, "ln_2": T.FFN_NORM}
LINEAR = {
    "attn.c_attn": T.ATTN_QKV,
    "attn.c_proj": T.ATTN_OUT,
    "mlp.c_fc": T.FFN_UP,
    "mlp.c_proj": T.FFN_DOWN,
}
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
KINDS = {"f16": Kind.F16, "q8_0": Kind.Q8_0}


def write(directory: Path, path: Path, kind: str) -> None:
    """Writes a checkpoint of Hugging Face's layout to a file, its matrices as `f16` or `q8_0`.

    Layer norms, biases and position embeddings stay float32, as llama.cpp's own conversion has it.
    q8_0 takes blocks of 32 weights: n_embd and n_inner have to be multiples.
    """
    config = json.loads((directory / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "gpt2")
    add_shape(writer, config)
    writer.add_file_type(FILE_TYPES[kind])
    add_vocabulary(writer, directory, config)
    add_tensors(writer, load_file(directory / "model.safetensors"), config["n_layer"], KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: gguf.GGUFWriter, config: dict) -> None:
    """The hyperparameters."""
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-5))


def add_vocabulary(writer: gguf.GGUFWriter, directory: Path, config: dict) -> None:
    """Tokens in the order of their ids, merges in the order of their ranks."""
    ids = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    tokens = sorted(ids, key=ids.get)
    merges = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    end = config["eos_token_id"]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    kinds[end] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge for merge in merges if merge])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def add_tensors(
    writer: gguf.GGUFWriter, weights: dict[str, np.ndarray], n_layer: int, kind: Kind
) -> None:
    """Every tensor. GPT-2's linear weights are [n_in, n_out], and llama.cpp's [n_out, n_in]."""

    def add(tensor: T, suffix: str, value: np.ndarray, to: Kind = Kind.F32, block: int = 0) -> None:
        name = f"{gguf.TENSOR_NAMES[tensor].format(bid=block)}.{suffix}"
        value = gguf.quants.quantize(np.ascontiguousarray(value, dtype=np.float32), to)
        writer.add_tensor(name, value, raw_dtype=to)

    add(T.TOKEN_EMBD, "weight", weights["transformer.wte.weight"], kind)
    add(T.POS_EMBD, "weight", weights["transformer.wpe.weight"])
    if "lm_head.weight" in weights:
        add(T.OUTPUT, "weight", weights["lm_head.weight"], kind)
    for suffix in ("weight", "bias"):
        add(T.OUTPUT_NORM, suffix, weights[f"transformer.ln_f.{suffix}"])
    for block in range(n_layer):
        h = f"transformer.h.{block}"
        for name, tensor in NORMS.items():
            for suffix in ("weight", "bias"):
                add(tensor, suffix, weights[f"{h}.{name}.{suffix}"], block=block)
        for name, tensor in LINEAR.items():
            add(tensor, "weight", weights[f"{h}.{name}.weight"].T, kind, block)
            add(tensor, "bias", weights[f"{h}.{name}.bias"], block=block)
