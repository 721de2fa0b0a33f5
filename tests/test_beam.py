"""Beam search finds what transformers' finds (fixtures by tests/oracle/make_beam_fixtures.py), and
the tree that it shows is the one that it went through."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from conftest import ROOT, cases, examples, load_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle.checkpoints import BEAM_MODELS, SHAPES, write_checkpoint

FIXTURES = dict(np.load(ROOT / "tests" / "oracle" / "beam.npz"))
CASES = range(len(FIXTURES["model"]))

SEARCH = """
    SELECT s.*
    FROM (SELECT %(model)s::text AS name, %(tokens)s::int[] AS tokens, %(beams)s::int AS beams,
                 %(max_tokens)s::int AS max_tokens, %(penalty)s::float8 AS length_penalty) AS i
    CROSS JOIN LATERAL (
        SELECT c AS m, gpt2._run(gpt2._begin(i.tokens, c), c, cardinality(i.tokens)) AS start,
               jsonb_populate_record(
                   gpt2._sampler(jsonb_populate_record(NULL::gpt2._options, %(options)s::jsonb), c),
                   %(bias)s::jsonb) AS sampler
        FROM gpt2._chosen_model(i.name) AS c
        OFFSET 0) AS m
    CROSS JOIN LATERAL gpt2._search(
        m.start, m.m, i.beams, least(cardinality(i.tokens) + i.max_tokens, (m.m).n_ctx),
        i.length_penalty, m.sampler, NULL) AS s
    ORDER BY s.step"""


def search(
    model: str,
    tokens: list[int],
    beams: int,
    max_tokens: int,
    penalty: float,
    options: dict | None = None,
) -> dict:
    """The parameters of SEARCH."""
    options = {"temperature": 0} | (options or {})
    bias = {}
    if "sequence_bias" in options:  # in place of texts that are tokenized
        bias = {
            "plain": False,
            "bias": [
                {
                    "prefix": sequence[:-1],
                    "token": sequence[-1],
                    "bias": "-Infinity" if value is False else value,
                }
                for sequence, value in options.pop("sequence_bias")
            ],
        }
    return dict(
        model=model,
        tokens=tokens,
        beams=beams,
        max_tokens=max_tokens,
        penalty=penalty,
        options=json.dumps(options),
        bias=json.dumps(bias),
    )


@pytest.fixture(scope="module")
def models(new_database, tmp_path_factory):
    uri = new_database(holds="demo")
    with psycopg.connect(uri, autocommit=True) as connection:
        # as the public functions set them
        connection.execute("SET jit = off; SET enable_bitmapscan = off; SET enable_seqscan = off")
        for name, (seed, end) in BEAM_MODELS.items():
            load_model(
                uri, write_checkpoint(tmp_path_factory.mktemp(name), SHAPES[name], seed, end), name
            )
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
        search(
            str(expected["model"]),
            without_padding(expected["prompt"]),
            beams,
            max_tokens,
            length_penalty,
            json.loads(str(expected["options"])),
        ),
    ).fetchall()
    _, tokens, score, _ = steps[-1]
    assert tokens == without_padding(expected["tokens"])
    assert score == pytest.approx(expected["score"], rel=1e-4, abs=1e-4)
    assert [step for step, *_ in steps] == list(range(1, len(steps) + 1))
    if beams > 1:
        assert len(steps) == expected["steps"]
        for seen, theirs in zip(steps, expected["cumulative"], strict=False):
            # fewer than 2 * beams where no more tokens are possible
            assert seen[3] == pytest.approx(theirs[~np.isnan(theirs)].tolist(), rel=1e-4, abs=1e-4)


def test_fixtures_are_of_every_processor():
    """Each in several searches, most of them in company; and of steps that look at fewer texts than
    they could, as no more are possible."""
    options = [set(json.loads(str(row))) for row in FIXTURES["options"]]
    company = [row for row in options if len(row) > 1]
    for name in (
        "repetition_penalty",
        "no_repeat_ngram_size",
        "logit_bias",
        "sequence_bias",
        "banned_tokens",
        "allowed_tokens",
        "min_tokens",
        "ignore_eos",
    ):
        assert sum(name in row for row in options) >= 8, name
        assert sum(name in row for row in company) >= 5, name
    assert len(list(filter(None, options))) >= 40
    few = [
        2 <= beams * 2 - np.isnan(row[:, : 2 * beams]).sum(1)[0] < beams * 2
        for row, (beams, *_) in zip(FIXTURES["cumulative"], FIXTURES["arguments"], strict=False)
    ]
    assert sum(few) >= 1


def test_fixtures_cover_the_ways_to_end():
    """Texts that end by themselves at several lengths, while the search goes on or as it stops, by
    the heuristic or not; at max_tokens, and at the context's end."""
    beams, max_tokens, _ = FIXTURES["arguments"].T
    length, steps = (FIXTURES["tokens"] >= 0).sum(1), FIXTURES["steps"]
    n_prompt = (FIXTURES["prompt"] >= 0).sum(1)
    n_ctx = np.array(
        [256 if name == "demo" else SHAPES[name]["n_positions"] for name in FIXTURES["model"]]
    )
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
    assert demo.execute(
        "SELECT gpt2_beam_search(%s, 20, 1) = gpt2_generate(%s, 20)", [prompt, prompt]
    ).fetchone() == (True,)


