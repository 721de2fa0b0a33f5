"""Checkpoints that need something of the importer, or of float16, compute what transformers computes
from them (fixtures by tests/oracle/make_loading_fixtures.py); what loads does not overflow."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import PROPERTY, examples, one
from gpt2_loader.cli import app
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle.checkpoints import LOADED, write_loaded
from oracle.compare import assert_close, greedy, hidden_states, logits
from safetensors.numpy import load_file, save_file
from test_loader import (  # noqa: F401  fixtures among them
    CONFIG,
    DOORS,
    Refused,
    database,
    db,
    directory,
    load,
    load_by_client,
    make_tensors,
    write,
)
from test_trace import FORWARD, activations
from typer.testing import CliRunner

FIXTURES = np.load(Path(__file__).parent / "oracle" / "loading.npz")
#: what rounding to float16 may change, as a share of the largest
HALF = 0.02


@pytest.fixture(scope="module")
def checkpoint():
    """checkpoint(name): a directory of LOADED, which the server can read."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = Path(tempfile.mkdtemp(prefix="gpt2_test.", dir="/tmp"))
            made[name].chmod(0o755)
            write_loaded(made[name], name, int(FIXTURES[f"{name}/seed"]))
        return made[name]

    yield make
    for path in made.values():
        shutil.rmtree(path)


@pytest.fixture(params=DOORS)
def loaded(request, database, checkpoint):  # noqa: F811
    """loaded(name, dtype): loads a checkpoint of LOADED as m, by one door, then by the other."""
    return lambda name, dtype: DOORS[request.param](database, checkpoint(name), dtype=dtype)


def check_equal(db, name: str, dtype: str) -> None:  # noqa: F811
    """Whether the model m has transformers' hidden states, logits and greedy text."""
    db.execute("SET jit = off")  # as every public function sets it: what is called here lies below
    tokens = FIXTURES[f"{name}/tokens"].tolist()
    # the residual stream before each block and after ln_f: what is large is not all of them
    ours = [*hidden_states(db, tokens, "m")[:, -1], logits(db, tokens, "m")]
    theirs = [*FIXTURES[f"{name}/hidden"], FIXTURES[f"{name}/logits"]]
    for values, expected in zip(ours, theirs, strict=True):
        if dtype == "float32":
            assert_close(values, expected)
        else:
            assert np.abs(values - expected).max() <= HALF * np.abs(expected).max()
    expected = FIXTURES[f"{name}/greedy"].tolist()
    assert greedy(db, tokens, len(expected), "m") == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", [name for name in LOADED if name != "wide"])
def test_equals_transformers(db, loaded, name, dtype):  # noqa: F811
    loaded(name, dtype)
    check_equal(db, name, dtype)


# ---- scale_attn_by_inverse_layer_idx


