"""The forward pass equals transformers': fixtures of several shapes made by
tests/oracle/make_fixtures.py (hidden states of every block, logits, 64 greedy tokens)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracle.checkpoints import N_GREEDY, SHAPES
from oracle.compare import assert_close, greedy, hidden_states, logits

FIXTURES = np.load(Path(__file__).parent / "oracle" / "fixtures.npz")


@pytest.mark.parametrize("name", SHAPES)
def test_hidden_states(shapes, name):
    tokens = FIXTURES[f"{name}/tokens"].tolist()
    assert_close(hidden_states(shapes, tokens, name), FIXTURES[f"{name}/hidden"])


@pytest.mark.parametrize("name", SHAPES)
def test_logits(shapes, name):
    tokens = FIXTURES[f"{name}/tokens"].tolist()
    assert_close(logits(shapes, tokens, name), FIXTURES[f"{name}/logits"])


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens(shapes, name):
    tokens = FIXTURES[f"{name}/tokens"].tolist()
    assert greedy(shapes, tokens, N_GREEDY, name) == FIXTURES[f"{name}/greedy"].tolist()


@pytest.mark.parametrize("name", SHAPES)
def test_cached_equals_uncached(shapes, name):
    """Every token of the cached greedy text is the argmax of one uncached pass over all of it."""
    text = FIXTURES[f"{name}/tokens"].tolist()
    n_prompt = len(text)
    text += FIXTURES[f"{name}/greedy"].tolist()
    uncached = shapes.execute(
        """SELECT array_agg(best.n - 1 ORDER BY p.n)
           FROM (SELECT c AS m FROM gpt2._chosen_model(%s::text) AS c OFFSET 0) AS m
           CROSS JOIN unnest(gpt2_forward(%s::int[], %s)) WITH ORDINALITY AS p (y, n)
           CROSS JOIN LATERAL (
               SELECT l.n
               FROM gpt2._unembed(p.y, m.m) AS u, unnest(u.logits) WITH ORDINALITY AS l (logit, n)
               ORDER BY l.logit DESC, l.n LIMIT 1
           ) AS best
           WHERE p.n >= %s""",
        [name, text[:-1], name, n_prompt],
    ).fetchone()[0]
    assert uncached == text[n_prompt:]