# ---- Processors, prefix, steering and patches

#: processors that say which tokens are possible: to them logits and log-probabilities are alike
MASKS = [
    "no_repeat_ngram_size => 1",
    "no_repeat_ngram_size => 3, min_tokens => 20",
    "banned_tokens => ARRAY(SELECT token FROM gpt2_next_token(%(prompt)s, 7))",
    "allowed_tokens => ARRAY(SELECT generate_series(0, 8000, 7))",
    "allowed_tokens => ARRAY(SELECT generate_series(0, 300)), no_repeat_ngram_size => 2",
    """logit_bias => '{" (": false, "199": false, ",": false, "_": false}', ignore_eos => true""",
    # dead ends: after two tokens, and at once
    "allowed_tokens => '{11,12}', no_repeat_ngram_size => 1",
    "allowed_tokens => '{}'",
]


@pytest.mark.parametrize("mask", MASKS)
def test_one_beam_is_greedy_with_masks(demo, mask):
    """NULL too, where no text is possible."""
    changed = 0
    for prompt in PROMPTS:
        beam, greedy, plain = demo.execute(
            f"""SELECT gpt2_beam_search(%(prompt)s, 12, 1, {mask}),
                       gpt2_generate(%(prompt)s, 12, {mask}), gpt2_generate(%(prompt)s, 12)""",
            {"prompt": prompt},
        ).fetchone()
        assert beam == greedy
        assert (beam is None) == (mask in MASKS[-2:])
        changed += beam != plain
    assert changed


def test_dead_ends(demo):
    """A search goes on where some beams can; without a text its result is NULL, but not where none
    is asked for. Of two tokens that may come once each, both orders are seen, and no third."""
    mask = "allowed_tokens => '{11,12}', no_repeat_ngram_size => 1"
    tree = demo.execute(
        f"SELECT step, parent, token, kept, finished FROM gpt2_beam('x', 5, 3, {mask})"
    ).fetchall()
    assert [row[0] for row in tree] == [1, 1, 2, 2]
    assert {row[2] for row in tree[:2]} == {row[2] for row in tree[2:]} == {11, 12}
    assert not any(finished for *_, finished in tree)
    for arguments, result in [
        (f"5, 3, {mask}", None),
        (f"5, 1, {mask}", None),
        ("1, 3, allowed_tokens => '{}'", None),
        ("0, 3, allowed_tokens => '{}'", "x"),
        ("0, 3, allowed_tokens => '{}', echo => false", ""),
        (f"5, 3, {mask}, echo => false", None),
    ]:
        assert demo.execute(f"SELECT gpt2_beam_search('x', {arguments})").fetchone() == (result,)
    best = [tree[tree[2][1] - 1][2], tree[2][2]]
    assert demo.execute(
        f"""SELECT gpt2_beam_search('x', 2, 3, {mask}, echo => false) = gpt2_detokenize(%s)""",
        [best],
    ).fetchone() == (True,)


