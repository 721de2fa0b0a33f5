"""Models with float16 weights: half the memory, and the same text but for rounding."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from calls import all_calls, not_counted
from conftest import DEMO, ROOT, load_model
from oracle.checkpoints import SHAPES, tensors, write_checkpoint
from oracle.compare import hidden_states
from safetensors.numpy import load_file, save_file

PROMPTS = ["Happy New Year!", "SELECT", "The server", "CREATE TABLE", "In 1999, the", "é", ""]
#: two logits that are closer may change places when weights are rounded to 11 bits
GAP = 0.05


@pytest.fixture(scope="module")
def both(new_database):
    """A connection to a database with the tests' model as 'single' and as 'half'."""
    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as conn:
        load_model(uri, DEMO, "single")
        load_model(uri, DEMO, "half", "--dtype", "float16")
        yield conn


def test_weights_are_rounded_to_float16(both):
    expected = load_file(DEMO / "model.safetensors")
    wte = np.array(
        [
            row[0]
            for row in both.execute(
                """SELECT weight::real[] FROM gpt2.wte JOIN gpt2.model USING (model)
           WHERE name = 'half' ORDER BY token"""
            )
        ],
        dtype=np.float32,
    )
    source = expected[next(name for name in expected if name.endswith("wte.weight"))]
    np.testing.assert_array_equal(wte, source.astype(np.float16).astype(np.float32))
    rows = both.execute(
        """SELECT bias, weight::real[] FROM gpt2.linear JOIN gpt2.model USING (model)
           WHERE name = 'half' AND block = 3 AND layer = 'mlp.c_fc' ORDER BY unit"""
    ).fetchall()
    source = expected[next(name for name in expected if name.endswith("h.3.mlp.c_fc.weight"))]
    np.testing.assert_array_equal(
        np.array([row[1] for row in rows], dtype=np.float32),
        source.T.astype(np.float16).astype(np.float32),
    )
    source = expected[next(name for name in expected if name.endswith("h.3.mlp.c_fc.bias"))]
    np.testing.assert_array_equal(np.array([row[0] for row in rows], dtype=np.float32), source)


def test_listed(both):
    query = "SELECT name, dtype, size FROM gpt2_models() ORDER BY 1"
    assert both.execute(query).fetchall() == [
        ("half", "float16", "4436 kB"),
        ("single", "float32", "8872 kB"),
    ]


def test_same_tokens(both):
    """Greedy text is the same up to the first choice between two logits that are close."""
    n_chosen = 0
    for prompt in PROMPTS:
        text = prompt
        for _ in range(20):
            first, second = both.execute(
                "SELECT token, logit, piece FROM gpt2_next_token(%s, 2, model => 'single')", [text]
            ).fetchall()
            if first[1] - second[1] < GAP:
                break
            half = both.execute(
                "SELECT token, logit FROM gpt2_next_token(%s, 1, model => 'half')", [text]
            ).fetchone()
            assert half[0] == first[0], text
            assert abs(half[1] - first[1]) < GAP
            text += first[2]
            n_chosen += 1
    assert n_chosen > 40


def test_calls(both):
    """No fence is lost, in either dtype: each function is called as often as tests/calls.py
    counted when the numbers were looked at."""
    expected = json.loads((ROOT / "tests/expected/calls.json").read_text())
    left_out = not_counted(both)
    assert all_calls(both) == {
        query: {name: n for name, n in counts.items() if name not in left_out}
        for query, counts in expected.items()
    }


def test_activation_is_asked_once(both):
    """A fence that counts of calls do not show: reading a field of a row is no call."""
    plan = [
        row[0]
        for row in both.execute(
            """EXPLAIN (VERBOSE) SELECT f.y FROM (SELECT c AS m FROM gpt2._chosen_model('single'::text) AS c OFFSET 0) AS m
           CROSS JOIN LATERAL gpt2._mlp('[1]', m.m, 0) AS f"""
        )
    ]
    assert any("activation_function" in line for line in plan)
    assert [line for line in plan if "tanh" in line and "activation_function" in line] == []


def perplexity(conn: psycopg.Connection, model: str, text: str) -> float:
    """Over the first 200 tokens of a text, a forward pass for all of them."""
    (nats,) = conn.execute(
        """WITH t AS MATERIALIZED (SELECT (gpt2_tokenize(%(text)s, %(model)s))[:200] AS tokens)
           SELECT avg(s.total - s.logit)
           FROM t
           CROSS JOIN (SELECT c AS m FROM gpt2._chosen_model(%(model)s) AS c OFFSET 0) AS m
           CROSS JOIN unnest(gpt2_forward(t.tokens, %(model)s)) WITH ORDINALITY AS p (y, n)
           CROSS JOIN LATERAL (
               SELECT ln(sum(exp(l.logit))) AS total,
                      max(l.logit) FILTER (WHERE l.n = t.tokens[p.n + 1] + 1) AS logit
               FROM gpt2._unembed(p.y, m.m) AS u,
                    unnest(u.logits) WITH ORDINALITY AS l (logit, n)
           ) AS s
           WHERE p.n < cardinality(t.tokens)""",
        {"text": text, "model": model},
    ).fetchone()
    return float(np.exp(nats))


