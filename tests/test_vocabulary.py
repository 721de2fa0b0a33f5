"""Vocabularies as they are found: tokens, ends and beginnings are transformers', whatever the layout
of a directory (tests/oracle/vocabularies.json, by make_vocabulary_fixtures.py)."""

from __future__ import annotations

import json

import psycopg
import pytest
from conftest import ROOT, load_model, one
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle.vocabularies import LAYOUTS, TEXTS

EXPECTED = json.loads((ROOT / "tests/oracle/vocabularies.json").read_text())


@pytest.fixture(scope="module")
def conn(new_database, tmp_path_factory):
    """A connection to a database with a model of each layout, by its name."""
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2 CASCADE")
        for name, write in LAYOUTS.items():
            directory = tmp_path_factory.mktemp(name)
            write(directory)
            load_model(uri, directory, name)
        yield connection


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_tokens(conn, name, special):
    n_vocab = one(conn, "SELECT n_vocab FROM gpt2.model WHERE name = %s", name)
    for text, ids in zip(TEXTS, EXPECTED[name]["texts"], strict=True):
        # transformers takes <|endoftext|> for a token where the model has no row for it
        expected = ids[special and max(ids[True], default=0) < n_vocab]
        assert one(conn, "SELECT gpt2_tokenize(%s, %s, %s)", text, name, special) == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_ends(conn, name):
    stored = conn.execute(
        "SELECT eos_tokens, bos_token FROM gpt2.model WHERE name = %s", [name]
    ).fetchone()
    assert stored == (EXPECTED[name]["eos"], EXPECTED[name]["bos"])


PIECES = st.sampled_from(
    ["<|endoftext|>", "SELECT", "FROM", " FROM", "<s>", "</s>", "[USER]", "abc", "d", "a*b", "né",
     "<|im_start|>", " ", "\n", "the", " open"]
)  # fmt: skip
ANY = st.lists(PIECES | st.text(st.characters(codec="utf-8", exclude_characters="\0"))).map("".join)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(text=ANY)
def test_there_and_back(conn, name, special, text):
    """The tokens of a text are the text."""
    again = one(
        conn,
        "SELECT gpt2_detokenize(gpt2_tokenize(%s, %s, %s), %s)",
        text, name, special, name,
    )  # fmt: skip
    assert again == text
