"""Beam search finds what transformers' finds (fixtures by tests/oracle/make_beam_fixtures.py), and
the tree that it shows is the one that it went through."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from conftest import DEMO, ROOT, load_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle.checkpoints import BEAM_MODELS, SHAPES, write_checkpoint

FIXTURES = dict(np.load(ROOT / "tests" / "oracle" / "beam.npz"))
CASES = range(len(FIXTURES["model"]))

SEARCH = """
    SELECT s.*
    FROM (SELECT c AS m FROM gpt2._chosen_model(%s::text) AS c OFFSET 0) AS m
    CROSS JOIN LATERAL gpt2._search(%s::int[], m.m, %s::int, %s::int, %s::float8) AS s
    ORDER BY s.step"""


@pytest.fixture(scope="module")
def models(new_database, tmp_path_factory):
    uri = new_database()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION gpt2 CASCADE")
        # as the public functions set them
        connection.execute("SET jit = off; SET enable_bitmapscan = off; SET enable_seqscan = off")
        load_model(uri, DEMO, "demo")
        for name, (seed, end) in BEAM_MODELS.items():
            load_model(uri, write_checkpoint(
                tmp_path_factory.mktemp(name), SHAPES[name], seed, end), name)
        yield connection


def without_padding(row: np.ndarray) -> list[int]:
    return row[row >= 0].tolist()


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(models, case):
    """The winner, its score, how many steps the search took, and what the first of them saw."""
    expected = {key: values[case] for key, values in FIXTURES.items()}
    beams, max_tokens, length_penalty = expected["arguments"].tolist()
    steps = models.execute(
        f"""SELECT step, (hypotheses[1]).tokens, (hypotheses[1]).score,
                   ARRAY(SELECT c.cumulative FROM unnest(candidates) AS c ORDER BY c.beam)
            FROM ({SEARCH}) AS s ORDER BY step""",
        [str(expected["model"]), without_padding(expected["prompt"]), beams, max_tokens,
         length_penalty]).fetchall()
    _, tokens, score, _ = steps[-1]
    assert tokens == without_padding(expected["tokens"])
    assert score == pytest.approx(expected["score"], rel=1e-4, abs=1e-4)
    assert [step for step, *_ in steps] == list(range(1, len(steps) + 1))
    if beams > 1:
        assert len(steps) == expected["steps"]
        for seen, theirs in zip(steps, expected["cumulative"]):
            assert seen[3] == pytest.approx(theirs[: 2 * beams].tolist(), rel=1e-4, abs=1e-4)


def test_fixtures_cover_the_ways_to_end():
    """Texts that end by themselves at several lengths, while the search goes on or as it stops, by
    the heuristic or not; at max_tokens, and at the context's end."""
    beams, max_tokens, _ = FIXTURES["arguments"].T
    length, steps = (FIXTURES["tokens"] >= 0).sum(1), FIXTURES["steps"]
    n_prompt = (FIXTURES["prompt"] >= 0).sum(1)
    n_ctx = np.array([256 if name == "demo" else SHAPES[name]["n_positions"]
                      for name in FIXTURES["model"]])
    n = np.minimum(max_tokens, n_ctx - n_prompt)
    many = beams > 1
    assert ((steps < n) & many).sum() >= 10
    assert len(set(length[(steps < n) & many])) >= 4
    assert ((length < steps) & (steps == n)).sum() >= 5
    assert ((length == n) & (n < max_tokens) & many).sum() >= 2
    assert ((length == max_tokens) & many).sum() >= 10
    assert set(beams) == {1, 2, 4, 7} and set(FIXTURES["arguments"][:, 2]) == {0, 1, 2, -1}


