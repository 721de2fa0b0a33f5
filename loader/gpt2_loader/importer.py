"""Loading a checked model into a database, in the caller's transaction.

The database is a target whose search_path is pg_catalog, with two methods:
execute(sql, *arguments), with $1, $2, ... in sql, gives a list of rows;
copy(table, columns, chunks) takes rows in COPY's binary format, in chunks of bytes.
"""

from __future__ import annotations

import json

import numpy as np

from gpt2_loader import copy_binary, overflow
from gpt2_loader.errors import BAD_ARGUMENT, WRONG_DATA, LoadError
from gpt2_loader.vocabulary import OwnPart

CHUNK = 1 << 23  # bytes of a tensor that are read at a time: bounds the memory

COLUMNS = {"float32": ("weight", np.float32), "float16": ("half", np.float16)}

LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # in the order of the enum


def check(name, dtype):
    """Refuses arguments that no model can be loaded by."""
    if dtype not in COLUMNS:
        raise LoadError(
            BAD_ARGUMENT,
            f'dtype "{dtype}" does not exist',
            "It is float32 or float16.",
            "Leave it out for float32; float16 takes half the space and two thirds of the time.",
        )
    if not name:
        raise LoadError(
            BAD_ARGUMENT, "the name of a model may not be empty", "It is what queries call it by."
        )


def load(
    target, checkpoint, name, source, revision=None, replace=False, make_default=False,
    dtype="float32", sha256=None,
):  # fmt: skip
    """Loads a Checkpoint under a name; the database's errors are for the caller.

    dtype: type of the linear layers' and the token embeddings' weights in the database; all
    else is float32. sha256: of the weight files, where the caller has read them.
    """
    check(name, dtype)
    properties = {
        **checkpoint.config._asdict(),
        **checkpoint.tokens._asdict(),
        "n_parameters": checkpoint.n_parameters(),
        "dtype": dtype,
        "source": source,
        "revision": revision,
        "sha256": sha256 or checkpoint.sha256(),
    }
    # One import at a time: a vocabulary found here must not go away with another model.
    target.execute("SELECT gpt2._lock_models()")
    properties["tokenizer"] = _tokenizer(target, checkpoint.vocabulary)
    [(model,)] = target.execute(
        "SELECT gpt2._add_model($1, $2::jsonb, $3, $4)",
        name, json.dumps(properties), replace, make_default,
    )  # fmt: skip
    pages = _Pages(target, model, dtype)
    target.copy(
        "matrix_page",
        f"model, block, layer, slice, page, {pages.column}",
        _matrices(checkpoint, pages),
    )
    target.copy("bias", "model, block, layer, bias", _biases(checkpoint, model))
    target.copy("layer_norm", "model, block, layer, weight, bias", _layer_norms(checkpoint, model))
    target.copy("wpe", 'model, "position", weight', _position_embeddings(checkpoint, model))
    overflow.check(checkpoint)
    target.execute("SELECT gpt2._finish_model($1)", model)


