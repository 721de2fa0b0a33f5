"""Writes tests/oracle/trace.npz: what TransformerLens computes from the checkpoints.

Usage: build/venv/bin/python tests/oracle/make_trace_fixtures.py   (needs the group `lens`)

<shape>/tokens, <shape>/source    two prompts of N_SEQ tokens
<shape>/<hook point>              every activation over tokens
<shape>/patched/<hook point>      ln_final over tokens, with that activation of source in its place
                                  (hook_pos_embed: its own, from last to first)
<shape>/steered                   ln_final over tokens, steered by steering(shape)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from checkpoints import N_TRACED, SHAPES, steering, write_checkpoint
from transformer_lens_reference import activations, load, patched

FOLDER = Path(__file__).parent


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    seeds = np.load(FOLDER / "fixtures.npz")
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            model = load(write_checkpoint(Path(directory), shape, int(seeds[f"{name}/seed"])))
        random = np.random.RandomState(1)
        tokens, source = random.randint(0, shape["vocab_size"] - 1, (2, N_TRACED)).tolist()
        own, other = activations(model, tokens), activations(model, source)
        arrays |= {f"{name}/tokens": np.array(tokens), f"{name}/source": np.array(source)}
        arrays |= {f"{name}/{hook}": value for hook, value in own.items()}
        # the same in every prompt: the other way round
        other["hook_pos_embed"] = other["hook_pos_embed"][::-1]
        for hook, value in other.items():
            y = patched(model, tokens, {hook: value})
            assert np.abs(y - own["ln_final.hook_out"]).max() > 0.01, (name, hook)
            arrays[f"{name}/patched/{hook}"] = y
        arrays[f"{name}/steered"] = patched(model, tokens, {}, steering(shape))
        print(f"{name}: {len(own)} hook points")
    np.savez_compressed(FOLDER / "trace.npz", **arrays)


if __name__ == "__main__":
    main()
