"""Loading a checked model into a database, in the caller's transaction.

The database is a target with two methods:
execute(sql, *arguments), with $1, $2, ... in sql, gives a list of rows;
copy(table, columns, chunks) takes rows in COPY's binary format, in chunks of bytes.
"""

from __future__ import annotations

import json

import numpy as np

from gpt2_loader import copy_binary
from gpt2_loader.errors import BAD_ARGUMENT, WRONG_DATA, LoadError

CHUNK = 1 << 23  # bytes of a tensor that are read at a time: bounds the memory

LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # in the order of the enum


def load(target, checkpoint, name, source, revision=None, replace=False, make_default=False):
    """Loads a Checkpoint under a name; the database's errors are for the caller."""
    if not name:
        raise LoadError(
            BAD_ARGUMENT, "the name of a model may not be empty", "It is what queries call it by."
        )
    properties = {
        **checkpoint.config._asdict(),
        "n_token": checkpoint.n_token,
        "eos_token": checkpoint.eos_token,
        "n_parameters": checkpoint.n_parameters(),
        "precision": "float32",
        "source": source,
        "revision": revision,
        "sha256": checkpoint.sha256(),
    }
    # One import at a time: a vocabulary found here must not go away with another model.
    target.execute("LOCK TABLE gpt2.model IN SHARE ROW EXCLUSIVE MODE")
    properties["tokenizer"] = _tokenizer(target, checkpoint.vocabulary)
    [(model,)] = target.execute(
        "SELECT gpt2._add_model($1, $2::jsonb, $3, $4)",
        name, json.dumps(properties), replace, make_default,
    )  # fmt: skip
    target.copy("wte", "model, token, weight", _embeddings(checkpoint, model, "wte"))
    target.copy("wpe", 'model, "position", weight', _embeddings(checkpoint, model, "wpe"))
    target.copy(
        "layer_norm", "model, block, layer, weight, bias", _layer_norms(checkpoint, model)
    )
    target.copy(
        "linear", "model, block, layer, slice, unit, bias, weight", _linear(checkpoint, model)
    )
    if not checkpoint.config.tie_word_embeddings:
        target.copy("lm_head", "model, token, weight", _embeddings(checkpoint, model, "lm_head"))
    target.execute("SELECT gpt2._finish_model($1)", model)


def _tokenizer(target, vocabulary):
    """The number of a vocabulary in gpt2.tokenizer; it is added where it is not there yet."""
    if vocabulary is None:
        return 1  # GPT-2's own; files that hold the same are found by their hash
    sha256 = vocabulary.sha256()
    found = target.execute("SELECT tokenizer FROM gpt2.tokenizer WHERE sha256 = $1", sha256)
    if found:
        return found[0][0]
    [(tokenizer,)] = target.execute(
        "SELECT gpt2._add_tokenizer($1, $2)", sha256, len(vocabulary.tokens)
    )
    target.copy(
        "token",
        "tokenizer, token, bytes, mergeable",
        [copy_binary.token_rows(tokenizer, vocabulary.tokens)],
    )
    if vocabulary.merges:
        left, right, token = np.array(vocabulary.merges, dtype=np.int32).T
        target.copy(
            "merge",
            'tokenizer, rank, "left", "right", token',
            [copy_binary.rows(tokenizer, np.arange(len(token)), left, right, token)],
        )
    target.execute("SELECT gpt2._finish_tokenizer($1)", tokenizer)
    return tokenizer


def _embeddings(checkpoint, model, name):
    """Rows (model, row number, weight [n_embd]) of wte, wpe or lm_head."""
    n_rows = checkpoint.tensors[f"{name}.weight"].shape[0]
    step = max(1, CHUNK // (4 * checkpoint.config.n_embd))
    for start in range(0, n_rows, step):
        weight = checkpoint.read(f"{name}.weight", start, start + step)
        if name == "wte" and checkpoint.config.tie_word_embeddings:
            _check_tie(checkpoint, weight, start)
        yield copy_binary.rows(model, np.arange(start, start + len(weight)), weight)


def _check_tie(checkpoint, wte, start):
    """A file of a tied model may hold lm_head.weight too; it has to be the same as wte.weight."""
    if "lm_head.weight" in checkpoint.tensors:
        lm_head = checkpoint.read("lm_head.weight", start, start + len(wte))
        if not np.array_equal(lm_head, wte):
            raise LoadError(
                WRONG_DATA,
                'tensor "lm_head.weight" differs from "wte.weight"',
                "tie_word_embeddings in config.json says that they are the same.",
                'Set "tie_word_embeddings": false where the model has an output projection of '
                "its own.",
            )


def _layer_norms(checkpoint, model):
    """Rows (model, block, layer, weight [n_embd], bias [n_embd])."""
    n_layer, n_embd = checkpoint.config.n_layer, checkpoint.config.n_embd
    for block in range(n_layer + 1):
        for layer in ("ln_1", "ln_2") if block < n_layer else ("ln_f",):
            tensor = f"h.{block}.{layer}" if block < n_layer else layer
            weight = checkpoint.read(f"{tensor}.weight")
            bias = checkpoint.read_bias(f"{tensor}.bias", n_embd)
            yield copy_binary.rows(model, block, layer, weight[np.newaxis], bias[np.newaxis])


def _linear(checkpoint, model):
    """Rows (model, block, layer, slice, unit, bias, weight [n_embd]), in the order of the key.

    A row is a column of the checkpoint's weight [n_in, n_out]: what one output unit makes of its
    inputs. Slice s holds inputs s * n_embd and on; the bias is in slice 0.
    """
    n_embd = checkpoint.config.n_embd
    for block in range(checkpoint.config.n_layer):
        for layer in LINEAR:
            tensor = f"h.{block}.{layer}"
            n_in, n_out = checkpoint.tensors[f"{tensor}.weight"].shape
            bias = checkpoint.read_bias(f"{tensor}.bias", n_out)
            for start in range(0, n_in, n_embd):
                # [n_embd, n_out] -> [n_out, n_embd]
                weight = checkpoint.read(f"{tensor}.weight", start, start + n_embd).T
                yield copy_binary.rows(
                    model, block, layer, start // n_embd, np.arange(n_out), bias, weight
                )
                bias = np.zeros_like(bias)
