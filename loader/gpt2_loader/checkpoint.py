"""A model directory: config.json and safetensors files, checked against each other.

What the extension does not compute as transformers does is refused here, by name. Defaults and
synonyms are those of transformers' GPT2Config.
"""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

import numpy as np

from gpt2_loader import files
from gpt2_loader.errors import NO_FILE, UNSUPPORTED, WRONG_DATA, LoadError
from gpt2_loader.files import expect, member, show
from gpt2_loader.safetensors_header import ITEM_SIZE, read_header
from gpt2_loader.vocabulary import OWN_N_TOKEN, read_vocabulary

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"

# The last is that of trl's first versions. Models for a task (GPT2ForSequenceClassification, ...)
# are not among them: transformers' GPT2LMHeadModel reads them, but they were trained for their own
# head, and nothing kept the language model beside it what it was.
ARCHITECTURES = (
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2DoubleHeadsModel",
    "GPT2HeadWithValueModel",
)

# transformers has several names for the two formulas
ACTIVATIONS = {
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu": "gelu",
    "gelu_python": "gelu",
}

# Buffers of older checkpoints: the causal mask.
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")

# Heads beside the language model's: those of transformers, and trl's v_head.
HEADS = re.compile(r"(multiple_choice_head|summary|score|classifier|qa_outputs|v_head)\..*")

N_NAMED = 8  # tensors of a notice that are named

# files that may hold weights, in the place of model.safetensors
OTHER_WEIGHTS = re.compile(r"\.(safetensors|bin|pt|h5|msgpack)$|\.ckpt")

DTYPES = ("F32", "F16", "BF16")

MAX_NAME = 255  # characters of a file's name; no system has more

# A product of two float4 below about 1e-38 is an underflow, which pgvector raises as an error.
# Weights this small are stored as 0: beside a weight of usual size, 0.01, they are some 1e-28,
# and float4 resolves 1e-7.
TINY = 1e-30


class Config(NamedTuple):
    """config.json, in the extension's names; the fields are columns of gpt2.model."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int
    n_inner: int
    activation_function: str
    layer_norm_epsilon: float
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    tie_word_embeddings: bool


class Checkpoint:
    """A model directory whose files were checked; no tensor was read yet.

    config: a Config; vocabulary: a Vocabulary, or None for GPT-2's own; tokens: a Tokens; tensors:
    {name without "transformer.": Tensor}; n_bytes: size of these tensors; left_out: names of those
    of heads that language modelling does not use.

    tokenizer: which vocabulary is meant, where it is not the directory's: OWN for GPT-2's own, or
    another directory.

    `read_tensor(tensor, start, stop)` gives rows start .. stop - 1 of a Tensor as an array of
    floats: the client reads through the safetensors package, the server by itself. `progress` is
    told the bytes of each read.
    """

    def __init__(self, directory, read_tensor, progress=lambda n_bytes: None, tokenizer=None):
        files.names(directory)  # a directory that may not be read would look like an empty one
        self._read_tensor = read_tensor
        self._progress = progress
        self.directory = directory
        path, config = _config_file(directory)
        self.config = read_config(path, config)
        self.tensors, self.left_out = _find_tensors(directory, self.config)
        self._squares = dict.fromkeys(self.tensors, 0.0)
        self.n_bytes = sum(tensor.end - tensor.start for tensor in self.tensors.values())
        path, generation = _generation_config(directory, path, config)
        self.vocabulary = read_vocabulary(
            tokenizer, directory, config, self.config.n_vocab, generation.get("eos_token_id")
        )
        self.tokens = read_tokens(path, generation, self.config.n_vocab, self.vocabulary)

    def sha256(self):
        """Hash of the weight files, in the order of their names."""
        return files.sha256(sorted({tensor.path for tensor in self.tensors.values()}))

    def n_parameters(self):
        """Number of weights and biases in use."""
        return sum(
            (tensor.end - tensor.start) // ITEM_SIZE[tensor.dtype]
            for name, tensor in self.tensors.items()
            if not (name == "lm_head.weight" and self.config.tie_word_embeddings)
        )

    def notices(self):
        """What whoever loads the model should know of it, as texts."""
        if not self.left_out:
            return []
        names = ", ".join(map(show, self.left_out[:N_NAMED]))
        more = len(self.left_out) - N_NAMED
        return [
            f"left out {names}{f' and {more} more' if more > 0 else ''}: "
            "language modelling does not use them"
        ]

    def norm(self, name):
        """Root of the sum of the squares of a tensor's rows as far as they were read, each once; 0
        for a bias that the checkpoint does not have."""
        return math.sqrt(self._squares.get(name, 0.0))

    def read(self, name, start=0, stop=None):
        """Rows start .. stop - 1 of a tensor, all by default, as float32 [stop - start, ...]."""
        tensor = self.tensors[name]
        stop = tensor.shape[0] if stop is None else min(stop, tensor.shape[0])
        array = np.array(self._read_tensor(tensor, start, stop), dtype=np.float32)
        if not np.isfinite(array).all():
            raise LoadError(
                WRONG_DATA,
                f"tensor {show(tensor.name)} has a NaN or an infinity",
                f'It is in file "{tensor.path}".',
            )
        array[np.abs(array) < TINY] = 0
        with np.errstate(over="ignore"):
            self._squares[name] += float(np.vdot(array, array))
        self._progress((stop - start) * (tensor.end - tensor.start) // tensor.shape[0])
        return array

    def read_bias(self, name, n):
        """A bias [n]; one that the checkpoint does not have is 0."""
        return self.read(name) if name in self.tensors else np.zeros(n, dtype=np.float32)


def _config_file(directory):
    """The path of a model directory's config.json, and what it holds."""
    path = os.path.join(directory, "config.json")
    if not files.has(directory, "config.json"):
        lora = files.has(directory, "adapter_config.json")
        raise LoadError(
            NO_FILE,
            f'directory "{directory}" has no config.json',
            "It holds an adapter, not a model." if lora
            else "A model is a directory with config.json and model.safetensors.",
            "Merge the adapter into its model and save that." if lora else None,
        )  # fmt: skip
    return path, files.read_json(path)