@pytest.mark.parametrize("file", ["README.md", "docs/design.md"])
def test_perplexity(both, file):
    text = (ROOT / file).read_text(encoding="utf-8")
    single, half = (perplexity(both, name, text) for name in ("single", "half"))
    print(f"perplexity of {file}: float32 {single:.4f}, float16 {half:.4f}")
    assert 1 < single < 8192
    assert abs(half / single - 1) <= 0.005


@pytest.mark.parametrize("shape", ["odd_widths", "untied", "narrow_mlp"])
def test_shapes(new_database, tmp_path, shape):
    """Widths that fill no page evenly, odd ones too: near a float32 model of the same weights."""
    uri = new_database(holds="extension")
    rounded = {
        name: value.astype(np.float16).astype(np.float32)
        if value.ndim == 2 and "wpe" not in name
        else value
        for name, value in tensors(SHAPES[shape]).items()
    }
    directory = write_checkpoint(tmp_path, SHAPES[shape])
    save_file(rounded, directory / "model.safetensors", metadata={"format": "pt"})
    with psycopg.connect(uri, autocommit=True) as conn:
        load_model(uri, directory, "single")
        load_model(uri, directory, "half", "--dtype", "float16")
        single, half = (hidden_states(conn, [5, 42, 79, 116], name) for name in ("single", "half"))
    assert np.abs(half - single).max() <= 0.02 * np.abs(single).max()


def test_weight_too_large(new_database, tmp_path):
    uri = new_database(holds="extension")
    shape = SHAPES["one_block"]
    weights = tensors(shape)
    weights["transformer.h.0.mlp.c_fc.weight"][3, 4] = 70000
    directory = write_checkpoint(tmp_path, shape)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with psycopg.connect(uri, autocommit=True) as conn:
        with pytest.raises(AssertionError, match=r'"h\.0\.mlp\.c_fc\.weight" does not fit float16'):
            load_model(uri, directory, "m", "--dtype", "float16")
        assert conn.execute("SELECT count(*) FROM gpt2.model").fetchone() == (0,)
        load_model(uri, directory, "m")


# ---- Editing a neuron through the views


@pytest.fixture
def tx(both):
    with both.transaction(force_rollback=True):
        yield both


@pytest.mark.parametrize("name", ["single", "half"])
def test_edit_neurons(tx, name):
    """An update of the view changes those neurons, and no others, and what the model says."""

    def neurons():
        return dict(
            tx.execute(
                """SELECT (block, layer, slice, unit)::text, (bias, weight)::text
               FROM gpt2.linear JOIN gpt2.model USING (model)
               WHERE name = %s""",
                [name],
            ).fetchall()
        )

    def text():
        return tx.execute("SELECT gpt2_generate('The', 4, model => %s)", [name]).fetchone()

    before, said = neurons(), text()
    # the value units of head 1 in block 2, several to a page
    changed = tx.execute(
        """UPDATE gpt2.linear AS l SET bias = 0.5, weight = l.weight - l.weight
           FROM gpt2.model AS m WHERE m.model = l.model AND m.name = %s
             AND l.block = 2 AND l.layer = 'attn.c_attn' AND l.unit BETWEEN 288 AND 319""",
        [name],
    )
    assert changed.rowcount == 32
    after = neurons()
    zero = "[" + ",".join(["0"] * 128) + "]"
    assert {key: value for key, value in after.items() if value != before[key]} == {
        f"(2,attn.c_attn,0,{unit})": f'(0.5,"{zero}")' for unit in range(288, 320)
    }
    assert text() != said


@pytest.mark.parametrize("name", ["single", "half"])
def test_edit_embedding(tx, name):
    best = tx.execute("SELECT token FROM gpt2_next_token('The', 1, model => %s)", [name]).fetchone()
    tx.execute(
        """UPDATE gpt2.wte AS w SET weight = w.weight - w.weight FROM gpt2.model AS m
                  WHERE m.model = w.model AND m.name = %s AND w.token = %s""",
        [name, *best],
    )
    rows = tx.execute(
        "SELECT token, logit FROM gpt2_next_token('The', NULL, model => %s)", [name]
    ).fetchall()
    assert dict(rows)[best[0]] == 0 and rows[0][0] != best[0]


@pytest.mark.parametrize(
    "change, code, message",
    [
        ("unit = unit + 1", "0A000", "cannot move a row of gpt2.linear"),
        ("model = 7", "0A000", "cannot move a row of gpt2.linear"),
        ("weight = '[1,2]'", "22023", "the weight does not fit gpt2.linear"),
        ("weight = NULL", "22023", "the weight does not fit gpt2.linear"),
        ("bias = NULL", "22023", "the bias does not fit gpt2.linear"),
    ],
)
def test_bad_edit(both, change, code, message):
    with pytest.raises(psycopg.Error) as error:
        both.execute(f"UPDATE gpt2.linear SET {change} WHERE block = 1 AND unit = 3")
    diag = error.value.diag
    assert (diag.sqlstate, diag.message_primary) == (code, message)
    assert diag.message_detail and diag.message_hint