PROMPTS = ["CREATE TABLE", "The WAL", "", "SELECT count(*) FROM pg_class WHERE", "vacuum ü"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_one_beam_is_greedy(demo, prompt):
    assert demo.execute("SELECT gpt2_beam_search(%s, 1, 20) = gpt2_generate(%s, 20)",
                        [prompt, prompt]).fetchone() == (True,)


# ---- The tree

NODE = """node AS MATERIALIZED (
        SELECT n.*, m.eos_token AS eos
        FROM gpt2_beam(%(prompt)s, %(beams)s::int, %(max_tokens)s::int, %(penalty)s, %(model)s) AS n
        JOIN gpt2.model AS m ON m.name = %(model)s)"""

# Rows that break what a tree must be.
BROKEN = f"""
    WITH {NODE}
    SELECT 'parent', n.step, n.beam
    FROM node AS n LEFT JOIN node AS p ON (p.step, p.beam) = (n.step - 1, n.parent)
    WHERE CASE WHEN n.step = 1
               THEN n.parent IS NOT NULL OR n.cumulative <> n.logprob
               ELSE p.kept IS NOT TRUE OR n.cumulative <> p.cumulative + n.logprob END
       OR n.logprob > 0
UNION ALL
    SELECT 'order', step, beam
    FROM (SELECT *, row_number() OVER (
                        PARTITION BY step ORDER BY cumulative DESC, parent, token) AS n
          FROM node) AS n
    WHERE n <> beam
UNION ALL
    SELECT 'finished', step, beam
    FROM node
    WHERE finished <> (beam <= %(beams)s AND (token = eos OR step = %(max_tokens)s))
       OR kept AND token = eos
UNION ALL
    SELECT 'width', step, count(*) FILTER (WHERE kept) FROM node GROUP BY step
    HAVING count(*) <> 2 * %(beams)s
       OR count(*) FILTER (WHERE kept)
          <> CASE WHEN step < (SELECT max(step) FROM node) THEN %(beams)s ELSE 0 END
       OR count(DISTINCT (parent, token)) <> count(*)
UNION ALL
    SELECT 'end', max(step), NULL FROM node
    HAVING NOT bool_or(finished) OR min(step) <> 1 OR count(DISTINCT step) <> max(step)
        OR max(step) > %(max_tokens)s"""

# The text of the best finished row, by way of its parents.
WINNER = f"""
    WITH RECURSIVE {NODE},
    path AS (
        (SELECT * FROM node WHERE finished
         ORDER BY cumulative / step ^ %(penalty)s::float8 DESC, step, beam LIMIT 1)
    UNION ALL
        SELECT n.* FROM path AS p JOIN node AS n ON (n.step, n.beam) = (p.step - 1, p.parent)
    )
    SELECT gpt2_detokenize(
        coalesce(array_agg(token ORDER BY step) FILTER (WHERE token <> eos), '{{}}'), %(model)s)
    FROM path"""


def assert_tree(connection: psycopg.Connection, model: str, prompt: str, beams: int,
                max_tokens: int, penalty: float) -> None:
    arguments = dict(model=model, prompt=prompt, beams=beams, max_tokens=max_tokens,
                     penalty=penalty)
    assert connection.execute(BROKEN, arguments).fetchall() == []
    assert connection.execute(WINNER, arguments).fetchone() == connection.execute(
        """SELECT gpt2_beam_search(%(prompt)s, %(beams)s::int, %(max_tokens)s::int, %(penalty)s,
                                   false, %(model)s)""", arguments).fetchone()


@pytest.mark.parametrize("arguments", [
    ("demo", "CREATE TABLE", 4, 12, 1), ("demo", "The", 2, 1, 1), ("demo", "A backup", 7, 20, -1),
    ("demo", "", 3, 24, 0), ("demo", "x", 1, 5, 2), ("narrow_mlp", "", 4, 30, 1),
    ("narrow_mlp", "ab", 2, 12, -1), ("untied", "abc", 7, 40, 1), ("untied", "", 4, 30, 0)])
def test_tree(models, arguments):
    """It is one, and its best text is what gpt2_beam_search gives."""
    assert_tree(models, *arguments)


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=st.sampled_from(["demo", "narrow_mlp", "untied"]),
       prompt=st.text(max_size=12).filter(lambda text: "\0" not in text), beams=st.integers(1, 9),
       max_tokens=st.integers(1, 6), penalty=st.floats(-10, 10))
def test_any_tree(models, model, prompt, beams, max_tokens, penalty):
    assert_tree(models, model, prompt, beams, max_tokens, penalty)


def test_ties(models):
    """Where all tokens are as likely, the lower beam and then the lower token come first."""
    with models.transaction(force_rollback=True):
        models.execute("SELECT gpt2_create_variant('even', 'narrow_mlp')")
        models.execute("""UPDATE gpt2.wte SET weight = weight - weight
                          WHERE model = (SELECT model FROM gpt2.model WHERE name = 'even')""")
        rows = models.execute("""SELECT step, beam, parent, token, kept, finished
                                 FROM gpt2_beam('x', 3, 4, model => 'even')""").fetchall()
        text = models.execute("""SELECT gpt2_beam_search('', 3, 4, model => 'even')
                                      = gpt2_detokenize('{0,0,0,0}', 'even')""").fetchone()
    assert rows == [(step, beam, None if step == 1 else 1, beam - 1,
                     beam <= 3 and step < 4, beam <= 3 and step == 4)
                    for step in range(1, 5) for beam in range(1, 7)]
    assert text == (True,)


