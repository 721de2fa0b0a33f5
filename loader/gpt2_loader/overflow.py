"""Whether the activations of a model may pass what float32 holds.

A bound of each is derived from the norms of the weights alone, for any text. |x| is the Euclidean
norm of a vector, |W| the root of the sum of the squares of a matrix, so that no number of x is
above |x|, nor |W x| above |W| |x|, nor any part of the sums that make it:

    normalize(x)    sqrt(n_embd), whatever x is: what a block computes does not depend on the
                    blocks before it
    z               sqrt(n_head) |v|, as a head's mean of values is no longer than the longest
    gelu(x)         |x|
    residual        the sum of what is added to it

The variance in a layer norm and the inner products of queries and keys multiply two activations:
their bound is the root of float32's largest number. GPT-2's are around 1e9 by this estimate, and
some thousands in truth.
"""

from __future__ import annotations

import math

from gpt2_loader.errors import WRONG_DATA, LoadError

LARGEST = math.sqrt(3.4e38)


def check(checkpoint):
    """Raises a LoadError where activations of a Checkpoint, of which every tensor was read, may
    overflow."""
    for name, tensor in checkpoint.tensors.items():
        if checkpoint.norm(name) > LARGEST:
            raise LoadError(
                WRONG_DATA,
                f'the weights of tensor "{tensor.name}" are too large',
                f"Their norm is above {LARGEST:.1e}, so that float32 cannot hold its square.",
                _HINT,
            )
    for place, bound in _bounds(checkpoint.config, checkpoint.norm):
        if bound > LARGEST:
            name = max(checkpoint.tensors, key=checkpoint.norm)
            raise LoadError(
                WRONG_DATA,
                f"the weights are too large: {place} may overflow",
                f"With such weights it may be {bound:.0e}, and float32 cannot hold the square of "
                f"what is above {LARGEST:.1e}. The largest norm is that of tensor "
                f'"{checkpoint.tensors[name].name}", {checkpoint.norm(name):.1e}.',
                _HINT,
            )


_HINT = "Weights of a trained model are below a thousand: download or save it again."


def _bounds(config, norm):
    """(place, bound of the activations there), as a token meets them. norm(name): of a tensor."""

    def layer_norm(layer):
        return math.sqrt(config.n_embd) * norm(f"{layer}.weight") + norm(f"{layer}.bias")

    def linear(layer, x):
        return norm(f"{layer}.weight") * x + norm(f"{layer}.bias")

    residual = norm("wte.weight") + norm("wpe.weight")
    yield "the embedding", residual
    for block in range(config.n_layer):
        h = f"h.{block}"
        qkv = linear(f"{h}.attn.c_attn", layer_norm(f"{h}.ln_1"))
        yield f"attention in block {block}", qkv
        residual += linear(f"{h}.attn.c_proj", math.sqrt(config.n_head) * qkv)
        neurons = linear(f"{h}.mlp.c_fc", layer_norm(f"{h}.ln_2"))
        yield f"the perceptron in block {block}", neurons
        residual += linear(f"{h}.mlp.c_proj", neurons)
        yield f"the residual stream after block {block}", residual
    y = layer_norm("ln_f")
    yield "the layer norm after the blocks", y
    yield "a logit", y * norm("wte.weight" if config.tie_word_embeddings else "lm_head.weight")
