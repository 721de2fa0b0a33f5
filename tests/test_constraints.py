"""Constrained generation: the completion is what it must be, or NULL and its reason 'constraint'."""

from __future__ import annotations

import psycopg
import pytest
from conftest import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors
from test_generation import rows, tokenize

N_TOKEN = 299  # of shape one_block: 256 bytes and the first 43 merges; then <|endoftext|>
SETTINGS = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def complete(conn: psycopg.Connection, **options) -> tuple:
    return rows(conn, "gpt2_complete", "text, finish_reason, tokens", **options)[0]


# ---- Any constraint

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
SHORT = st.text(" abcdehinorst", max_size=6)
CHOICES = st.one_of(
    st.lists(st.one_of(SHORT, st.none()), max_size=6),
    st.lists(TEXT, max_size=3),
    # many that begin alike, some the beginning of others
    st.builds(
        lambda start, ends: [start, *(start + end for end in ends)],
        SHORT,
        st.lists(SHORT, max_size=4),
    ),
)
ATOMS = st.sampled_from(
    [
        "a",
        "th",
        " ",
        r"\d",
        "[a-e]",
        "[^a-z]",
        r"\w",
        ".",
        "é",
        "[а-я]",
        r"\.",
        "(?:in|on)",
        "(a|bc)",
        "((the)?)",
        "[[:upper:]]",
    ]
)
PIECES = st.builds("{}{}".format, ATOMS, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}"]))
PATTERNS = st.one_of(
    st.lists(PIECES, min_size=1, max_size=4).map("".join),
    st.lists(st.lists(PIECES, max_size=2).map("".join), min_size=2, max_size=3).map("|".join),
)
TOKENS = st.lists(st.one_of(st.integers(0, N_TOKEN - 1), st.none()), max_size=40)


@given(
    choices=st.one_of(st.none(), CHOICES),
    pattern=st.one_of(st.none(), PATTERNS),
    allowed=st.one_of(st.none(), st.none(), TOKENS),
    banned=st.one_of(st.none(), TOKENS),
    stop=st.one_of(st.none(), st.none(), st.just(["a"]), st.just(["in", "é"])),
    max_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0, 1, 3]),
    seed=st.integers(0, 2**40),
    min_tokens=st.integers(0, 3),
)
@settings(SETTINGS, max_examples=examples(500))
def test_any_constraint(
    shapes, choices, pattern, allowed, banned, stop, max_tokens, temperature, seed, min_tokens
):
    text, reason, tokens = complete(
        shapes,
        prompt="the",
        choices=choices,
        pattern=pattern,
        allowed_tokens=allowed,
        banned_tokens=banned,
        stop=stop,
        max_tokens=max_tokens,
        temperature=float(temperature),
        seed=seed,
        min_tokens=min_tokens,
        model="one_block",
    )
    assert (text is None) == (tokens is None) == (reason == "constraint")
    if text is None:
        return
    if choices is not None:
        assert text in choices
    if pattern is not None:
        assert shapes.execute("SELECT %s ~ ('^(?:' || %s || ')$')", [text, pattern]).fetchone() == (
            True,
        )
    if allowed is not None:
        assert set(tokens) <= set(allowed)
    assert not set(tokens) & set(banned or [])
    assert not any(s in text for s in stop or [])
    assert len(tokens) <= max_tokens


@given(
    choices=CHOICES.filter(lambda c: any(t is not None for t in c)),
    temperature=st.sampled_from([0.0, 1.0, 5.0]),
    seed=st.integers(0, 2**40),
)
@settings(SETTINGS, max_examples=examples(60))
def test_choices_are_never_missed(shapes, choices, temperature, seed):
    """Where there is room for each of them, one is made: every byte is a token."""
    text, reason, _ = complete(
        shapes,
        prompt="",
        choices=choices,
        temperature=temperature,
        seed=seed,
        max_tokens=60,
        model="one_block",
    )
    assert text in choices and reason == "stop"


@given(
    pattern=st.lists(
        st.builds("{}{}".format, ATOMS, st.sampled_from(["", "?", "{2}"])), min_size=1, max_size=5
    ).map("".join),
    seed=st.integers(0, 2**40),
)
@settings(SETTINGS, max_examples=examples(60))
def test_patterns_are_never_missed(shapes, pattern, seed):
    text, reason, _ = complete(
        shapes,
        prompt="",
        pattern=pattern,
        temperature=2.0,
        seed=seed,
        max_tokens=80,
        model="one_block",
    )
    assert reason == "stop"
    assert shapes.execute("SELECT %s ~ ('^(?:' || %s || ')$')", [text, pattern]).fetchone()[0]


# ---- What people ask for


def test_the_likeliest_of_the_choices(demo):
    """Greedy: at each step the likeliest token of those with which a choice goes on."""
    choices = [" TABLE", " INDEX", " VIEW", " TRIGGER"]
    assert complete(demo, prompt="CREATE", choices=choices)[0] == " TABLE"
    assert complete(demo, prompt="CREATE", choices=choices[1:], max_tokens=8)[0] in choices[1:]
    assert complete(demo, prompt="CREATE", choices=choices, logit_bias='{" T": false}')[0] in (
        " INDEX",
        " VIEW",
    )


def test_every_choice_can_be_drawn(demo):
    choices = [" TABLE", " INDEX", " VIEW"]
    drawn = rows(
        demo,
        "gpt2_complete",
        "text",
        prompt="CREATE",
        n=40,
        seed=1,
        temperature=2.0,
        choices=choices,
    )
    assert {text for (text,) in drawn} == set(choices)


