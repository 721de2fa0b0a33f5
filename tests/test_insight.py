"""The relations over the trace equal what numpy makes of the same activations and the weights as the
checkpoint's file has them; the activations are TransformerLens' (tests/test_trace.py)."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import psycopg
import pytest
from conftest import DEMO, cases, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.checkpoints import SHAPES, tensors
from safetensors.numpy import load_file
from test_trace import FIXTURES, activations

PROMPTS = [
    "PostgreSQL is",
    "the table and the table and the index",
    "é",
    "a",
    "",
    "CREATE TABLE t (a int);\n\nCREATE",
]


class Model:
    """A model's weights by their names in the file, float64, and its activations over a prompt."""

    def __init__(self, conn: psycopg.Connection, name: str, weights: dict, epsilon: float):
        self.conn, self.name, self.epsilon = conn, name, epsilon
        self.weights = {
            key.removeprefix("transformer."): value.astype(np.float64)
            for key, value in weights.items()
        }

    def __getitem__(self, key: str) -> np.ndarray:
        return self.weights[key]

    @property
    def unembedding(self) -> np.ndarray:
        return self.weights.get("lm_head.weight", self["wte.weight"])

    @cached_property
    def pieces(self) -> dict[int, str]:
        """The text of each token."""
        return dict(
            self.rows(
                """SELECT t, gpt2_detokenize(ARRAY[t], %s)
                                 FROM generate_series(0, %s - 1) AS t""",
                self.name,
                len(self["wte.weight"]),
            )
        )

    def trace(self, prompt: str) -> dict[str, np.ndarray]:
        self.activations = activations(
            self.conn, "SELECT * FROM gpt2_trace(%s, model => %s)", prompt, self.name
        )
        self.n_layer = 1 + max(
            int(key.split(".")[1]) for key in self.activations if key.startswith("blocks")
        )
        return self.activations

    def tokens(self, prompt: str) -> list[int]:
        (tokens,) = self.conn.execute(
            "SELECT gpt2_tokenize(%s, %s)", (prompt, self.name)
        ).fetchone()
        return tokens or [len(self["wte.weight"]) - 1]

    def ln_f(self, x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + self.epsilon) * self["ln_f.weight"]
            + self["ln_f.bias"]
        )

    def rows(self, query: str, *arguments) -> list[tuple]:
        return self.conn.execute(query, arguments).fetchall()


