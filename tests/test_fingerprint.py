"""gpt2_fingerprint: the same where a model is the same, another as soon as one number differs."""

from __future__ import annotations

import json
import shutil

import psycopg
import pytest
from conftest import DEMO, ROOT, load_model, one
from oracle.checkpoints import SHAPES, write_checkpoint

FINGERPRINT = "SELECT gpt2_fingerprint(%s)"


@pytest.fixture(scope="module")
def db(new_database, tmp_path_factory):
    """Models whose files differ in one thing each, by name."""
    uri = new_database(holds="extension")
    folder = tmp_path_factory.mktemp("models")
    load_model(uri, DEMO, "first")
    load_model(uri, DEMO, "half", "--dtype", "float16")
    shape = SHAPES["one_block"]
    for name, changes in {
        "same": {},
        "epsilon": {"layer_norm_epsilon": 1.0000000000000002e-5},
        "end": {"eos_token_id": 5},
        "activation": {"scale_attn_weights": False},
    }.items():
        path = write_checkpoint(folder / name, shape)
        config = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps(config))
        load_model(uri, path, name)
    other = folder / "vocabulary"
    shutil.copytree(folder / "same", other)
    vocabulary = json.loads((other / "vocab.json").read_text())
    a, b = (token for token in vocabulary if vocabulary[token] in (7, 8))
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "vocab.json").write_text(json.dumps(vocabulary))
    load_model(uri, other, "vocabulary")
    with psycopg.connect(uri, autocommit=True) as connection:
        yield connection


def test_the_same_in_another_database(db, demo):
    """Whatever the model's number is there, and by whatever name it goes."""
    assert one(db, FINGERPRINT, "first") == one(demo, FINGERPRINT, "demo")
    assert one(demo, "SELECT gpt2_fingerprint()") == one(demo, FINGERPRINT, "demo")
    assert len(one(demo, FINGERPRINT, "demo")) == 64


def test_models_that_differ(db):
    """In dtype, shape, end or vocabulary."""
    names = ["first", "half", "same", "epsilon", "end", "activation", "vocabulary"]
    assert len({one(db, FINGERPRINT, name) for name in names}) == len(names)


CHANGES = [
    "UPDATE gpt2.linear SET weight = weight + weight WHERE block = 1 AND layer = 'mlp.c_fc'"
    " AND slice = 0 AND unit = 7",
    "UPDATE gpt2.wte SET weight = weight + weight WHERE token = 300",
    "UPDATE gpt2.bias SET bias = bias + bias WHERE block = 2 AND layer = 'attn.c_proj'",
    "UPDATE gpt2.layer_norm SET bias = bias + bias WHERE layer = 'ln_f'",
    "UPDATE gpt2.layer_norm SET weight = weight + weight WHERE block = 0 AND layer = 'ln_2'",
    'UPDATE gpt2.wpe SET weight = weight + weight WHERE "position" = 3',
    # two neurons, two positions change places
    "UPDATE gpt2.linear AS l SET weight = o.weight FROM gpt2.linear AS o"
    " WHERE o.model = l.model AND o.block = 0 AND l.block = 0 AND o.layer = 'mlp.c_fc'"
    " AND l.layer = 'mlp.c_fc' AND o.slice = 0 AND l.slice = 0 AND o.unit + l.unit = 41"
    " AND l.unit IN (20, 21)",
    'UPDATE gpt2.wpe AS p SET weight = o.weight FROM gpt2.wpe AS o WHERE o.model = p.model'
    ' AND o."position" + p."position" = 9 AND p."position" IN (4, 5)',
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model", ["first", "half"])
def test_one_edit(db, model, change):
    """Of a model, and of a variant of it alone; a variant without edits is its base."""
    before = one(db, FINGERPRINT, model)
    with db.transaction(force_rollback=True):
        db.execute("SELECT gpt2_create_variant('variant', %s)", [model])
        assert one(db, FINGERPRINT, "variant") == before
        first, _, rest = change.partition(" WHERE ")
        table = "l." if " AS l " in first else "p." if " AS p " in first else ""
        db.execute(
            f"{first} WHERE {table}model = (SELECT model FROM gpt2.model WHERE name = 'variant')"
            f" AND {rest}"
        )
        variant = one(db, FINGERPRINT, "variant")
        assert variant != before and one(db, FINGERPRINT, model) == before
        with db.transaction(force_rollback=True):
            db.execute(
                f"{first} WHERE {table}model = (SELECT model FROM gpt2.model WHERE name = %s)"
                f" AND {rest}",
                [model],
            )
            assert one(db, FINGERPRINT, model) == variant
    assert one(db, FINGERPRINT, model) == before


def test_the_version_is_in_it():
    """A release that computes otherwise has another number there."""
    version = json.loads((ROOT / "META.json").read_text())["version"]
    assert f"'gpt2 {version} '" in (ROOT / "sql/models/fingerprint.sql").read_text()