def _generation_config(directory, path, config):
    """The path and content of the file that says what begins and ends a text: as in transformers
    generation_config.json, where there is one, in the place of config.json, which is given."""
    if not files.has(directory, GENERATION):
        return path, config
    path = os.path.join(directory, GENERATION)
    return path, files.read_json(path)


def read_config(path, config):
    """The Config that a config.json means."""

    def unsupported(what, supported=None):
        return LoadError(
            UNSUPPORTED, f"{what} is not supported", f'File "{path}" asks for it.', supported
        )

    def value(key, default, *synonyms):
        for name in (key, *synonyms):
            if config.get(name) is not None:
                return config[name]
        return default

    def number(key, default, *synonyms, most=None):
        n = value(key, default, *synonyms)
        if type(n) is not int or n < 1:
            raise LoadError(
                WRONG_DATA, f"{key} is not a positive integer: {show(n)}", f'File "{path}" has it.'
            )
        if most is not None and n > most:
            raise unsupported(f"{key} {n}", f"The largest is {most}.")
        return n

    def flag(key, default):
        return expect(value(key, default), bool, key, path)

    architectures = member(config, "architectures", list, path, [])
    model_type = config.get("model_type", "gpt2" if architectures else None)
    if model_type != "gpt2":
        raise unsupported(f"model_type {show(model_type)}", "Only gpt2 is.")
    if architectures and not any(name in ARCHITECTURES for name in architectures):
        raise unsupported(
            f"architecture {show(architectures[0])}", f"Supported are {', '.join(ARCHITECTURES)}."
        )
    if config.get("quantization_config"):
        raise unsupported("a quantized checkpoint", "Save the model in float32 or float16.")
    if flag("add_cross_attention", False):
        raise unsupported("add_cross_attention")
    activation = expect(value("activation_function", "gelu_new"), str, "activation_function", path)
    if activation not in ACTIVATIONS:
        raise unsupported(
            f"activation_function {show(activation)}", f"Supported are {', '.join(ACTIVATIONS)}."
        )
    epsilon = value("layer_norm_epsilon", 1e-5)
    if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
        raise LoadError(
            WRONG_DATA,
            f"layer_norm_epsilon is not between 0 and 1: {show(epsilon)}",
            f'File "{path}" has it.',
        )

    # pgvector's vector ends at 16000: of 4 * n_embd neurons, of values at all positions. Whether
    # the weights of a neuron fit a page depends on the server (gpt2._add_model).
    n_embd = number("n_embd", 768, "hidden_size", most=4000)
    n_head = number("n_head", 12, "num_attention_heads")
    if n_embd % n_head != 0:
        raise LoadError(
            WRONG_DATA,
            f"n_embd {n_embd} is not a multiple of n_head {n_head}",
            f'File "{path}" has them.',
        )
    return Config(
        n_vocab=number("vocab_size", OWN_N_TOKEN),
        n_ctx=number("n_positions", 1024, "max_position_embeddings", "n_ctx", most=16000),
        n_embd=n_embd,
        n_head=n_head,
        n_layer=number("n_layer", 12, "num_hidden_layers"),
        n_inner=number("n_inner", 4 * n_embd, most=16000),
        activation_function=ACTIVATIONS[activation],
        layer_norm_epsilon=float(epsilon),
        scale_attn_weights=flag("scale_attn_weights", True),
        # reorder_and_upcast_attn asks for the same in another order
        scale_attn_by_inverse_layer_idx=flag("scale_attn_by_inverse_layer_idx", False),
        tie_word_embeddings=flag("tie_word_embeddings", True),
    )


