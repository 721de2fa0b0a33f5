"""Live against transformers, 124M shape included: `make test-oracle`."""

from __future__ import annotations

import psycopg
import pytest
from conftest import BUNDLED, load_model
from oracle.checkpoints import LOADED, SHAPE_124M, SHAPES, write_checkpoint
from oracle.compare import assert_close, greedy, hidden_states, logits

pytestmark = pytest.mark.oracle

PROMPT = [17250, 612, 11, 995, 0, 383, 2068, 7586, 21831]


@pytest.fixture(scope="module")
def uri(new_database):
    return new_database(holds="extension")


@pytest.mark.parametrize("name", [*SHAPES, "inverse_layer", "inverse_layer_only", "demo", "124M"])
def test_equals_transformers(uri, tmp_path, name):
    from oracle import transformers_reference as reference

    if name == "demo":
        directory = BUNDLED
    else:
        directory = write_checkpoint(
            tmp_path / name, {**SHAPES, **LOADED, "124M": SHAPE_124M}[name], seed=1
        )
    load_model(uri, directory, name)
    model = reference.load(directory)
    tokens = [token % (model.config.vocab_size - 1) for token in PROMPT]

    hidden, last = reference.forward(model, tokens)
    expected, gap = reference.greedy(model, tokens, 64)
    with psycopg.connect(uri, autocommit=True) as conn:
        assert_close(hidden_states(conn, tokens, name), hidden)
        assert_close(logits(conn, tokens, name), last)
        chosen = greedy(conn, tokens, 64, name)
        if gap < 1e-3:  # where two logits are that close, either token is right
            chosen, expected = chosen[:1], expected[:1]
        assert chosen == expected
        conn.execute("SELECT gpt2_drop_model(%s)", [name])


def test_save_model(uri, tmp_path):
    """A shared tensor is written once: what transformers reads from such a file is read here."""
    from oracle import transformers_reference as reference
    from safetensors.torch import load_file, save_model

    directory = write_checkpoint(tmp_path, SHAPES["one_block"], seed=1)
    save_model(reference.load(directory), str(directory / "model.safetensors"), {"format": "pt"})
    assert "transformer.wte.weight" not in load_file(directory / "model.safetensors")
    load_model(uri, directory, "saved")
    tokens = [5, 42, 79, 57, 0]
    hidden, last = reference.forward(reference.load(directory), tokens)
    with psycopg.connect(uri, autocommit=True) as conn:
        assert_close(hidden_states(conn, tokens, "saved"), hidden)
        assert_close(logits(conn, tokens, "saved"), last)
        conn.execute("SELECT gpt2_drop_model('saved')")