def test_min_tokens_counts_the_completion(models):
    """Where texts end soon; the end comes when it may."""
    for n in (0, 3, 6):
        steps = models.execute(
            """SELECT step FROM gpt2_beam('', 8, 4, model => 'untied', min_tokens => %s)
               WHERE token = 599 ORDER BY step LIMIT 1""",
            [n],
        ).fetchone()
        assert steps == (n + 1,)


LONG = "CREATE TABLE cities (name text, location point);\n"


@pytest.mark.parametrize("prefix", cases([LONG, LONG[:20], "", LONG * 2], [LONG, LONG[:20]]))
def test_prefix_changes_nothing(demo, prefix):
    """To the last bit, whatever the two texts have in common."""
    for prompt in (LONG + "SELECT", LONG, "CREATE INDEX"):
        for function in ("gpt2_beam", "gpt2_beam_search"):
            for extra in ("", ", repetition_penalty => 1.5"):
                without, given_prefix = (
                    demo.execute(
                        f"SELECT f FROM {function}(%(prompt)s, 5, 3{extra}{more}) AS f",
                        {"prompt": prompt, "prefix": prefix},
                    ).fetchall()
                    for more in ("", ", prefix => gpt2_prefix(%(prefix)s)")
                )
                assert given_prefix == without and without


def test_prefix_is_read(demo):
    """Not left aside: where it does not fit there is an error."""
    for function in ("gpt2_beam", "gpt2_beam_search"):
        for reading in (STEER, PATCH):
            with pytest.raises(psycopg.Error, match="a prefix cannot be steered or patched"):
                demo.execute(f"SELECT {function}('x', 1, prefix => gpt2_prefix('x'), {reading})")


STEER = """steer => ARRAY[ROW(2, NULL, (gpt2_embeddings('{9}'))[1], 9)::gpt2.steering,
                          ROW(6, 1, (gpt2_embeddings('{300}'))[1], -4)::gpt2.steering]"""
PATCH = """patch => ARRAY(SELECT t FROM gpt2_trace('The index', '{resid_post}', '{3}') AS t
                          WHERE t."position" = 0)"""


@pytest.mark.parametrize("reading", [STEER, PATCH, f"{STEER}, {PATCH}"])
@pytest.mark.parametrize("prompt", ["CREATE TABLE", LONG])
def test_read_otherwise(demo, prompt, reading):
    """One beam is greedy with steering and patches too, over the end of a chunk."""
    plain, beam, greedy = demo.execute(
        f"""SELECT gpt2_generate(%(prompt)s, 20), gpt2_beam_search(%(prompt)s, 20, 1, {reading}),
                   gpt2_generate(%(prompt)s, 20, {reading})""",
        {"prompt": prompt},
    ).fetchone()
    assert beam == greedy != plain


def test_all_beams_are_steered(demo):
    """What a step looks at has the probabilities of a steered text, whichever beam it follows."""
    prompt = "CREATE TABLE"
    tree = demo.execute(f"SELECT * FROM gpt2_beam(%s, 3, 4, {STEER})", [prompt]).fetchall()
    steps, compared = {(row[0], row[1]): row for row in tree}, set()
    for step, _, parent, token, _, logprob, *_ in tree:
        path, above = [], parent
        for before in range(step - 1, 0, -1):
            path.insert(0, steps[before, above][3])
            above = steps[before, above][2]
        same, expected = demo.execute(
            f"""SELECT gpt2_tokenize(p.text) = p.tokens,
                       (SELECT ln(n.probability)
                        FROM gpt2_next_token(p.text, NULL, {STEER}) AS n WHERE n.token = %s)
                FROM (SELECT t.tokens, gpt2_detokenize(t.tokens) AS text
                      FROM (SELECT gpt2_tokenize(%s) || %s::int[] AS tokens) AS t
                      OFFSET 0) AS p""",
            [token, prompt, path],
        ).fetchone()
        if same:  # as a text, the beam would be other tokens
            assert logprob == pytest.approx(expected, abs=1e-5)
            compared.add((step, parent))
    assert len(compared) >= 6


# ---- The tree

