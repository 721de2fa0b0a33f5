"""Live against transformers, 124M shape included: `make test-oracle`."""

from __future__ import annotations

import psycopg
import pytest
from conftest import DEMO, load_model
from oracle.checkpoints import SHAPE_124M, SHAPES, write_checkpoint
from oracle.compare import assert_close, greedy, hidden_states, logits

pytestmark = pytest.mark.oracle

PROMPT = [17250, 612, 11, 995, 0, 383, 2068, 7586, 21831]


@pytest.fixture(scope="module")
def uri(new_database):
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION gpt2 CASCADE")
    return uri


@pytest.mark.parametrize("name", [*SHAPES, "demo", "124M"])
def test_equals_transformers(uri, tmp_path, name):
    from oracle import transformers_reference as reference

    if name == "demo":
        directory = DEMO
    else:
        directory = write_checkpoint(tmp_path / name, {**SHAPES, "124M": SHAPE_124M}[name], seed=1)
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