def test_a_number_ends_where_the_model_goes_on(demo):
    """'+' could go on; the model would rather say something else, and so the completion ends."""
    prompt = "The default value is"
    stream = rows(demo, "gpt2_stream", "token, text, finish_reason", prompt=prompt, pattern=r" \d+")
    assert stream[-1][0] is None and stream[-1][2] == "stop"
    text = stream[-1][1]
    assert text.strip().isdigit() and len(text) < 8
    best = demo.execute("SELECT piece FROM gpt2_next_token(%s, 1)", [prompt + text]).fetchone()[0]
    assert not best.isdigit()
    # min_tokens makes it go on
    longer = complete(demo, prompt=prompt, pattern=r" \d+", min_tokens=5, max_tokens=5)
    assert longer[1] == "length" and len(longer[2]) == 5 and longer[0].strip().isdigit()


def test_pattern_and_choices(demo):
    """Both: those of the choices that match."""
    choices = [" TABLE", " INDEX", " VIEW"]
    assert complete(demo, prompt="CREATE", choices=choices, pattern=" [IV].*")[0] in choices[1:]
    assert complete(demo, prompt="CREATE", choices=choices, pattern="x")[:2] == (None, "constraint")


def test_no_constraint_by_null(demo):
    plain = complete(demo)
    assert (
        complete(demo, choices=None, pattern=None, allowed_tokens=None, banned_tokens=None) == plain
    )


def test_length_before_a_match(demo):
    assert complete(demo, pattern="x{30}", max_tokens=10) == (None, "constraint", None)
    last = rows(demo, "gpt2_stream", "text, finish_reason", pattern="x{30}", max_tokens=3)[-1]
    assert last == (None, "constraint")


def test_case_insensitive_pattern(demo):
    text = complete(demo, prompt="CREATE", pattern="(?i) table")[0]
    assert text.lower() == " table"


def test_banned_and_allowed_tokens(demo):
    plain = complete(demo, max_tokens=6)[2]
    for _i, token in enumerate(plain):
        assert token not in complete(demo, max_tokens=6, banned_tokens=[token])[2]
    allowed = tokenize(demo, " the table of an index")
    assert set(complete(demo, max_tokens=9, allowed_tokens=allowed)[2]) <= set(allowed)


def test_row_level_security(demo_dsn):
    """A user is only ever shown words of rows that this user may read."""
    with psycopg.connect(demo_dsn) as conn:
        conn.execute("""
            CREATE TABLE word (owner name, word text);
            INSERT INTO word VALUES ('gpt2_test_ann', ' TABLE'), ('gpt2_test_bob', ' INDEX'),
                                    ('gpt2_test_bob', ' VIEW');
            ALTER TABLE word ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON word USING (owner = current_user);
            CREATE ROLE gpt2_test_ann; CREATE ROLE gpt2_test_bob; CREATE ROLE gpt2_test_eve;
            GRANT SELECT ON word TO gpt2_test_ann, gpt2_test_bob, gpt2_test_eve""")
        for role, words in (("ann", {" TABLE"}), ("bob", {" INDEX", " VIEW"}), ("eve", {None})):
            conn.execute(f"SET ROLE gpt2_test_{role}")
            drawn = conn.execute("""
                SELECT text FROM gpt2_complete('CREATE', n => 20, temperature => 2, seed => 1,
                                               echo => false,
                                               choices => ARRAY(SELECT word FROM word))""")
            assert {text for (text,) in drawn} == words
        conn.rollback()


# ---- Bad input


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"stop": ["x", ""]}, errors.InvalidParameterValue, "stop has an empty text"),
        ({"max_tokens": -1}, errors.InvalidParameterValue, "max_tokens must be 0 or more"),
        ({"pattern": "("}, errors.InvalidRegularExpression, None),
        ({"pattern": "(", "choices": ["x"]}, errors.InvalidRegularExpression, None),
        ({"pattern": r"(a)\1"}, errors.FeatureNotSupported, None),
        ({"pattern": "(?=a)a"}, errors.FeatureNotSupported, None),
        ({"allowed_tokens": [8192]}, errors.InvalidParameterValue, None),
        ({"banned_tokens": [-1]}, errors.InvalidParameterValue, None),
    ],
)
@pytest.mark.parametrize("function", ["gpt2_generate", "gpt2_stream", "gpt2_complete"])
def test_bad_input(demo, function, options, error, message):
    with pytest.raises(error) as info:
        rows(demo, function, **options)
    if message:
        assert info.value.diag.message_primary == message
        assert info.value.diag.message_detail and info.value.diag.message_hint


@pytest.mark.parametrize("n", [0, -1, None])
def test_bad_n(demo, n):
    with pytest.raises(errors.InvalidParameterValue) as info:
        rows(demo, "gpt2_complete", n=n)
    assert info.value.diag.message_primary == "n must be between 1 and 1000"


def test_largest_seed(demo):
    largest = 2**63 - 1
    assert len(rows(demo, "gpt2_complete", n=2, seed=largest - 1, max_tokens=1)) == 2
    with pytest.raises(errors.InvalidParameterValue) as info:
        rows(demo, "gpt2_complete", n=2, seed=largest, max_tokens=1)
    assert info.value.diag.message_primary == f"seed {largest} is too large for 2 completions"
    assert info.value.diag.message_detail == "Completion i has the seed seed + i - 1."
    assert info.value.diag.message_hint == "Use a smaller seed."