@pytest.mark.parametrize("name", ["inverse_layer", "inverse_layer_only"])
def test_inverse_layer_activations(db, database, checkpoint, name):  # noqa: F811
    """Queries are transformers' own; the scores have the factor of their block."""
    load_by_client(database, checkpoint(name))
    tokens, shape = FIXTURES[f"{name}/tokens"].tolist(), LOADED[name]
    ours = activations(db, FORWARD, "m", tokens, ["q", "k", "attn_scores", "pattern"], None, None)
    n, n_head, n_seq = shape["n_embd"], shape["n_head"], len(tokens)
    visible = np.tril(np.ones((n_seq, n_seq), dtype=bool))
    for block in range(shape["n_layer"]):
        # [n_seq, n_embd] -> [n_head, n_seq, d]
        q, k = (
            part.reshape(n_seq, n_head, n // n_head).transpose(1, 0, 2)
            for part in np.split(FIXTURES[f"{name}/qkv"][block], 3, axis=1)[:2]
        )
        assert_close(ours[f"blocks.{block}.attn.hook_q"], q)
        assert_close(ours[f"blocks.{block}.attn.hook_k"], k)
        root = (n / n_head) ** 0.5 if shape.get("scale_attn_weights", True) else 1
        scores = q @ k.transpose(0, 2, 1) / root / (block + 1)
        assert_close(ours[f"blocks.{block}.attn.hook_attn_scores"], np.where(visible, scores, 0))
        assert_close(ours[f"blocks.{block}.attn.hook_pattern"], FIXTURES[f"{name}/pattern"][block])


def test_inverse_layer_is_a_part_of_the_shape(db, database, checkpoint, directory):  # noqa: F811
    """Two models that differ in it cannot be averaged; a variant has its base's."""
    load_by_client(database, checkpoint("inverse_layer"))
    shutil.copytree(checkpoint("inverse_layer"), directory, dirs_exist_ok=True)
    config = json.loads((directory / "config.json").read_text())
    config["scale_attn_by_inverse_layer_idx"] = False
    (directory / "config.json").write_text(json.dumps(config))
    load_by_client(database, directory, "other")
    with pytest.raises(psycopg.Error) as error:
        db.execute("SELECT gpt2_average('mean', 'm', 'other')")
    assert "scale_attn_by_inverse_layer_idx is true and false" in error.value.diag.message_detail
    with db.transaction(force_rollback=True):
        db.execute("SELECT gpt2_create_variant('v', 'm')")
        texts = {
            name: one(db, "SELECT gpt2_forward('{5,42,79}', %s)::text", name)
            for name in ("m", "v", "other")
        }
    assert texts["m"] == texts["v"] != texts["other"]


# ---- n_embd above 2000


def test_wide(db, loaded):  # noqa: F811
    """All that reads a model's small tables, which hold a row larger than a page, or its matrices."""
    loaded("wide", "float16")
    check_equal(db, "wide", "float16")
    tokens = FIXTURES["wide/tokens"].tolist()
    prompt = one(db, "SELECT gpt2_detokenize(%s)", tokens)
    assert one(db, "SELECT gpt2_tokenize(%s)", prompt) == tokens
    completion = FIXTURES["wide/greedy"].tolist()
    text = one(db, "SELECT gpt2_detokenize(%s)", tokens + completion)
    for query in (
        "SELECT gpt2_generate(%(prompt)s, %(n)s)",
        "SELECT gpt2_generate(%(prompt)s, %(n)s, prefix => gpt2_prefix(left(%(prompt)s, -1)))",
    ):
        arguments = {"prompt": prompt, "n": len(completion)}
        assert db.execute(query, arguments).fetchone()[0] == text
    best = one(db, "SELECT token FROM gpt2_next_token(%s, 1)", prompt)
    assert best == completion[0]
    rows = db.execute(
        "SELECT hook, count(*), max(vector_dims(value)) FROM gpt2_trace(%s) GROUP BY 1", [prompt]
    ).fetchall()
    assert ("mlp.hook_post", len(tokens), 2100) in rows
    assert ("attn.hook_q", 16 * len(tokens), 128) in rows
    # the parts of a logit add up to it
    logit = one(db, "SELECT logit FROM gpt2_next_token(%s, 1)", prompt)
    parts = one(
        db, "SELECT sum(contribution) FROM gpt2_direct_logit_attribution(%s, %s)", prompt, best
    )
    assert abs(parts - logit) <= HALF * abs(logit)
    with db.transaction(force_rollback=True):
        db.execute("SELECT gpt2_create_variant('v', 'm')")
        db.execute(
            """UPDATE gpt2.linear SET weight = weight - weight
               WHERE model = (SELECT model FROM gpt2.model WHERE name = 'v')
                 AND layer = 'mlp.c_proj' AND unit = 7 AND slice = 1"""
        )
        differences = db.execute("SELECT layer, unit FROM gpt2_model_diff('m', 'v')").fetchall()
    assert differences == [("mlp.c_proj", 7)]
    with pytest.raises(psycopg.errors.FeatureNotSupported) as error:
        db.execute(
            """UPDATE gpt2.linear SET bias = bias + 1
               WHERE block = 0 AND layer = 'mlp.c_proj' AND unit = 7 AND slice = 1"""
        )
    diag = error.value.diag
    assert diag.message_primary == "only the first slice of a neuron has a bias"
    assert diag.message_detail == "This is slice 1."


def test_wide_in_float32(db, loaded):  # noqa: F811
    with pytest.raises(Refused) as refusal:
        loaded("wide", "float32")
    assert refusal.value.sqlstate == "0A000"
    assert refusal.value.message == "n_embd 2048 is too wide for dtype float32"
    assert "--dtype float16" in refusal.value.hint
    assert one(db, "SELECT count(*) FROM gpt2.model") == 0


# ---- What float16 does not hold


@settings(PROPERTY, max_examples=100)
@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-70000, 70000, width=32),
        min_size=1,
        max_size=9,
    )
)
@example([65504.0])
@example([65504.0, 1.0])
@example([65520.0])
@example([131008.0])
@example([0.0])
@example([3e38, -3e38])
def test_vectors_as_float16(conn, x):
    """Divided by a power of two where they are too large, and rounded as numpy rounds."""
    half, factor = conn.execute(
        "SELECT half::vector::real[], factor FROM gpt2._to_half(%s::real[]::vector)", [x]
    ).fetchone()
    assert np.log2(factor) == int(np.log2(factor)) >= 0
    with np.errstate(over="ignore"):
        rounded = np.array(x, dtype=np.float32).astype(np.float16)
    norm = np.linalg.norm(np.array(x, dtype=np.float32).astype(np.float64))
    assert (factor == 1) == (norm <= 65504)
    if factor == 1:
        np.testing.assert_array_equal(np.array(half, dtype=np.float32), rounded)
    else:
        # not further down than has to be: float16 holds numbers above 6e-5 with all its digits
        assert 65504 / 2.001 <= norm / factor <= 65504 * 1.001
        expected = (np.array(x, dtype=np.float32).astype(np.float64) / factor).astype(np.float16)
        np.testing.assert_array_equal(np.array(half, dtype=np.float16), expected)


