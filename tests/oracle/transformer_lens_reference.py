"""What TransformerLens computes: every activation of a checkpoint, patched and steered passes.

Weights are as in the checkpoint: no folding of layer norms, no centering. Since version 3
TransformerLens has hook_normalized before a layer norm's weight and bias, and since version 4 it
has hook_out after them; here that is the output of the module.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

OUTSIDE = ["hook_embed", "hook_pos_embed", "ln_final.hook_normalized", "ln_final.hook_out"]
RESIDUAL = [
    "hook_resid_pre",
    "ln1.hook_normalized",
    "ln1.hook_out",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_normalized",
    "ln2.hook_out",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
]
PER_HEAD = [
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
]


def load(directory: Path) -> HookedTransformer:
    """The checkpoint in float32, for inference."""
    source = GPT2LMHeadModel.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    c = source.config
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=c.n_layer,
            d_model=c.n_embd,
            n_ctx=c.n_positions,
            n_heads=c.n_head,
            d_head=c.n_embd // c.n_head,
            d_mlp=c.n_inner or 4 * c.n_embd,
            d_vocab=c.vocab_size,
            act_fn="gelu_new",
            eps=c.layer_norm_epsilon,
            use_attn_scale=c.scale_attn_weights,
            normalization_type="LN",
            device="cpu",
            dtype=torch.float32,
        )
    )
    model.load_and_process_state_dict(
        convert_gpt2_weights(source, model.cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


@torch.inference_mode()
def activations(model: HookedTransformer, tokens: list[int]) -> dict[str, np.ndarray]:
    """Full name of a hook point -> [n_seq, width], or [n_head, n_seq, width] where it has heads.

    Scores and patterns are [n_head, n_seq, n_seq]; scores of later positions are -inf.
    """
    names = OUTSIDE + [
        f"blocks.{block}.{name}"
        for block in range(model.cfg.n_layers)
        for name in RESIDUAL + PER_HEAD
    ]
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        _module(model, name).register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: output})
        )
        for name in names
        if name.endswith("hook_out")
    ]
    _, cache = model.run_with_cache(torch.tensor([tokens]))
    for handle in handles:
        handle.remove()
    activations = {**dict(cache), **outputs}
    return {name: _by_head(name, activations[name][0]).numpy().copy() for name in names}


def _module(model: HookedTransformer, hook_out: str) -> torch.nn.Module:
    """The layer norm whose output a name ending in .hook_out means."""
    return model.get_submodule(hook_out.removesuffix(".hook_out"))


def _by_head(name: str, value: torch.Tensor) -> torch.Tensor:
    """q, k, v and z have their heads after the positions, scores and patterns before them."""
    return value.transpose(0, 1) if name.rsplit("_", 1)[-1] in ("q", "k", "v", "z") else value


@torch.inference_mode()
def patched(
    model: HookedTransformer,
    tokens: list[int],
    values: dict[str, np.ndarray],
    steer: list[tuple[int, int | None, np.ndarray, float]] = (),
) -> np.ndarray:
    """ln_final.hook_out [n_seq, n_embd] of a pass in which hook points have other values.

    values: as activations() gives them. steer: (block, position or None for all, vector, scale),
    added to the residual stream before the block; block n_layer: after the last.
    """

    def replace(value):
        def hook(activation, hook):
            new = torch.tensor(value.copy())
            activation[0] = _by_head(hook.name, new)
            return activation

        return hook

    def add(position, vector, scale):
        def hook(activation, hook):
            activation[0, slice(None) if position is None else position] += scale * torch.tensor(
                vector
            )
            return activation

        return hook

    last = model.cfg.n_layers
    hooks = [
        (
            f"blocks.{block}.hook_resid_pre"
            if block < last
            else f"blocks.{last - 1}.hook_resid_post",
            add(position, vector, scale),
        )
        for block, position, vector, scale in steer
    ]
    hooks += [
        (name, replace(value)) for name, value in values.items() if not name.endswith("hook_out")
    ]
    seen = {}
    handles = [
        _module(model, name).register_forward_hook(
            lambda module, inputs, output, value=value: torch.tensor(value)[None]
        )
        for name, value in values.items()
        if name.endswith("hook_out")
    ]
    handles.append(
        model.ln_final.register_forward_hook(
            lambda module, inputs, output: seen.update(y=output[0].numpy().copy())
        )
    )
    model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks)
    for handle in handles:
        handle.remove()
    return seen["y"]