@pytest.fixture(scope="module", params=["demo", "untied", "narrow_mlp", "odd_widths"])
def model(request, demo_dsn, shapes):
    if request.param == "demo":
        with psycopg.connect(demo_dsn, autocommit=True) as conn:
            yield Model(conn, "demo", load_file(DEMO / "model.safetensors"), 1e-5)
    else:
        shape, seeds = (
            SHAPES[request.param],
            np.load(FIXTURES.zip.filename.replace("trace.npz", "fixtures.npz")),
        )
        yield Model(
            shapes,
            request.param,
            tensors(shape, int(seeds[f"{request.param}/seed"])),
            shape.get("layer_norm_epsilon", 1e-5),
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ---- Attention


@pytest.mark.parametrize("prompt", cases(PROMPTS, PROMPTS[:3]))
def test_attention(model, prompt):
    trace = model.trace(prompt)
    tokens = model.tokens(prompt)
    pieces = [model.pieces[token] for token in tokens]
    for block, head in ((0, 0), (model.n_layer - 1, 1)):
        pattern = trace[f"blocks.{block}.attn.hook_pattern"][head]
        rows = model.rows(
            "SELECT * FROM gpt2_attention(%s, %s, %s, %s)", prompt, block, head, model.name
        )
        assert [row[:4] for row in rows] == [
            (q, pieces[q], k, pieces[k]) for q in range(len(tokens)) for k in range(q + 1)
        ]
        np.testing.assert_array_equal(
            [row[4] for row in rows], [pattern[row[0], row[2]] for row in rows]
        )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_head_summary(model, prompt):
    trace = model.trace(prompt)
    tokens = model.tokens(prompt)
    n = len(tokens)
    rows = model.rows("SELECT * FROM gpt2_head_summary(%s, %s)", prompt, model.name)
    expected = []
    for block in range(model.n_layer):
        for head, p in enumerate(trace[f"blocks.{block}.attn.hook_pattern"].astype(np.float64)):
            later = range(1, n)
            repeated = [q for q in later if tokens[q] in tokens[:q]]
            same = [sum(p[q, k] for k in range(q) if tokens[k] == tokens[q]) for q in repeated]
            after = [sum(p[q, k + 1] for k in range(q) if tokens[k] == tokens[q]) for q in repeated]
            entropy = [-sum(w * np.log2(w) for w in p[q] if w > 0) for q in later]
            expected.append(
                (
                    block,
                    head,
                    *(
                        None if not values else float(np.mean(values))
                        for values in (
                            [p[q, q - 1] for q in later],
                            [p[q, 0] for q in later],
                            [p[q, q] for q in later],
                            same,
                            after,
                            entropy,
                        )
                    ),
                )
            )
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    for ours, theirs in zip(rows, expected, strict=False):
        assert [v is None for v in ours] == [v is None for v in theirs]
        np.testing.assert_allclose(
            [v for v in ours if v is not None],
            [v for v in theirs if v is not None],
            rtol=1e-6,
            atol=1e-9,
        )


# ---- The logit lens


@pytest.mark.parametrize("prompt", cases(PROMPTS, PROMPTS[:3]))
@pytest.mark.parametrize("top_k", [1, 5])
def test_logit_lens(model, prompt, top_k):
    trace = model.trace(prompt)
    tokens = model.tokens(prompt)
    rows = model.rows("SELECT * FROM gpt2_logit_lens(%s, %s, %s)", prompt, top_k, model.name)
    assert [row[:2] + row[3:4] for row in rows] == [
        (block, position, rank)
        for block in range(model.n_layer)
        for position in range(len(tokens))
        for rank in range(1, top_k + 1)
    ]
    for block, position, _piece, rank, token, _prediction, logit, probability in rows:
        logits = model.unembedding @ model.ln_f(trace[f"blocks.{block}.hook_resid_post"][position])
        p = softmax(logits)
        assert abs(logit - logits[token]) < 1e-4 * np.abs(logits).max()
        assert abs(probability - p[token]) < 1e-4
        assert abs(logits[token] - np.sort(logits)[-rank]) < 1e-3 * np.abs(logits).max()
    pieces = model.pieces
    assert [(row[2], row[5]) for row in rows] == [
        (pieces[tokens[row[1]]], pieces[row[4]]) for row in rows
    ]


def test_last_lens_is_the_model(demo):
    lens = demo.execute("""SELECT rank, token, prediction, logit, probability
                           FROM gpt2_logit_lens('The table', 8)
                           WHERE block = 5 AND "position" = 1""").fetchall()
    expected = demo.execute("""SELECT rank, token, piece, logit, probability
                               FROM gpt2_next_token('The table', NULL)
                               ORDER BY rank LIMIT 8""").fetchall()
    assert [row[:3] for row in lens] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3:] for row in lens], [row[3:] for row in expected], rtol=1e-4)


def test_surprisal(model):
    prompt = "the table and the index are the same"
    trace, tokens = model.trace(prompt), model.tokens(prompt)
    rows = model.rows(
        """SELECT "position", token, piece, surprisal_bits
                         FROM gpt2_score(%s, %s)""",
        prompt,
        model.name,
    )
    p = softmax(trace["ln_final.hook_out"].astype(np.float64) @ model.unembedding.T)
    assert [row[:2] for row in rows] == list(enumerate(tokens))
    assert rows[0][3] is None
    np.testing.assert_allclose(
        [row[3] for row in rows[1:]],
        [-np.log2(p[i, token]) for i, token in enumerate(tokens[1:])],
        rtol=1e-4,
        atol=1e-5,
    )