def test_common_past(models):
    """Beams that have parted but a while ago share a past, whatever the length of the prompt: all
    logprobs are those of the whole text read at once."""
    for n_prompt in (1, 15, 17):
        prompt = [(37 * i + 5) % 8000 for i in range(n_prompt)]
        *_, (tokens, score) = models.execute(
            f"""SELECT (hypotheses[1]).tokens, (hypotheses[1]).score
                FROM ({SEARCH}) AS s ORDER BY step""",
            ["demo", prompt, 2, 40, 0]).fetchall()
        total = models.execute(
            """SELECT sum(u.logits[(%s::int[])[p.n + 1] + 1]
                          - (SELECT ln(sum(exp(l))) FROM unnest(u.logits) AS l))
               FROM (SELECT c AS m FROM gpt2._chosen_model('demo'::text) AS c OFFSET 0) AS m
               CROSS JOIN unnest(gpt2_forward(%s::int[], 'demo')) WITH ORDINALITY AS p (y, n)
               CROSS JOIN LATERAL gpt2._unembed(p.y, m.m) AS u
               WHERE p.n >= %s""",
            [prompt + tokens, prompt + tokens[:-1], n_prompt]).fetchone()[0]
        assert score == pytest.approx(total, abs=1e-3)


# ---- Arguments


def test_echo_and_nothing(demo):
    for query, result in [
        ("gpt2_beam_search(NULL)", None), ("gpt2_beam_search('x', 2, 0)", "x"),
        ("gpt2_beam_search('x', 2, 0, 1, false)", ""), ("gpt2_beam_search('', 2, 0)", ""),
        ("gpt2_beam_search('x', 2, 4) = 'x' || gpt2_beam_search('x', 2, 4, echo => false)", True),
        ("gpt2_beam_search('x', 2, 4) = gpt2_beam_search('x', 2, 4, model => 'demo')", True),
        ("(SELECT count(*) FROM gpt2_beam(NULL))", 0),
        ("(SELECT count(*) FROM gpt2_beam('x', 2, 0))", 0),
    ]:
        assert demo.execute(f"SELECT {query}").fetchone() == (result,), query


def test_end_of_the_context(demo):
    """Two positions are left, then none."""
    prompt = " x" * 254
    assert demo.execute("SELECT count(*) FROM gpt2_tokens(%s)", [prompt]).fetchone() == (254,)
    assert demo.execute("SELECT max(step) FROM gpt2_beam(%s, 2, 2147483647)",
                        [prompt]).fetchone() == (2,)
    full = prompt + " x x"
    assert demo.execute("SELECT gpt2_beam_search(%s, 2)", [full]).fetchone() == (full,)
    assert demo.execute("SELECT * FROM gpt2_beam(%s, 2)", [full]).fetchall() == []


@pytest.mark.parametrize(("arguments", "message", "detail", "hint"), [
    (f"beams => {beams}", "beams must be between 1 and 1000", f"It is {beams}.",
     "Use 1 for the greedy text, or leave it out for 4.")
    for beams in ("0", "-1", "1001", "NULL")
] + [
    (f"max_tokens => {n}", "max_tokens must be 0 or more", f"It is {n}.",
     "Use 0 to add nothing, or leave it out for 32.")
    for n in ("-1", "NULL")
] + [
    (f"length_penalty => {p}", "length_penalty must be between -10 and 10",
     f"It is {p.strip(chr(39))}.",
     "Use 1 to compare means of log-probabilities, 0 to compare their sums.")
    for p in ("'NaN'", "'Infinity'", "'-Infinity'", "10.5", "-11", "NULL")
] + [
    ("model => 'absent'", 'model "absent" does not exist', "The argument model names it.",
     "SELECT name FROM gpt2_models(); lists the models."),
])
@pytest.mark.parametrize("function", ["gpt2_beam", "gpt2_beam_search"])
def test_errors(demo, function, arguments, message, detail, hint):
    with pytest.raises(psycopg.Error) as error:
        demo.execute(f"SELECT {function}('x', {arguments})")
    found = error.value.diag
    assert (found.sqlstate, found.message_primary, found.message_detail, found.message_hint) == (
        "22023", message, detail, hint)


@pytest.mark.parametrize("function", ["gpt2_beam", "gpt2_beam_search"])
def test_prompt_too_long(demo, function):
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="the prompt is too long"):
        demo.execute(f"SELECT {function}(repeat(' x', 257))")


def test_no_more_beams_than_the_vocabulary_has(models):
    """Half of it, as a step looks at two candidates a beam."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="between 1 and 249"):
        models.execute("SELECT gpt2_beam_search('', 250, 1, model => 'narrow_mlp')")
    assert models.execute("SELECT count(*) FROM gpt2_beam('', 249, 1, model => 'narrow_mlp')"
                          ).fetchone() == (498,)
