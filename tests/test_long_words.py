"""Long words, which are encoded in pieces, and vocabularies of every kind: the same tokens as the
`tokenizers` package, for words whose pieces agree and for words whose pieces do not."""

from __future__ import annotations

import random
import string

import psycopg
import pytest
from calls import count_calls
from conftest import PROPERTY, examples, load_model, one
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.checkpoints import SHAPES, write_checkpoint
from test_tokenizer import check, reference_of
from tokenizers import ByteLevelBPETokenizer

LETTERS = {
    "a": "a",
    "ab": "ab",
    "abc": "abc",
    "ACGT": "ACGT",
    "digits": string.digits,
    "lower case": string.ascii_lowercase,
    "letters": string.ascii_letters,
    "punctuation": "-=!",
    "spaces": " \n",
    "Han": "".join(map(chr, range(0x4E00, 0x9000, 7))),
    "emoji": "".join(map(chr, range(0x1F600, 0x1F650))),
    "many scripts": "".join(map(chr, range(0xC0, 0x800))),
}


def random_word(letters: str, length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(letters, k=length))


@st.composite
def words(draw, letters: str | None = None) -> str:
    """A word of up to some thousand characters: parts that are random, and parts in which up to
    nine letters come again and again."""
    letters = letters or LETTERS[draw(st.sampled_from(list(LETTERS)))]
    parts = draw(
        st.lists(
            st.tuples(st.none() | st.integers(1, 9), st.integers(1, 800), st.integers(0, 999)),
            min_size=1,
            max_size=4,
        )
    )
    return "".join(
        (random_word(letters, period or length, seed) * length)[:length]
        for period, length, seed in parts
    )


# ---- GPT-2's own vocabulary, and a part of it


@settings(PROPERTY, max_examples=examples(15))
@given(st.lists(words(), min_size=1, max_size=4))
def test_long_words(dsn, reference, texts):
    with psycopg.connect(dsn, autocommit=True) as connection:
        check(connection, reference, [*texts, " and ".join(texts)])


@settings(PROPERTY, max_examples=examples(8))
@given(words())
def test_long_words_in_a_part_of_the_vocabulary(demo_dsn, text):
    with psycopg.connect(demo_dsn, autocommit=True) as connection:
        check(connection, reference_of(8191, 8191), [text])


@pytest.mark.parametrize("length", [*range(196, 220), 255, 256, 257, 1023, 1024, 1025])
def test_lengths_about_the_limits(conn, reference, length):
    """Of long words, and of their pieces."""
    check(conn, reference, [random_word(string.ascii_lowercase, length, length)])


def test_many_long_words(conn, reference):
    texts = [random_word(string.ascii_lowercase, 1000, seed) for seed in range(50)]
    check(conn, reference, [" ".join(texts), " and ".join([*texts[:5], *texts[:5]])])


@pytest.mark.parametrize(
    "text",
    [
        " " + "a" * 30_000,
        "x" + "ab" * 15_000,
        random_word(string.ascii_letters, 5000) + "A" * 5000 + random_word("ABC", 5000),
        "b" + "-" * 5000 + "=" * 5001 + "-" * 5002,
    ],
    ids=["a", "ab", "within another", "two"],
)
def test_runs_that_begin_within_a_token(conn, reference, text):
    """Pieces that begin elsewhere in a run have no token in common with those before it."""
    check(conn, reference, [text])


def test_a_token_that_was_also_added(conn, reference):
    """Its bytes are the text that was added, not those that were merged."""
    text = random_word("the", 3000)
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE gpt2.token SET bytes = bytes || bytes WHERE bytes IN ('th', 'eh')")
        assert one(conn, "SELECT gpt2_tokenize(%s)", text) == reference.encode(text).ids


@pytest.mark.parametrize(
    "letters, length", [(string.ascii_lowercase, 100_000), (string.digits, 300_000)]
)
def test_work_grows_with_the_length(conn, reference, letters, length):
    """That many random letters or digits took minutes, and a gigabyte of temporary files."""
    text = random_word(letters, length)
    calls = count_calls(conn, "CREATE TEMPORARY TABLE result AS SELECT gpt2_tokenize(%s)", text)
    assert one(conn, "SELECT * FROM result") == reference.encode(text).ids
    # of pieces that overlap by half, 64 kB a call, and a few that did not agree
    assert calls["_encode"] <= 2 * length / 65536 + 6
    plan = one(
        conn, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT gpt2_tokenize(%s)", text[:50_000]
    )
    assert plan[0]["Plan"]["Temp Written Blocks"] == 0


# ---- Other vocabularies: trained on few letters, and with their merges in another order


TRAINED = ["ab", "abc", "digits"]


@pytest.fixture(scope="module")
def others(new_database, tmp_path_factory):
    """URI of a database with a model of each vocabulary, and their tokenizers by their names."""
    uri = new_database(holds="extension")
    references = {}
    for letters in TRAINED:
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(
            [random_word(LETTERS[letters], 30, seed) for seed in range(300)],
            vocab_size=256 + 150,
            min_frequency=1,
        )
        for order in ("trained", "shuffled"):
            name = f"{letters}, {order}"
            directory = tmp_path_factory.mktemp(order)
            write_checkpoint(directory, SHAPES["one_block"] | {"vocab_size": 407})
            trained.save_model(str(directory))
            if order == "shuffled":
                version, *merges = (directory / "merges.txt").read_text().splitlines()
                random.Random(1).shuffle(merges)
                (directory / "merges.txt").write_text("\n".join([version, *merges, ""]))
            references[name] = ByteLevelBPETokenizer.from_file(
                str(directory / "vocab.json"), str(directory / "merges.txt")
            )
            load_model(uri, directory, name)
    return uri, references


@pytest.mark.parametrize("order", ["trained", "shuffled"])
@pytest.mark.parametrize("letters", TRAINED)
@settings(PROPERTY, max_examples=examples(8))
@given(data=st.data())
def test_other_vocabularies(others, letters, order, data):
    uri, references = others
    name = f"{letters}, {order}"
    texts = data.draw(st.lists(words(LETTERS[letters]), min_size=1, max_size=4))
    # words of every length: short ones are not cut
    texts += [text[: data.draw(st.integers(1, 40))] for text in texts]
    with psycopg.connect(uri, autocommit=True) as connection:
        check(connection, references[name], texts, name)


def test_whether_merges_are_in_order(others, conn):
    uri, references = others
    with psycopg.connect(uri, autocommit=True) as connection:
        for name in references:
            stored = one(
                connection,
                """SELECT t.in_order FROM gpt2.tokenizer AS t JOIN gpt2.model AS m USING (tokenizer)
                   WHERE m.name = %s""",
                name,
            )
            assert stored is name.endswith("trained"), name
    # of GPT-2's own it is said, not found out
    query = "SELECT in_order FROM gpt2.tokenizer WHERE tokenizer = 1"
    assert one(conn, query)
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE gpt2.tokenizer SET in_order = false")
        conn.execute("SELECT gpt2._finish_tokenizer(1)")
        assert one(conn, query)