class Tokens(NamedTuple):
    """Which ids are tokens, and what they do; the fields are columns of gpt2.model."""

    n_token: int
    bos_token: int | None
    eos_tokens: list


def read_tokens(path, values, n_vocab, vocabulary):
    """The Tokens of a model with this many rows of wte. path, values: those of
    _generation_config; vocabulary: a Vocabulary, or None for GPT-2's own.

    As transformers does: config.json's default is GPT-2's <|endoftext|>; an id that no row has is
    never met.
    """
    has_default = os.path.basename(path) != GENERATION

    def ids(key, n_token):
        default = OWN_N_TOKEN - 1 if has_default and n_token == OWN_N_TOKEN else None
        value = values.get(key, default)
        value = [] if value is None else value if isinstance(value, list) else [value]
        wrong = [i for i in value if type(i) is not int]
        if wrong:
            raise LoadError(
                WRONG_DATA, f"{key} is not a token id: {show(wrong[0])}", f'File "{path}" has it.'
            )
        met = [i for i in dict.fromkeys(value) if 0 <= i < n_vocab]
        beyond = next((i for i in met if i >= n_token), None)
        if beyond is not None:
            raise LoadError(
                WRONG_DATA,
                f"{key} {beyond} is no token of the vocabulary",
                f"It has the tokens 0 to {n_token - 1}.",
                'Add it to added_tokens.json: {"<|endoftext|>": id}.',
            )
        return met

    n_token = vocabulary.n_token if vocabulary else OWN_N_TOKEN
    if n_vocab < n_token:
        # what is beyond the rows cannot be read; an added token need not be
        special = vocabulary.special if vocabulary else {}
        lost = [i for i in range(n_vocab, n_token) if i not in special]
        if lost:
            raise LoadError(
                WRONG_DATA,
                f"the vocabulary has {n_token} tokens, the model {n_vocab}",
                "Of some tokens there are no embeddings.",
                "Add the vocabulary that the model was trained with.",
            )
        n_token = n_vocab
    bos = ids("bos_token_id", n_token)
    return Tokens(n_token, bos[0] if bos else None, ids("eos_token_id", n_token))


def expected_tensors(config):
    """Every tensor of a model: its name and shape. HF's Conv1D weights are [n_in, n_out]."""
    n, n_inner = config.n_embd, config.n_inner
    yield "wte.weight", (config.n_vocab, n)
    yield "wpe.weight", (config.n_ctx, n)
    for block in range(config.n_layer):
        for layer, *shape in (
            ("ln_1", n),
            ("attn.c_attn", n, 3 * n),
            ("attn.c_proj", n, n),
            ("ln_2", n),
            ("mlp.c_fc", n, n_inner),
            ("mlp.c_proj", n_inner, n),
        ):
            yield f"h.{block}.{layer}.weight", tuple(shape)
            yield f"h.{block}.{layer}.bias", (shape[-1],)
    yield "ln_f.weight", (n,)
    yield "ln_f.bias", (n,)
    yield "lm_head.weight", (config.n_vocab, n)