# ---- Attribution


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("token", [None, 7, 250])
def test_direct_logit_attribution(model, prompt, token):
    """Each part by itself, from the weights; and all of them add up to the logit."""
    trace = model.trace(prompt)
    logits = model.unembedding @ model.ln_f(
        trace[f"blocks.{model.n_layer - 1}.hook_resid_post"][-1]
    )
    rows = model.rows(
        "SELECT * FROM gpt2_direct_logit_attribution(%s, %s, %s)", prompt, token, model.name
    )
    target = int(np.argmax(logits)) if token is None else token
    final = trace[f"blocks.{model.n_layer - 1}.hook_resid_post"][-1].astype(np.float64)
    deviation = np.sqrt(final.var() + model.epsilon)

    def part(x):
        x = x.astype(np.float64)
        return (x - x.mean()) / deviation * model["ln_f.weight"] @ model.unembedding[target]

    n_embd = len(final)
    expected = [
        ("hook_embed", None, None, part(trace["hook_embed"][-1])),
        ("hook_pos_embed", None, None, part(trace["hook_pos_embed"][-1])),
    ]
    for block in range(model.n_layer):
        z = trace[f"blocks.{block}.attn.hook_z"]
        w_o = model[f"h.{block}.attn.c_proj.weight"].reshape(len(z), -1, n_embd)
        expected.append(
            ("attn.c_proj.bias", block, None, part(model[f"h.{block}.attn.c_proj.bias"]))
        )
        expected += [
            ("attn.hook_z", block, head, part(z[head, -1] @ w_o[head])) for head in range(len(z))
        ]
        expected.append(
            ("hook_mlp_out", block, None, part(trace[f"blocks.{block}.hook_mlp_out"][-1]))
        )
    expected.append(("ln_f.bias", None, None, model["ln_f.bias"] @ model.unembedding[target]))
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    scale = np.abs(logits).max()
    np.testing.assert_allclose(
        [row[3] for row in rows], [row[3] for row in expected], rtol=0, atol=2e-4 * scale
    )
    assert abs(sum(row[3] for row in rows) - logits[target]) < 2e-4 * scale


def test_attribution_of_float16(shapes, new_database):
    """The parts add up to the logit with rounded weights too."""
    from conftest import load_model

    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as conn:
        load_model(uri, DEMO, "half", "--dtype", "float16")
        (total,) = conn.execute(
            "SELECT sum(contribution) FROM gpt2_direct_logit_attribution('PostgreSQL is')"
        ).fetchone()
        (logit,) = conn.execute("SELECT logit FROM gpt2_next_token('PostgreSQL is', 1)").fetchone()
        assert abs(total - logit) < 0.01


# ---- Neurons


@pytest.mark.parametrize("prompt", ["PostgreSQL is", "a"])
def test_neurons(model, prompt):
    trace = model.trace(prompt)
    block = model.n_layer - 1
    rows = model.rows("SELECT * FROM gpt2_neurons(%s, %s, 3, %s)", prompt, block, model.name)
    post = trace[f"blocks.{block}.mlp.hook_post"]
    pieces = model.pieces
    tokens = model.tokens(prompt)
    assert [row[:3] for row in rows] == [
        (position, pieces[token], rank)
        for position, token in enumerate(tokens)
        for rank in (1, 2, 3)
    ]
    for position, _, rank, neuron, activation, pushes in rows:
        assert activation == post[position, neuron] == np.sort(post[position])[-rank]
        logits = model.unembedding @ (
            model[f"h.{block}.mlp.c_proj.weight"][neuron] * model["ln_f.weight"]
        )
        # the order of equal ones is by rounding: compare the logits, and that they are different
        by_piece = {}
        for token in np.argsort(-logits)[:8]:
            by_piece.setdefault(pieces[int(token)], logits[token])
        assert len(pushes) == 5
        assert all(piece in by_piece for piece in pushes)
        np.testing.assert_allclose(by_piece[pushes[0]], logits.max(), rtol=1e-4)


