"""Models that are far off: what a float cannot hold is infinity, or next to nothing, and no error.
The last layer norm is scaled up, so that logits are thousands or millions apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from conftest import number, one
from test_sessions import CALLS

TEXT = "PostgreSQL is an object"


@pytest.fixture(scope="module", params=[1e3, 1e6])
def session(request, demo_dsn) -> Iterator[psycopg.Connection]:
    """A session whose model is a variant of demo with the last layer norm's weights times so much."""
    with psycopg.connect(demo_dsn) as connection:
        connection.execute("SELECT gpt2_create_variant('bad')")
        connection.execute(
            """UPDATE gpt2.layer_norm SET weight = ARRAY(
                   SELECT x * %s FROM unnest(weight::real[]) AS x)::vector
               WHERE layer = 'ln_f' AND model = %s""",
            [request.param, number(connection, "bad")],
        )
        connection.execute("SET gpt2.model = 'bad'")
        yield connection
        connection.rollback()


@pytest.fixture
def bad(session) -> Iterator[psycopg.Connection]:
    """The same, for one test: an error ends no other's transaction."""
    with session.transaction(force_rollback=True):
        yield session


def log_softmax(bad: psycopg.Connection, tokens: list[int]) -> np.ndarray:
    """[n_seq, n_vocab], float64: by the activations that gpt2_forward gives."""
    cursor = bad.cursor(binary=True)

    def matrix(query: str, *arguments) -> np.ndarray:
        return np.array([row[0] for row in cursor.execute(query, arguments)], dtype=np.float64)

    y = matrix("SELECT unnest(gpt2_forward(%s::int[]))::real[]", tokens)
    wte = matrix("SELECT weight::real[] FROM gpt2.wte WHERE model = %s ORDER BY token",
                 number(bad, "bad"))  # fmt: skip
    logits = y @ wte.T
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def tokens_of(bad: psycopg.Connection, text: str = TEXT) -> list[int]:
    return one(bad, "SELECT gpt2_tokenize(%s)", text)


def test_every_function_gives_rows(bad):
    for query in CALLS:
        assert bad.execute(query).fetchall() or "gpt2_model_diff" in query


def test_score(bad):
    tokens = tokens_of(bad)
    logprobs = log_softmax(bad, tokens)
    rows = bad.execute("SELECT logprob, rank, entropy, surprisal_bits FROM gpt2_score(%s)", [TEXT])
    assert rows.fetchone() == (None, None, None, None)
    for n, (logprob, rank, entropy, bits) in enumerate(rows):
        expected = logprobs[n, tokens[n + 1]]
        np.testing.assert_allclose(logprob, expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(bits, -logprob / np.log(2), rtol=1e-12)
        assert rank == 1 + (logprobs[n] > expected).sum()
        shares = np.exp(logprobs[n])
        bits = -(shares * np.where(shares > 0, logprobs[n], 0)).sum() / np.log(2)
        np.testing.assert_allclose(entropy, bits, rtol=1e-2, atol=1e-3)


def test_perplexity(bad):
    """exp of the mean surprisal: infinity where that is above 709.78, as numpy and torch have it."""
    tokens = tokens_of(bad)
    surprisal = -log_softmax(bad, tokens)[np.arange(len(tokens) - 1), tokens[1:]].mean()
    with np.errstate(over="ignore"):
        expected = np.exp(surprisal)
    found = one(bad, "SELECT gpt2_perplexity(%s)", TEXT)
    assert np.isinf(expected) == np.isinf(found)
    if np.isfinite(expected):
        np.testing.assert_allclose(np.log(found), surprisal, rtol=1e-4)


@pytest.mark.parametrize("nats", [-1e-9, 0, 1, 700, 709.782712893384, 709.782712893385, 710, 1e308])
def test_perplexity_of_a_surprisal(demo, nats):
    with np.errstate(over="ignore"):
        expected = np.exp(np.float64(nats))
    np.testing.assert_allclose(
        one(demo, "SELECT gpt2._perplexity(%s::float8)", nats), expected, rtol=1e-12
    )


def test_next_token(bad):
    logprobs = log_softmax(bad, tokens_of(bad))[-1]
    rows = bad.execute("SELECT token, probability FROM gpt2_next_token(%s, NULL)", [TEXT])
    token, probability = np.array(rows.fetchall()).T
    np.testing.assert_allclose(
        probability, np.exp(logprobs[token.astype(int)]), rtol=1e-2, atol=1e-12
    )


def test_choose(bad):
    choices = [" that", " in", " table of", " x"]
    prompt = tokens_of(bad)
    sums = []
    for choice in choices:
        tokens = tokens_of(bad, choice)
        logprobs = log_softmax(bad, prompt + tokens)
        sums.append(sum(logprobs[len(prompt) - 1 + n, token] for n, token in enumerate(tokens)))
    rows = bad.execute(
        "SELECT choice, logprob, probability FROM gpt2_choose(%s, %s)", [TEXT, choices]
    ).fetchall()
    best = max(sums)
    for choice, logprob, probability in rows:
        expected = sums[choices.index(choice)]
        np.testing.assert_allclose(logprob, expected, rtol=1e-4, atol=1e-3)
        share = np.exp(expected - best) / np.exp(np.array(sums) - best).sum()
        np.testing.assert_allclose(probability, share, rtol=1e-2, atol=1e-12)
    assert rows[0][0] == choices[int(np.argmax(sums))]
    assert one(bad, "SELECT gpt2_classify(%s, %s)", TEXT, choices) == rows[0][0]


def test_beam(bad):
    """The second likeliest token is far below what exp() can tell."""
    logprobs = log_softmax(bad, tokens_of(bad))[-1]
    rows = bad.execute(
        "SELECT token, logprob, cumulative FROM gpt2_beam(%s, 1, 4) WHERE step = 1", [TEXT]
    ).fetchall()
    assert len(rows) == 8
    for token, logprob, cumulative in rows:
        assert logprob == cumulative
        np.testing.assert_allclose(logprob, logprobs[token], rtol=1e-4, atol=1e-3)


def test_logprobs_of_completions(bad):
    tokens = tokens_of(bad)
    [(chosen, logprobs)] = bad.execute(
        "SELECT tokens, logprobs FROM gpt2_complete(%s, 3, temperature => 1e6, seed => 2)", [TEXT]
    ).fetchall()
    expected = log_softmax(bad, tokens + chosen)
    for n, (token, logprob) in enumerate(zip(chosen, logprobs, strict=True)):
        np.testing.assert_allclose(
            logprob, expected[len(tokens) - 1 + n, token], rtol=1e-4, atol=1e-3
        )


def test_bar_of_surprisal(bad):
    """A character a bit would be megabytes."""
    rows = bad.execute("SELECT bits, surprisal FROM gpt2_surprisal_text(%s)", [TEXT]).fetchall()
    assert any(row[0] and row[0] > 100 for row in rows)
    for bits, bar in rows[1:]:
        assert len(bar) == min(64, np.ceil(np.round(8 * float(bits)) / 8)) or bits < 64
        assert len(bar) <= 64