NODE = """node AS MATERIALIZED (
        SELECT n.*, m.eos_tokens[1] AS eos
        FROM gpt2_beam(%(prompt)s, %(max_tokens)s::int, %(beams)s::int, %(penalty)s,
                       repetition_penalty => %(repetition)s::float8,
                       no_repeat_ngram_size => %(ngram)s::int, model => %(model)s) AS n
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


def assert_tree(
    connection: psycopg.Connection,
    model: str,
    prompt: str,
    beams: int,
    max_tokens: int,
    penalty: float,
    repetition: float | None = None,
    ngram: int | None = None,
) -> None:
    arguments = dict(
        model=model,
        prompt=prompt,
        beams=beams,
        max_tokens=max_tokens,
        penalty=penalty,
        repetition=repetition,
        ngram=ngram,
    )
    assert connection.execute(BROKEN, arguments).fetchall() == []
    assert (
        connection.execute(WINNER, arguments).fetchone()
        == connection.execute(
            """SELECT gpt2_beam_search(%(prompt)s, %(max_tokens)s::int, %(beams)s::int, %(penalty)s,
                                   repetition_penalty => %(repetition)s::float8,
                                   no_repeat_ngram_size => %(ngram)s::int,
                                   echo => false, model => %(model)s)""",
            arguments,
        ).fetchone()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "CREATE TABLE", 4, 12, 1),
        ("demo", "The", 2, 1, 1),
        ("demo", "A backup", 7, 20, -1),
        ("demo", "", 3, 24, 0),
        ("demo", "x", 1, 5, 2),
        ("narrow_mlp", "", 4, 30, 1),
        ("narrow_mlp", "ab", 2, 12, -1),
        ("untied", "abc", 7, 40, 1),
        ("untied", "", 4, 30, 0),
        ("demo", "CREATE TABLE", 4, 12, 1, 1.5, 1),
        ("untied", "abc", 7, 20, 1, 0.5, 2),
    ],
)
def test_tree(models, arguments):
    """It is one, and its best text is what gpt2_beam_search gives."""
    assert_tree(models, *arguments)


@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    model=st.sampled_from(["demo", "narrow_mlp", "untied"]),
    prompt=st.text(max_size=12).filter(lambda text: "\0" not in text),
    beams=st.integers(1, 9),
    max_tokens=st.integers(1, 6),
    penalty=st.floats(-10, 10),
    repetition=st.none() | st.floats(0.3, 3),
    ngram=st.none() | st.integers(1, 4),
)
def test_any_tree(models, model, prompt, beams, max_tokens, penalty, repetition, ngram):
    assert_tree(models, model, prompt, beams, max_tokens, penalty, repetition, ngram)


def test_ties(models):
    """Where all tokens are as likely, the lower beam and then the lower token come first."""
    with models.transaction(force_rollback=True):
        models.execute("SELECT gpt2_create_variant('even', 'narrow_mlp')")
        models.execute("""UPDATE gpt2.wte SET weight = weight - weight
                          WHERE model = (SELECT model FROM gpt2.model WHERE name = 'even')""")
        rows = models.execute("""SELECT step, beam, parent, token, kept, finished
                                 FROM gpt2_beam('x', 4, 3, model => 'even')""").fetchall()
        text = models.execute("""SELECT gpt2_beam_search('', 4, 3, model => 'even')
                                      = gpt2_detokenize('{0,0,0,0}', 'even')""").fetchone()
    assert rows == [
        (
            step,
            beam,
            None if step == 1 else 1,
            beam - 1,
            beam <= 3 and step < 4,
            beam <= 3 and step == 4,
        )
        for step in range(1, 5)
        for beam in range(1, 7)
    ]
    assert text == (True,)


def test_common_past(models):
    """Beams that have parted but a while ago share a past, whatever the length of the prompt: all
    logprobs are those of the whole text read at once."""
    for n_prompt in (1, 15, 17):
        prompt = [(37 * i + 5) % 8000 for i in range(n_prompt)]
        *_, (tokens, score) = models.execute(
            f"""SELECT (hypotheses[1]).tokens, (hypotheses[1]).score
                FROM ({SEARCH}) AS s ORDER BY step""",
            search("demo", prompt, 2, 40, 0),
        ).fetchall()
        total = models.execute(
            """SELECT sum(u.logits[(%s::int[])[p.n + 1] + 1]
                          - (SELECT ln(sum(exp(l))) FROM unnest(u.logits) AS l))
               FROM (SELECT c AS m FROM gpt2._chosen_model('demo'::text) AS c OFFSET 0) AS m
               CROSS JOIN unnest(gpt2_forward(%s::int[], 'demo')) WITH ORDINALITY AS p (y, n)
               CROSS JOIN LATERAL gpt2._unembed(p.y, m.m) AS u
               WHERE p.n >= %s""",
            [prompt + tokens, prompt + tokens[:-1], n_prompt],
        ).fetchone()[0]
        assert score == pytest.approx(total, abs=1e-3)


# ---- Arguments


def test_echo_and_nothing(demo):
    for query, result in [
        ("gpt2_beam_search(NULL)", None),
        ("gpt2_beam_search('x', 0, 2)", "x"),
        ("gpt2_beam_search('x', 0, 2, echo => false)", ""),
        ("gpt2_beam_search('', 0, 2)", ""),
        ("gpt2_beam_search('x', 4, 2) = 'x' || gpt2_beam_search('x', 4, 2, echo => false)", True),
        ("gpt2_beam_search('x', 4, 2) = gpt2_beam_search('x', 4, 2, model => 'demo')", True),
        ("(SELECT count(*) FROM gpt2_beam(NULL))", 0),
        ("(SELECT count(*) FROM gpt2_beam('x', 0, 2))", 0),
    ]:
        assert demo.execute(f"SELECT {query}").fetchone() == (result,), query


def test_end_of_the_context(demo):
    """Two positions are left, then none."""
    prompt = " x" * 254
    assert demo.execute("SELECT count(*) FROM gpt2_tokens(%s)", [prompt]).fetchone() == (254,)
    assert demo.execute(
        "SELECT max(step) FROM gpt2_beam(%s, 2147483647, 2)", [prompt]
    ).fetchone() == (2,)
    full = prompt + " x x"
    assert demo.execute("SELECT gpt2_beam_search(%s, beams => 2)", [full]).fetchone() == (full,)
    assert demo.execute("SELECT * FROM gpt2_beam(%s, beams => 2)", [full]).fetchall() == []


@pytest.mark.parametrize(
    ("arguments", "message", "detail", "hint"),
    [
        (
            f"beams => {beams}",
            "beams must be between 1 and 1000",
            f"It is {beams}.",
            "Use 1 for the greedy text, or leave it out for 4.",
        )
        for beams in ("0", "-1", "1001", "NULL")
    ]
    + [
        (
            f"max_tokens => {n}",
            "max_tokens must be 0 or more",
            f"It is {n}.",
            "Use 0 to add nothing, or leave it out for 32.",
        )
        for n in ("-1", "NULL")
    ]
    + [
        (
            f"length_penalty => {p}",
            "length_penalty must be between -10 and 10",
            f"It is {p.strip(chr(39))}.",
            "Use 1 to compare means of log-probabilities, 0 to compare their sums.",
        )
        for p in ("'NaN'", "'Infinity'", "'-Infinity'", "10.5", "-11", "NULL")
    ]
    + [
        (
            "model => 'absent'",
            'model "absent" does not exist',
            "The argument model names it.",
            "SELECT name FROM gpt2_models(); lists the models.",
        ),
    ],
)
@pytest.mark.parametrize("function", ["gpt2_beam", "gpt2_beam_search"])
def test_errors(demo, function, arguments, message, detail, hint):
    with pytest.raises(psycopg.Error) as error:
        demo.execute(f"SELECT {function}('x', {arguments})")
    found = error.value.diag
    assert (found.sqlstate, found.message_primary, found.message_detail, found.message_hint) == (
        "22023",
        message,
        detail,
        hint,
    )


@pytest.mark.parametrize("function", ["gpt2_beam", "gpt2_beam_search"])
def test_prompt_too_long(demo, function):
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="the prompt is too long"):
        demo.execute(f"SELECT {function}(repeat(' x', 257))")


def test_no_more_beams_than_the_vocabulary_has(models):
    """Half of it, as a step looks at two candidates a beam."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="between 1 and 250"):
        models.execute("SELECT gpt2_beam_search('', 1, 251, model => 'narrow_mlp')")
    assert models.execute(
        "SELECT count(*) FROM gpt2_beam('', 1, 250, model => 'narrow_mlp')"
    ).fetchone() == (500,)