def _find_tensors(directory, config):
    """{name: Tensor} of what expected_tensors names, and the names of what HEADS does; shapes,
    dtypes and names are checked."""
    found, left_out = {}, []
    for name, tensor in _all_tensors(directory).items():
        short = name[len("transformer.") :] if name.startswith("transformer.") else name
        if short in found:
            raise LoadError(
                WRONG_DATA,
                f"tensor {show(short)} is there twice",
                'Once with and once without "transformer." before its name.',
            )
        if HEADS.fullmatch(short):
            left_out.append(tensor.name)
        elif not BUFFERS.fullmatch(short):
            found[short] = tensor
    if config.tie_word_embeddings and "wte.weight" not in found and "lm_head.weight" in found:
        # save_model() of safetensors.torch writes what two names share under the first
        found["wte.weight"] = found.pop("lm_head.weight")

    tensors = {}
    for name, shape in expected_tensors(config):
        tensor = found.pop(name, None)
        if tensor is None:
            # a bias that is not there is 0; a tied lm_head is wte
            if name.endswith(".bias") or (name == "lm_head.weight" and config.tie_word_embeddings):
                continue
            raise LoadError(
                WRONG_DATA,
                f'tensor "{name}" is missing',
                f'Directory "{directory}" has no weight of that name.',
            )
        if tensor.dtype not in DTYPES:
            raise LoadError(
                UNSUPPORTED,
                f"tensor {show(tensor.name)} has the unsupported dtype {tensor.dtype}",
                f'It is in file "{tensor.path}".',
                "Save the model in float32, float16 or bfloat16.",
            )
        if tensor.shape != shape:
            raise LoadError(
                WRONG_DATA,
                f"tensor {show(tensor.name)} has shape {show(tensor.shape)} "
                f"instead of {list(shape)}",
                f'File "{tensor.path}" does not fit config.json.',
            )
        tensors[name] = tensor
    if found:
        tensor = min(found.values())
        raise LoadError(
            UNSUPPORTED,
            f"tensor {show(tensor.name)} is not one of GPT-2's",
            f'It is in file "{tensor.path}"; the model would not be what it is without it.',
            "A LoRA adapter has to be merged into its model before." if "lora_" in tensor.name
            else None,
        )  # fmt: skip
    return tensors, sorted(left_out)


def _all_tensors(directory):
    """{name: Tensor} of the directory's safetensors file, or of all that its index names."""
    if files.has(directory, WEIGHTS):
        return read_header(os.path.join(directory, WEIGHTS))
    if not files.has(directory, INDEX):
        others = [name for name in files.names(directory) if OTHER_WEIGHTS.search(name)]
        raise LoadError(
            NO_FILE,
            f'directory "{directory}" has no {WEIGHTS}',
            f"It has {', '.join(map(show, others[:8]))}." if others
            else f"It has no {INDEX} either.",
            "Convert it: save_pretrained() of transformers writes model.safetensors."
            if others else None,
        )  # fmt: skip
    return _sharded_tensors(directory, os.path.join(directory, INDEX))


def _sharded_tensors(directory, path):
    """{name: Tensor} of all that an index says, at a path. Nothing else of a shard is kept."""
    index = files.read_json(path, files.MAX_INDEX)
    names = {}
    for name, shard in expect(index.get("weight_map"), dict, "weight_map", path).items():
        expect(shard, str, "a shard in weight_map", path)
        is_name = os.path.basename(shard) == shard and len(shard) <= MAX_NAME
        if not is_name or not shard.endswith(".safetensors"):
            raise LoadError(
                WRONG_DATA,
                f'file "{path}" names {show(shard)}',
                "A shard is a safetensors file in the same directory.",
            )
        names.setdefault(shard, []).append(name)
    tensors = {}
    for shard in sorted(names):
        header = read_header(os.path.join(directory, shard))
        for name in names[shard]:
            if name not in header:
                raise LoadError(
                    WRONG_DATA,
                    f"tensor {show(name)} is missing",
                    f'File "{path}" says that it is in {show(shard)}.',
                )
            tensors[name] = header[name]
    return tensors