def _tokenizer(target, vocabulary):
    """The number of a vocabulary in gpt2.tokenizer; it is added where it is not there yet."""
    if vocabulary is None:
        return 1  # GPT-2's own; files that hold the same are found by their hash
    if isinstance(vocabulary, OwnPart):
        tokens = target.execute("SELECT bytes FROM gpt2.token WHERE tokenizer = 1 ORDER BY token")
        merges = target.execute(
            'SELECT "left", "right", token FROM gpt2.merge WHERE tokenizer = 1 ORDER BY rank'
        )
        vocabulary = vocabulary.vocabulary([bytes(text) for (text,) in tokens], merges)
    sha256 = vocabulary.sha256()
    found = target.execute("SELECT tokenizer FROM gpt2.tokenizer WHERE sha256 = $1", sha256)
    if found:
        return found[0][0]
    [(tokenizer,)] = target.execute(
        "SELECT gpt2._add_tokenizer($1, $2)", sha256, len(vocabulary.tokens)
    )
    target.copy(
        "token",
        "tokenizer, token, bytes, mergeable, special",
        [copy_binary.token_rows(tokenizer, vocabulary.tokens, vocabulary.special)],
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


class _Pages:
    """How a model's neurons are put in rows: page_size to a row, in a column of a type."""

    def __init__(self, target, model, dtype):
        self.model = model
        self.dtype = dtype
        self.column, self._numpy_dtype = COLUMNS[dtype]
        # an array in COPY's binary format names the type of its elements
        [(self.size, self._type)] = target.execute(
            """SELECT m.page_size, t.typelem::int
               FROM gpt2.model AS m, pg_catalog.pg_attribute AS a, pg_catalog.pg_type AS t
               WHERE m.model = $1 AND a.attrelid = 'gpt2.matrix_page'::regclass
                 AND a.attname = $2 AND t.oid = a.atttypid""",
            model, self.column,
        )  # fmt: skip

    def rows(self, tensor, key, first, weight):
        """Rows (model, key, page, weights) of neurons first, first + 1, ...: weight is [n, n_in],
        key is (block, layer, slice), first is a page's first."""
        with np.errstate(over="ignore"):
            weight = weight.astype(self._numpy_dtype, copy=False)
        if self.dtype == "float16" and not np.isfinite(weight).all():
            raise LoadError(
                WRONG_DATA,
                f'tensor "{tensor}" does not fit float16',
                "It has a weight above 65504.",
                "Load the model with dtype float32.",
            )
        whole = len(weight) // self.size * self.size
        for start, stop, size in ((0, whole, self.size), (whole, len(weight), len(weight) - whole)):
            if start < stop:
                page = np.arange((first + start) // self.size, -(-(first + stop) // self.size))
                values = weight[start:stop].reshape(len(page), size, -1)
                yield copy_binary.rows(
                    self.model, *key, page, copy_binary.Array(self._type, values)
                )


def _matrices(checkpoint, pages):
    """Rows of matrix_page, in the order of the key."""
    yield from _token_embeddings(checkpoint, pages, "wte")
    if not checkpoint.config.tie_word_embeddings:
        yield from _token_embeddings(checkpoint, pages, "lm_head")
    yield from _linear(checkpoint, pages)


def _token_embeddings(checkpoint, pages, name):
    """Rows of matrix_page: wte or lm_head, which are in no block."""
    n_rows = checkpoint.tensors[f"{name}.weight"].shape[0]
    step = max(1, CHUNK // (4 * checkpoint.config.n_embd * pages.size)) * pages.size
    for start in range(0, n_rows, step):
        weight = checkpoint.read(f"{name}.weight", start, start + step)
        if name == "wte" and checkpoint.config.tie_word_embeddings:
            _check_tie(checkpoint, weight, start)
        yield from pages.rows(f"{name}.weight", (-1, name, 0), start, weight)


def _position_embeddings(checkpoint, model):
    """Rows (model, position, weight [n_embd])."""
    weight = checkpoint.read("wpe.weight")
    yield copy_binary.rows(model, np.arange(len(weight)), weight)


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


def _layers(checkpoint):
    """(block, layer, tensor, n_in, n_out) of every linear layer, in the order of the key."""
    for block in range(checkpoint.config.n_layer):
        for layer in LINEAR:
            tensor = f"h.{block}.{layer}"
            yield block, layer, tensor, *checkpoint.tensors[f"{tensor}.weight"].shape


def _biases(checkpoint, model):
    """Rows (model, block, layer, bias [n_out])."""
    for block, layer, tensor, _, n_out in _layers(checkpoint):
        bias = checkpoint.read_bias(f"{tensor}.bias", n_out)
        yield copy_binary.rows(model, block, layer, bias[np.newaxis])


def _linear(checkpoint, pages):
    """Rows of matrix_page: the linear layers.

    A neuron is a column of the checkpoint's weight [n_in, n_out]: what one output unit makes of its
    inputs. Slice s holds inputs s * n_embd and on.
    """
    n_embd = checkpoint.config.n_embd
    for block, layer, tensor, n_in, _ in _layers(checkpoint):
        for start in range(0, n_in, n_embd):
            # [n_embd, n_out] -> [n_out, n_embd]
            weight = checkpoint.read(f"{tensor}.weight", start, start + n_embd).T
            key = (block, layer, start // n_embd)
            yield from pages.rows(f"{tensor}.weight", key, 0, weight)
