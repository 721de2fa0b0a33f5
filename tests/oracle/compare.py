"""Compares a loaded model with what transformers computed for it."""

from __future__ import annotations

import numpy as np
import psycopg

#: largest difference from the reference, as a share of its largest value
TOLERANCE = 1e-4


def assert_close(ours: np.ndarray, theirs: np.ndarray, what: str = "") -> None:
    assert ours.shape == theirs.shape, what
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max(), what


def vectors(conn: psycopg.Connection, expression: str, *arguments) -> np.ndarray:
    """The vector[] that an SQL expression gives, as an array [n_seq, n_embd]."""
    row = conn.execute(
        f"SELECT ARRAY(SELECT v::float4[] FROM unnest({expression}) AS v)", arguments
    ).fetchone()
    return np.array(row[0], dtype=np.float32)


def hidden_states(conn: psycopg.Connection, tokens: list[int], name: str) -> np.ndarray:
    """[n_layer + 1, n_seq, n_embd], a block at a time as a reader would walk; ln_f at the end."""
    blocks = conn.execute("SELECT n_layer FROM gpt2.model WHERE name = %s", [name]).fetchone()[0]
    x, states = "gpt2_embeddings(%s::int[], %s)", []
    arguments: list = [tokens, name]
    for block in range(blocks):
        states.append(vectors(conn, x, *arguments))
        x, arguments = f"gpt2_block({x}, %s, %s)", [*arguments, block, name]
    states.append(vectors(conn, "gpt2_forward(%s::int[], %s)", tokens, name))
    return np.stack(states)


def logits(conn: psycopg.Connection, tokens: list[int], name: str) -> np.ndarray:
    """[n_vocab]: after the last token, by the cached path that generation takes."""
    rows = conn.execute(
        """SELECT u.logits
           FROM (SELECT c AS m FROM gpt2._chosen_model(%s::text) AS c OFFSET 0) AS m
           CROSS JOIN LATERAL (
               SELECT (gpt2._run(gpt2._begin(%s::int[], m.m), m.m, %s)).y[%s] AS y OFFSET 0) AS c
           CROSS JOIN LATERAL gpt2._unembed(c.y, m.m) AS u""",
        [name, tokens, len(tokens), len(tokens)],
    ).fetchone()
    return np.array(rows[0], dtype=np.float32)


def greedy(conn: psycopg.Connection, tokens: list[int], n: int, name: str) -> list[int]:
    """Up to n tokens that greedy generation chooses after the given ones."""
    row = conn.execute(
        """SELECT (gpt2._run(gpt2._begin(%s::int[], m.m), m.m, least(%s, (m.m).n_ctx))).tokens[%s + 1:]
           FROM (SELECT c AS m FROM gpt2._chosen_model(%s::text) AS c OFFSET 0) AS m""",
        [tokens, len(tokens) + n, len(tokens), name],
    ).fetchone()
    return row[0]