# ---- NULL, and bad input


@pytest.mark.parametrize(
    "call",
    [
        "gpt2_attention(NULL, 0, 0)",
        "gpt2_head_summary(NULL)",
        "gpt2_logit_lens(NULL)",
        "gpt2_direct_logit_attribution(NULL)",
        "gpt2_neurons(NULL, 0)",
    ],
)
def test_null_prompt(demo, call):
    assert demo.execute(f"SELECT * FROM {call}").fetchall() == []


BAD = [
    *[
        (f"gpt2_attention('x', {block}, 0)", f'block {block} does not exist in model "demo"')
        for block in ("6", "-1", "NULL")
    ],
    *[
        (f"gpt2_attention('x', 0, {head})", f'head {head} does not exist in model "demo"')
        for head in ("4", "-1", "NULL")
    ],
    *[
        (f"gpt2_neurons('x', {block})", f'block {block} does not exist in model "demo"')
        for block in ("6", "-1", "NULL")
    ],
    ("gpt2_logit_lens('x', 0)", "top_k must be 1 or more"),
    ("gpt2_neurons('x', 0, 0)", "top_k must be 1 or more"),
    *[
        (
            f"gpt2_direct_logit_attribution('x', {token})",
            f'token {token} is not in the vocabulary of model "demo"',
        )
        for token in ("8192", "-1")
    ],
    *[
        (call, 'model "absent" does not exist')
        for call in (
            "gpt2_attention('x', 0, 0, 'absent')",
            "gpt2_head_summary('x', 'absent')",
            "gpt2_logit_lens('x', 1, 'absent')",
            "gpt2_neurons('x', 0, 1, 'absent')",
            "gpt2_direct_logit_attribution('x', 1, 'absent')",
            "gpt2_trace('x', model => 'absent')",
        )
    ],
]


@pytest.mark.parametrize("call, message", BAD, ids=[row[0] for row in BAD])
def test_bad_input(demo, call, message):
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        demo.execute(f"SELECT * FROM {call}")
    diag = error.value.diag
    assert diag.message_primary == message
    assert diag.message_detail.endswith(".") and diag.message_hint


@settings(max_examples=examples(15), deadline=None)
@given(st.text(max_size=40).filter(lambda text: "\0" not in text))
def test_any_text(demo_dsn, text):
    """Weights of each position add up to 1, and the parts to the logit, whatever the prompt."""
    text = text.encode("utf-8", "ignore").decode()
    with psycopg.connect(demo_dsn) as conn:
        for (total,) in conn.execute(
            """SELECT sum(weight) FROM gpt2_attention(%s, 5, 3)
                   GROUP BY query_position""",
            [text],
        ):
            assert abs(total - 1) < 1e-5
        (total,) = conn.execute(
            "SELECT sum(contribution) FROM gpt2_direct_logit_attribution(%s)", [text]
        ).fetchone()
        (logit,) = conn.execute("SELECT logit FROM gpt2_next_token(%s, 1)", [text]).fetchone()
        assert abs(total - logit) < 1e-4 * abs(logit) + 1e-3


def test_attribution_of_tiny_weights(demo):
    """A product of two floats that are no zeros may be less than a float can be."""
    with demo.transaction(force_rollback=True):
        for table, scale, where in (
            ("layer_norm", 1e-30, "layer = 'ln_f'"),
            ("wte", 1e-20, "token = 5"),
        ):
            demo.execute(
                f"""UPDATE gpt2.{table} SET weight = ARRAY(
                        SELECT x * {scale} FROM unnest(weight::real[]) AS x)::vector
                    WHERE {where}"""
            )
        rows = demo.execute("SELECT contribution FROM gpt2_direct_logit_attribution('The x', 5)")
        assert np.isfinite([row[0] for row in rows]).all()