@settings(PROPERTY, max_examples=examples(25))
@given(
    st.lists(st.integers(0, 16), min_size=8, max_size=8),
    st.integers(0, 10),
    st.sampled_from(["float32", "float16"]),
)
def test_what_loads_does_not_overflow(database, powers, seed, dtype):  # noqa: F811
    """Weights of all magnitudes: a model is refused, or every function that reads it answers."""
    tensors = make_tensors(CONFIG, seed)
    groups = ["wte", "wpe", "ln_1", "ln_2", "c_attn", "c_fc", "c_proj", "ln_f"]
    for group, power in zip(groups, powers, strict=True):
        for name in tensors:
            if group in name:
                tensors[name] *= np.float32(10) ** power
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), tensors)
        try:
            load_by_client(database, Path(folder), "m", dtype=dtype)
        except Refused as refusal:
            assert refusal.sqlstate == "22000"
            assert "too large" in refusal.message or "does not fit float16" in refusal.message
            return
    with psycopg.connect(database, autocommit=True) as conn:
        try:
            y = conn.execute(
                "SELECT y::real[] FROM unnest(gpt2_forward('{1,2,3}')) AS y"
            ).fetchall()
            assert np.isfinite(np.array(y, dtype=np.float64)).all()
            conn.execute("SELECT * FROM gpt2_next_token('The', 3)")
            conn.execute("SELECT gpt2_generate('The', 4)")
        finally:
            conn.execute("SELECT gpt2_drop_model('m')")


# ---- Heads that are left out


def test_notice_of_the_command_line(db, database, checkpoint, directory):  # noqa: F811
    shutil.copytree(checkpoint("inverse_layer"), directory, dirs_exist_ok=True)
    weights = load_file(directory / "model.safetensors")
    arguments = ["load", str(directory), "--name", "m", "--dsn", database, "--replace"]
    assert CliRunner().invoke(app, arguments).stderr == ""
    heads = {f"v_head.{i}": np.zeros(1, dtype=np.float32) for i in range(10)}
    save_file(weights | heads, directory / "model.safetensors")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    named = ", ".join(f'"v_head.{i}"' for i in range(8))
    assert result.stderr == (
        f"gpt2-loader: notice: left out {named} and 2 more: language modelling does not use them\n"
    )
