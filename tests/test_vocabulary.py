"""Vocabularies as they are found: tokens, ends and beginnings are transformers', whatever the layout
of a directory (tests/oracle/vocabularies.json, by make_vocabulary_fixtures.py)."""

from __future__ import annotations

import json

import psycopg
import pytest
from conftest import PROPERTY, ROOT, cases, examples, load_model, one
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.vocabularies import LAYOUTS, TEXTS

EXPECTED = json.loads((ROOT / "tests/oracle/vocabularies.json").read_text())


@pytest.fixture(scope="module")
def conn(new_database, tmp_path_factory):
    """A connection to a database with a model of each layout, by its name."""
    uri = new_database(holds="extension")
    with psycopg.connect(uri, autocommit=True) as connection:
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
@settings(PROPERTY, max_examples=examples(60))
@given(text=ANY)
def test_there_and_back(conn, name, special, text):
    """The tokens of a text are the text."""
    again = one(
        conn,
        "SELECT gpt2_detokenize(gpt2_tokenize(%s, %s, %s), %s)",
        text, name, special, name,
    )  # fmt: skip
    assert again == text


@pytest.fixture
def newline_ends(conn):
    """The model 'plain' as if a newline, which is a token like any other, ended its texts."""
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE gpt2.model SET eos_tokens = '{198}' WHERE name = 'plain'")
        yield conn


def test_an_end_is_shown_as_what_it_is(newline_ends):
    assert one(newline_ends, "SELECT gpt2_detokenize('{64,198,65}', 'plain')") == "a\nb"
    assert one(newline_ends, "SELECT gpt2_detokenize('{263}', 'plain')") == "<|endoftext|>"
    assert one(newline_ends, "SELECT gpt2_detokenize('{264}', 'added_tokens_json')") == "</s>"


@pytest.mark.parametrize("bound", [r"choices => ARRAY[E'\nx', E'\ny']", r"pattern => '\n[a-z]+'"])
def test_what_ends_is_no_part_of_a_completion(newline_ends, bound):
    """What would have to begin with a token that ends it is not possible."""
    query = f"SELECT gpt2_generate('a', 4, {bound}, model => 'plain')"
    assert one(newline_ends, query) is None
    newline_ends.execute("UPDATE gpt2.model SET eos_tokens = '{263}' WHERE name = 'plain'")
    assert one(newline_ends, query).startswith("a\n")


def test_an_empty_prompt_begins_with_bos(conn):
    query = "SELECT array_agg(token) FROM gpt2_score('', %s)"
    assert one(conn, query, "special_tokens_map") == [264]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="the prompt is empty") as error:
        one(conn, query, "no_end")
    assert error.value.diag.message_detail == 'Model "no_end" has no token that begins a text.'


@pytest.mark.parametrize(
    ("seeds", "among", "without"),
    # where few tokens are allowed, nearly every text meets one of the ends
    cases([(20, [64, 65, 66, 263, 264], [64, 65, 66]), (80, None, None)],
          [(20, [64, 65, 66, 263, 264], [64, 65, 66])]),
    ids=["few tokens", "any"],
)  # fmt: skip
def test_each_of_several_ends_ends(conn, seeds, among, without):
    """And without one nothing does."""
    query = """SELECT array_agg(c.finish_reason) FROM generate_series(1, %s / 2) AS seed
               CROSS JOIN LATERAL gpt2_complete('a', 30, 1, 3, seed => seed, model => %s,
                                                allowed_tokens => %s::int[]) AS c"""
    assert "eos" in one(conn, query, seeds, "added_tokens_json", among)
    assert set(one(conn, query, seeds, "no_end", without)) == {"length"}
    ends = conn.execute(
        """SELECT DISTINCT s.token FROM generate_series(1, %s) AS seed
           CROSS JOIN LATERAL gpt2_stream('a', 30, 3, seed => seed, model => 'added_tokens_json',
                                          allowed_tokens => %s::int[]) AS s
           WHERE s.finish_reason = 'eos'""",
        [seeds, among],
    ).fetchall()
    assert sorted(ends) == [(263,), (264,)]
