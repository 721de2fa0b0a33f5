"""A database as people have it: models of every kind, a variant that was edited, prefixes in a table
of the user's own, a materialized view of answers. What is done to such a database (dump and restore,
replication, a promoted standby, an upgrade) must leave `contents` as it was.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from conftest import load_model, number, one
from oracle.checkpoints import SHAPES, write_checkpoint
from oracle.vocabularies import special_tokens_map, tokenizer_json
from psycopg import errors

#: model -> what is special of it
MODELS = {
    "own": "a vocabulary of its own, and an output projection of its own",
    "half": "float16",
    "shared": "GPT-2's vocabulary, number 1",
    "added": "added tokens",
    "variant": "a variant of own, edited",
}
SHARED = dict(n_layer=1, n_head=2, n_embd=8, n_positions=64, vocab_size=50257)
TABLES = ["tokenizer", "token", "merge", "model", "matrix_page", "bias", "layer_norm", "wpe"]
SEQUENCES = ["tokenizer_tokenizer_seq", "model_model_seq", "model_edition_seq"]
#: with added tokens in it
PROMPT = "open the SELECT FROM<|im_start|> pen"

EDIT = """UPDATE gpt2.linear SET weight = weight + weight, bias = bias + 1
          WHERE model = %s AND block = 0 AND layer = 'mlp.c_fc' AND unit < 9"""


def furnish(uri: str, directory: Path) -> None:
    """Loads MODELS, whose files it writes into the directory, and makes the user's objects."""
    load_model(uri, write_checkpoint(directory / "own", SHAPES["untied"]), "own")
    narrow = write_checkpoint(directory / "half", SHAPES["narrow_mlp"], seed=1)
    load_model(uri, narrow, "half", "--dtype", "float16")
    load_model(uri, write_checkpoint(directory / "shared", SHARED, seed=2), "shared")
    tokenizer_json(directory_of(directory / "added"))
    load_model(uri, directory / "added", "added")
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SELECT gpt2_create_variant('variant', 'own')")
        conn.execute(EDIT, [number(conn, "variant")])
        # the order of the rows in the table is not that of their making
        conn.execute("SELECT gpt2_default_model('variant'); SELECT gpt2_default_model('half')")
        conn.execute(
            """CREATE SCHEMA app;
               CREATE TABLE app.beginning (model text PRIMARY KEY, prefix gpt2.prefix NOT NULL)"""
        )
        conn.execute(
            "INSERT INTO app.beginning SELECT name, gpt2_prefix(%s, name) FROM gpt2.model", [PROMPT]
        )
        conn.execute(
            """CREATE MATERIALIZED VIEW app.answer AS
               SELECT model, gpt2_generate('the', 4, model => model) AS answer FROM app.beginning"""
        )


def directory_of(path: Path) -> Path:
    """The directory, made."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def results(conn: psycopg.Connection, name: str) -> list:
    """What a model is and computes: a fingerprint, tokens, a text, the same from a stored prefix, and
    numbers."""
    return [
        one(conn, "SELECT gpt2_fingerprint(%s)", name),
        one(conn, "SELECT gpt2_tokenize(%s, %s, true)", PROMPT, name),
        one(conn, "SELECT gpt2_generate(%s, 12, model => %s)", PROMPT, name),
        one(
            conn,
            """SELECT gpt2_generate(%s, 12, model => model, prefix => prefix)
               FROM app.beginning WHERE model = %s""",
            PROMPT,
            name,
        ),
        one(conn, "SELECT gpt2_embed(%s, model => %s)::text", PROMPT, name),
    ]


def rows(conn: psycopg.Connection) -> dict[str, tuple]:
    """Of each table: how many rows, and a hash of them all."""
    return {
        table: conn.execute(
            f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} AS t"
        ).fetchone()
        for table in [*(f"gpt2.{table}" for table in TABLES), "app.beginning", "app.answer"]
    }


def contents(uri: str) -> dict:
    """All that is to stay as it is: rows, and what each model computes."""
    with psycopg.connect(uri, autocommit=True) as conn:
        return rows(conn) | {
            name: results(conn, name)
            for (name,) in conn.execute("SELECT name FROM gpt2.model ORDER BY name").fetchall()
        }


def sequences(uri: str) -> dict[str, tuple]:
    with psycopg.connect(uri) as conn:
        return {
            name: conn.execute(f"SELECT last_value, is_called FROM gpt2.{name}").fetchone()
            for name in SEQUENCES
        }


def goes_on(uri: str, directory: Path) -> None:
    """Models are loaded, edited and dropped as before: no number comes a second time."""
    with psycopg.connect(uri, autocommit=True) as conn:
        numbers = "SELECT max(tokenizer), max(model), max(edition) FROM gpt2.model"
        before = conn.execute(numbers).fetchone()
        special_tokens_map(directory_of(directory / "another"))
        load_model(uri, directory / "another", "another")
        after = conn.execute(
            "SELECT tokenizer, model, edition FROM gpt2.model WHERE name = 'another'"
        ).fetchone()
        assert all(new > old for new, old in zip(after, before, strict=True))
        assert one(conn, "SELECT gpt2_generate('the', 4, model => 'another')") != ""
        conn.execute(EDIT, [number(conn, "own")])
        assert one(conn, "SELECT edition FROM gpt2.model WHERE name = 'own'") > after[2]
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="have changed"):
            conn.execute(
                """SELECT gpt2_generate('the', 4, model => model, prefix => prefix)
                   FROM app.beginning WHERE model = 'own'"""
            )
        conn.execute("SELECT gpt2_drop_model('another')")
        assert one(conn, "SELECT max(tokenizer) FROM gpt2.tokenizer") == before[0]
