"""The forward pass equals transformers': fixtures of several shapes, and of the bundled model, made by
tests/oracle/make_fixtures.py (hidden states of every block, logits, 64 greedy tokens)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from oracle.checkpoints import N_GREEDY, SHAPES
from oracle.compare import assert_close, greedy, hidden_states, logits

FIXTURES = np.load(Path(__file__).parent / "oracle" / "fixtures.npz")


@pytest.fixture(params=[*SHAPES, "demo"])
def name(request) -> str:
    return request.param


@pytest.fixture
def model(request, name: str) -> Iterator[psycopg.Connection]:
    """A connection to a database that has the model of this name; demo is the bundled one."""
    if name in SHAPES:
        yield request.getfixturevalue("shapes")
    else:
        with psycopg.connect(request.getfixturevalue("bundled_dsn"), autocommit=True) as connection:
            connection.execute("SET jit = off")
            yield connection


def test_hidden_states(model, name):
    tokens = FIXTURES[f"{name}/tokens"].tolist()
    assert_close(hidden_states(model, tokens, name), FIXTURES[f"{name}/hidden"])


def test_logits(model, name):
    tokens = FIXTURES[f"{name}/tokens"].tolist()
    assert_close(logits(model, tokens, name), FIXTURES[f"{name}/logits"])


def test_greedy_tokens(model, name):
    tokens = FIXTURES[f"{name}/tokens"].tolist()
    assert greedy(model, tokens, N_GREEDY, name) == FIXTURES[f"{name}/greedy"].tolist()


def test_cached_equals_uncached(model, name):
    """Every token of the cached greedy text is the argmax of one uncached pass over all of it."""
    text = FIXTURES[f"{name}/tokens"].tolist()
    n_prompt = len(text)
    text += FIXTURES[f"{name}/greedy"].tolist()
    uncached = model.execute(
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
