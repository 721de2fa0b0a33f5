"""The forward pass equals transformers': fixtures of several shapes, and of the bundled model, made by
tests/oracle/make_fixtures.py (hidden states of every block, logits, 64 greedy tokens)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import PROPERTY, examples
from hypothesis import given, settings
from hypothesis import strategies as st
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


#: of keys and queries, whose numbers are whole here: their products are exact in float32
D = 8


def text_of(rows: np.ndarray) -> list[str]:
    """A row a text, as vector[] is read from."""
    return [str(row.tolist()) for row in rows]


@settings(PROPERTY, max_examples=examples(400))
@given(
    seed=st.integers(0, 2**32 - 1),
    n_past=st.integers(0, 40),
    n_recent=st.integers(1, 16),
    scale=st.floats(-6, 6).map(lambda x: 10**x),
    shift=st.sampled_from([0, 100, -100]),
)
def test_attention_at_any_scale(seed, n_past, n_recent, scale, shift, bundled_dsn):
    """The cached positions' attention is a softmax, whatever its scores: small, so large that exp
    has no float for them, or all far from 0."""
    random = np.random.default_rng(seed)
    q, k = random.integers(-3, 4, D), random.integers(-3, 4, (n_past + n_recent, D))
    q[0], k[:, 0] = 1, shift  # a part that all scores have
    v = random.standard_normal((n_past + n_recent, D)).astype(np.float32)
    scores = k.astype(float) @ q * scale
    weights = np.exp(scores - scores.max())
    expected = weights @ v.astype(float) / weights.sum()
    past = "ROW(%(k)s::vector[], %(v)s::vector[])::gpt2._past" if n_past else "NULL"
    with psycopg.connect(bundled_dsn) as conn:
        (z,) = conn.execute(
            f"""SELECT a.z::float4[]
                FROM gpt2._attend_cached(%(q)s::vector, {past}, %(recent_k)s::vector[],
                                         %(recent_v)s::vector[], %(scale)s) AS a""",
            {
                "q": str(q.tolist()),
                "k": text_of(k[:n_past]),
                "v": text_of(v[:n_past].T),
                "recent_k": text_of(k[n_past:]),
                "recent_v": text_of(v[n_past:]),
                "scale": scale,
            },
        ).fetchone()
    assert np.abs(np.array(z) - expected).max() <= 1e-5 * np.abs(v).max()


@pytest.mark.parametrize("n_past", [0, 3])
def test_infinite_scores(bundled_dsn, n_past):
    """There is no softmax of them. Nothing that loads has any; what is edited by hand may."""
    past = "ROW(%(k)s::vector[], %(v)s::vector[])::gpt2._past" if n_past else "NULL"
    k, v = ["[1e30,0]", "[1,0]", "[2,0]"], ["[1,2,3]", "[1,2,3]"]
    with (
        psycopg.connect(bundled_dsn) as conn,
        pytest.raises(psycopg.errors.DataException, match="NaN not allowed in vector"),
    ):
        conn.execute(
            f"""SELECT a.z
                FROM gpt2._attend_cached('[1e30,0]', {past}, %(k)s::vector[], %(k)s::vector[],
                                         1) AS a""",
            {"k": k, "v": v},
        )
