"""The choice of a token: processors and filters equal transformers' own; frequency and presence
penalty, top_n_sigma and xtc llama.cpp's (fixtures by tests/oracle/make_sampling_fixtures.py); then
invariants, and what arguments mean."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import psycopg
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

FIXTURES = np.load(Path(__file__).parent / "oracle" / "sampling.npz")
CASES = json.loads(str(FIXTURES["cases"]))
LOGITS = FIXTURES["logits"].astype(np.float64)
N_VOCAB, EOS = 256, 255
PROCESSORS = [
    "logit_bias",
    "sequence_bias",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "no_repeat_ngram_size",
    "min_tokens",
    "ignore_eos",
    "banned_tokens",
    "allowed_tokens",
    "among",
]
FILTERS = [
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "xtc_threshold",
]
#: options that do nothing without others
COMPANIONS = {"xtc_threshold": {"xtc_probability"}}

#: a model with a vocabulary and no weights
MODEL = """jsonb_populate_record(NULL::gpt2.model, '{"name": "toy", "n_token": 256,
                                 "eos_tokens": [255], "n_vocab": 256}')"""


def sampling(options: dict) -> tuple[str, dict]:
    """An expression that is gpt2._sampler of the options and of the model `m`; its parameters."""
    given = {"temperature": 0} | {
        name: value
        for name, value in options.items()
        if name not in ("sequence_bias", "among", "seed", "logprobs")
    }
    # what JSON has no number for is text there
    given = {
        name: str(value) if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in given.items()
    }
    parameters = {
        "options": json.dumps(given),
        "seed": options.get("seed"),
        "logprobs": options.get("logprobs", False),
    }
    call = """gpt2._sampler(jsonb_populate_record(NULL::gpt2._options, %(options)s::jsonb), m,
                            %(seed)s::bigint, %(logprobs)s::boolean)"""
    if "sequence_bias" in options:  # in place of texts that are tokenized
        parameters["bias"] = json.dumps(
            {
                "plain": False,
                "bias": [
                    {
                        "prefix": tokens[:-1],
                        "token": tokens[-1],
                        "bias": "-Infinity" if value is False else value,
                    }
                    for tokens, value in options["sequence_bias"]
                ],
            }
        )
        call = f"jsonb_populate_record({call}, %(bias)s)"
    return call, parameters


def apply(
    conn: psycopg.Connection,
    options: dict,
    logits: np.ndarray,
    tokens: list[int],
    n_prompt: int = 0,
) -> tuple[np.ndarray, np.ndarray, list[tuple]]:
    """Logits after the processors, probabilities after the filters, and these as rows."""
    conn.execute("SET jit = off")
    call, parameters = sampling(options)
    parameters |= {
        "logits": logits.tolist(),
        "tokens": tokens,
        "n_prompt": n_prompt,
        "among": options.get("among"),
    }
    ids, processed, rows = conn.execute(
        f"""SELECT p.ids, p.logits, ARRAY(
                SELECT (r.rank, r.token, r.logit, r.probability)
                FROM gpt2._filter(p.ids, p.logits, i.o, cardinality(%(tokens)s::int[])) AS f
                CROSS JOIN LATERAL gpt2._ranked(f.ids, f.logits, (i.o).temperature) AS r
                ORDER BY r.rank)
            FROM (SELECT m, {call} AS o FROM {MODEL} AS m OFFSET 0) AS i
            CROSS JOIN LATERAL gpt2._process_logits(%(logits)s::float8[], %(tokens)s::int[],
                                             %(n_prompt)s::int, i.m, i.o, %(among)s::int[]) AS p""",
        parameters,
        binary=True,
    ).fetchone()
    after = np.full(len(logits), -np.inf)
    if ids is None:
        after = np.array(processed)
    else:
        assert ids == sorted(set(ids))
        after[ids] = processed
    probability = np.zeros(len(logits))
    for _, token, logit, share in rows:
        assert logit == after[token]
        probability[token] = share
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    assert rows == sorted(rows, key=lambda row: (-row[2], row[1]))
    return after, probability, rows


def choose(
    conn: psycopg.Connection, options: dict, logits: np.ndarray, tokens: list[int], seeds: list[int]
) -> list[int | None]:
    """The token that is chosen, for each of the seeds."""
    conn.execute("SET jit = off")
    call, parameters = sampling(options | {"seed": 0})
    call = call.replace("%(seed)s", "seed")
    parameters |= {
        "logits": logits.tolist(),
        "tokens": tokens,
        "seeds": seeds,
        "among": options.get("among"),
    }
    return [
        row[0]
        for row in conn.execute(
            f"""SELECT gpt2._draw_processed(%(logits)s::float8[], %(tokens)s::int[], 0, i.m, i.o,
                                %(among)s::int[])
            FROM (SELECT m, {call} AS o FROM {MODEL} AS m,
                         unnest(%(seeds)s::bigint[]) AS seed OFFSET 0) AS i""",
            parameters,
            binary=True,
        )
    ]


def uniform(seed: int, n: int) -> float:
    digest = hashlib.sha256(struct.pack(">qi", seed, n)).digest()
    return (int.from_bytes(digest[:8], "big") >> 12) / 2**52


# ---- Equal to transformers and llama.cpp


@pytest.mark.parametrize(
    "i",
    range(len(CASES)),
    ids=["+".join(case["options"]) + f"-{i}" for i, case in enumerate(CASES)],
)
def test_equals_the_reference(conn, i):
    case, before = CASES[i], LOGITS[CASES[i]["logits"]]
    options = {"temperature": 1, "seed": i} | case["options"]
    after, probability, _ = apply(conn, options, before, case["tokens"], case["n_prompt"])
    np.testing.assert_allclose(after, before + FIXTURES["change"][i], rtol=1e-7, atol=1e-6)
    np.testing.assert_array_equal(probability > 0, FIXTURES["probability"][i] > 0)
    np.testing.assert_allclose(probability, FIXTURES["probability"][i], rtol=1e-6, atol=1e-12)


def test_fixtures_are_of_every_option():
    """Each alone and in company, with an effect."""
    combined = [set(case["options"]) for case in CASES if len(case["options"]) > 2]
    for name in PROCESSORS + FILTERS + ["temperature"]:
        alone = [
            i
            for i, case in enumerate(CASES)
            if set(case["options"]) == {name} | COMPANIONS.get(name, set())
        ]
        if name in PROCESSORS:
            assert any((FIXTURES["change"][i] != 0).any() for i in alone), name
        elif name in FILTERS:
            assert any((FIXTURES["probability"][i] == 0).any() for i in alone), name
        assert sum(name in options for options in combined) > 20, name


@pytest.mark.parametrize("i", range(0, len(CASES), 7))
def test_draw_follows_the_distribution(conn, i):
    """The token in whose share of [0, 1), likeliest first, the seed's number falls."""
    case, before = CASES[i], LOGITS[CASES[i]["logits"]]
    options = {"temperature": 1, "seed": 0} | case["options"]
    _, _, rows = apply(conn, options, before, case["tokens"])
    cumulative = np.cumsum([row[3] for row in rows])
    seeds = list(range(40))
    expected = [
        rows[
            min(
                int(np.searchsorted(cumulative, uniform(seed, len(case["tokens"])), "right")),
                len(rows) - 1,
            )
        ][1]
        for seed in seeds
    ]
    assert choose(conn, options, before, case["tokens"], seeds) == expected


@pytest.mark.parametrize("i", range(0, len(CASES), 7))
def test_greedy_is_the_first(conn, i):
    case, before = CASES[i], LOGITS[CASES[i]["logits"]]
    options = case["options"] | {"temperature": 0}
    after, _probability, rows = apply(conn, options, before, case["tokens"])
    assert [row[3] for row in rows] == [1] + [0] * (len(rows) - 1)
    if set(options) & {"top_p", "min_p", "typical_p"}:
        assert len(rows) == 1
    assert set(choose(conn, options, before, case["tokens"], [1, 2])) == {int(np.argmax(after))}


@pytest.mark.parametrize(
    "options",
    [
        {"top_n_sigma": 0.5},
        {"top_n_sigma": 1e6},
        {"xtc_probability": 1},
        {"xtc_probability": 1, "xtc_threshold": 0, "top_n_sigma": 1, "top_k": 9},
    ],
)
def test_greedy_whatever_the_filters(conn, options):
    """At temperature 0 all is on one token, which top_n_sigma keeps and xtc does not exclude."""
    for logits in LOGITS:
        rest = {"top_k": 9} if "top_k" in options else {}
        without = apply(conn, {"temperature": 0, "seed": 1} | rest, logits, [1, 2])
        with_it = apply(conn, {"temperature": 0, "seed": 1} | options, logits, [1, 2])
        assert with_it[2] == without[2]
        assert choose(conn, options, logits, [1, 2], [1]) == [int(np.argmax(logits))]


# ---- The chance of xtc


def top_choices(probability: np.ndarray, threshold: float) -> set[int]:
    """All that have the threshold, but for the least likely of them."""
    likeliest_first = np.argsort(-probability, kind="stable")
    return set(likeliest_first[: max((probability >= threshold).sum() - 1, 0)].tolist())


@pytest.mark.parametrize("chance", [0.001, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 7])
def test_xtc_by_chance(conn, chance, n):
    """A number of the seed says whether the top choices are excluded; it is not the one by which a
    token is drawn."""
    tokens, options = list(range(n)), {"temperature": 1.3, "xtc_threshold": 0.01}
    _, before, _ = apply(conn, options, LOGITS[2], tokens)
    top = top_choices(before, 0.01)
    assert len(top) >= 2
    seen = set()
    for seed in range(-20, 40):
        excluded = uniform(seed, -n) < chance
        _, probability, rows = apply(
            conn, options | {"xtc_probability": chance, "seed": seed}, LOGITS[2], tokens
        )
        kept = set(np.flatnonzero(before)) - (top if excluded else set())
        assert set(np.flatnonzero(probability)) == kept
        cumulative = np.cumsum([row[3] for row in rows])
        assert choose(conn, options | {"xtc_probability": chance}, LOGITS[2], tokens, [seed]) == [
            rows[int(np.searchsorted(cumulative, uniform(seed, n), "right"))][1]
        ]
        seen.add(excluded)
    assert seen == ({False} if chance == 0.001 else {False, True})


def test_xtc_share(conn):
    """Of many seeds, as many as are asked for."""
    (share,) = conn.execute(
        """SELECT avg((gpt2._uniform(seed, -5) < 0.3)::int)::float8
           FROM generate_series(1, 5000) AS seed"""
    ).fetchone()
    assert share == np.mean([uniform(seed, -5) < 0.3 for seed in range(1, 5001)])
    assert abs(share - 0.3) < 0.03


@pytest.mark.parametrize("chance", [0, 0.4, 1])
def test_xtc_while_generating(demo, chance):
    """Each token has a number of its own."""
    prompt, threshold, seen = "CREATE TABLE", 0.05, set()
    (start,) = demo.execute("SELECT gpt2_tokenize(%s)", [prompt]).fetchone()
    for seed in range(5):
        arguments = [prompt, chance, threshold, seed]
        steps = demo.execute(
            """SELECT token, text FROM gpt2_stream(%s, 4, 1, xtc_probability => %s,
                                                   xtc_threshold => %s, seed => %s)""",
            arguments,
        ).fetchall()
        tokens = list(start)
        for token, _ in steps:
            n = len(tokens)
            rows = distribution(demo, {"temperature": 1}, tokens)
            n_top = sum(row[3] >= threshold for row in rows)
            if n_top > 1 and uniform(seed, -n) < chance:
                rows = rows[n_top - 1 :]
                seen.add("excluded")
            elif n_top > 1:
                seen.add("not excluded")
            cumulative = np.cumsum([row[3] for row in rows])
            assert (
                token
                == rows[
                    int(np.searchsorted(cumulative, uniform(seed, n) * cumulative[-1], "right"))
                ][1]
            )
            tokens.append(token)
        assert demo.execute(
            """SELECT gpt2_generate(%s, 4, 1, xtc_probability => %s, xtc_threshold => %s,
                                    seed => %s)""",
            arguments,
        ).fetchone() == (steps[-1][1],)
    assert seen == {0: {"not excluded"}, 1: {"excluded"}}.get(chance, {"excluded", "not excluded"})


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"xtc_threshold": 0.25}, [3]),
        ({"xtc_threshold": 0.26}, [0, 1, 2, 3]),
        ({"xtc_threshold": 0}, [3]),
        ({"xtc_threshold": 0, "top_k": 1}, [0]),
        ({"xtc_threshold": 0.3, "top_k": 2}, [1]),
        ({"xtc_threshold": 0.5, "top_k": 2}, [1]),
        ({"xtc_threshold": 0.51, "top_k": 2}, [0, 1]),
        ({"xtc_threshold": 1, "top_k": 1}, [0]),
        ({"top_k": 3}, [2]),
    ],
)
def test_xtc_of_equal_ones(conn, options, kept):
    """All but the last are excluded, where they have the threshold; one always stays."""
    given = {"temperature": 1, "xtc_probability": 1, "seed": 0} | options
    _, _, rows = apply(conn, given, np.array([2.0, 2, 2, 2]), [1])
    assert [row[1] for row in rows] == kept


# ---- Invariants

SHARE, PROBABILITY = st.floats(1e-9, 1), st.floats(0, 1)
OPTIONS = st.fixed_dictionaries(
    {"temperature": st.floats(0.01, 100)},
    optional={
        "top_k": st.integers(1, 300),
        "top_p": SHARE,
        "min_p": PROBABILITY,
        "typical_p": SHARE,
        "top_n_sigma": st.floats(0, 5) | st.floats(0, 1e6),
        "xtc_probability": PROBABILITY,
        "xtc_threshold": PROBABILITY,
        "repetition_penalty": st.floats(0.01, 100),
        "frequency_penalty": st.floats(-10, 10),
        "presence_penalty": st.floats(-10, 10),
        "no_repeat_ngram_size": st.integers(1, 5),
        "min_tokens": st.integers(0, 50),
        "ignore_eos": st.booleans(),
        "logit_bias": st.dictionaries(
            st.integers(0, 19).map(str), st.floats(-50, 50) | st.just(False)
        ),
        "allowed_tokens": st.lists(st.none() | st.integers(0, 19)),
        "banned_tokens": st.lists(st.none() | st.integers(0, 19)),
        "among": st.lists(st.none() | st.integers(0, 25)),
    },
)


@settings(deadline=None, max_examples=examples(300))
@given(
    OPTIONS,
    st.lists(st.sampled_from(range(-30, 31)), min_size=20, max_size=20),
    st.lists(st.integers(0, 19), max_size=40),
    st.integers(-(2**63), 2**63 - 1),
)
def test_invariants(dsn, options, logits, tokens, seed):
    """With ties, empty lists, and tokens none of which is possible."""
    with psycopg.connect(dsn) as connection:
        after, probability, rows = apply(
            connection, options | {"seed": seed}, np.array(logits) / 2, tokens
        )
        possible = set(np.flatnonzero(after > -np.inf).tolist())
        kept = {row[1] for row in rows}
        assert kept <= possible
        assert bool(kept) == bool(possible)
        masked = set(options.get("banned_tokens", []))
        masked |= {
            int(key) for key, value in options.get("logit_bias", {}).items() if value is False
        }
        assert not possible & masked
        for name in ("allowed_tokens", "among"):
            assert possible <= set(options.get(name, possible))
        best = [token for token in sorted(possible) if after[token] == after.max()][:1]
        excludes = uniform(seed, -len(tokens)) < options.get("xtc_probability", 0)
        if "typical_p" not in options and not excludes:
            assert set(best) <= kept
        greedy, sampled = (
            choose(connection, options | {"temperature": t}, np.array(logits) / 2, tokens, [seed])[
                0
            ]
            for t in (0, options["temperature"])
        )
        if not possible:
            assert greedy is None and sampled is None
            return
        assert greedy == best[0]
        assert sampled in kept
        assert abs(probability.sum() - 1) < 1e-9
        assert len(kept) <= options.get("top_k", 300)
        if excludes:
            threshold = options.get("xtc_threshold", 0.1)
            _, before, _ = apply(
                connection, options | {"xtc_probability": 0}, np.array(logits) / 2, tokens
            )
            before_xtc = set(np.flatnonzero(before).tolist())
            if np.abs(before - threshold).min() > 1e-12 and len(before_xtc) > 1:
                assert kept == before_xtc - top_choices(before, threshold)
        if options.get("top_n_sigma"):
            values = after[sorted(possible)]
            least = values.max() - options["top_n_sigma"] * values.std()
            assert after[sorted(kept)].min() >= least - 1e-9 * (1 + abs(least))


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.5},
        {"typical_p": 0.5},
        {"min_p": 0.5},
        {"top_k": 5},
        {"top_n_sigma": 0.5},
        {},
        {"top_p": 0.5, "top_k": 9, "typical_p": 0.9},
    ],
)
def test_all_equal(conn, options):
    """Equal logits are taken in the order of their ids; all of them are equally typical."""
    _, probability, rows = apply(conn, {"temperature": 1} | options, np.zeros(10), [1])
    n = min({"top_p": 5, "typical_p": 5, "top_k": 5}.get(name, 10) for name in options or ["min_p"])
    if len(options) == 3:
        n = 5  # half of 9, and all of those but one: 0.9 of 5
    assert [row[1] for row in rows] == list(range(n))
    np.testing.assert_allclose(probability[:n], 1 / n, rtol=1e-12)


def test_padding_is_not_possible(conn):
    logits = np.array([1, -np.inf, 0.5, -np.inf])
    options = {
        "temperature": 1,
        "repetition_penalty": 2,
        "presence_penalty": 1,
        "top_p": 0.999,
        "logit_bias": {"1": 50},
    }
    after, probability, _ = apply(conn, options, logits, [1, 2, 3, 0])
    np.testing.assert_array_equal(after, [-0.5, -np.inf, -0.75, -np.inf])
    assert (probability > 0).tolist() == [True, False, True, False]
    assert choose(conn, {}, np.full(4, -np.inf), [1], [1]) == [None]
    assert choose(conn, {"temperature": 1}, np.full(4, -np.inf), [1], [1]) == [None]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 5e-324},
        {"temperature": 1e-300, "top_p": 0.5},
        {"temperature": 1e6},
        {"temperature": 1, "min_p": 5e-324},
        {"temperature": 1, "top_p": 5e-324},
        {"temperature": 5e-324, "min_p": 0.999999},
        {"temperature": 1, "typical_p": 5e-324},
        {"temperature": 5e-324, "typical_p": 0.999999999999},
        {"temperature": 1e6, "typical_p": 0.5},
        {"temperature": 1, "top_p": 1 - 2**-53},
        {"temperature": 1, "top_k": 2**31 - 1},
        {"temperature": 1, "repetition_penalty": 1e100},
        {"temperature": 1, "repetition_penalty": 1e-100},
        {"temperature": 1, "frequency_penalty": 1e100, "presence_penalty": -1e100},
        {"temperature": 5e-324, "logit_bias": {"0": 1e100, "1": -1e100, "2": 1e-200}},
        {
            "temperature": 1e6,
            "logit_bias": {"0": 1e100, "1": -1e100, "2": 1e-200},
            "repetition_penalty": 1e100,
            "typical_p": 0.5,
            "top_p": 0.5,
        },
        {"temperature": 1, "no_repeat_ngram_size": 2**31 - 1, "min_tokens": 2**31 - 1},
        {"temperature": 1, "top_n_sigma": 5e-324},
        {"temperature": 1e6, "top_n_sigma": 1e6},
        {
            "temperature": 5e-324,
            "top_n_sigma": 1e-300,
            "logit_bias": {"0": 1e100, "1": -1e100},
            "repetition_penalty": 1e100,
        },
        {
            "temperature": 1,
            "top_n_sigma": 1e6,
            "logit_bias": {"0": 1e100, "1": -1e100},
            "repetition_penalty": 1e100,
            "frequency_penalty": 1e100,
        },
        {"temperature": 1, "top_n_sigma": 1, "repetition_penalty": 1e100},
        {"temperature": 5e-324, "xtc_probability": 1, "xtc_threshold": 5e-324},
        {"temperature": 1e6, "xtc_probability": 1, "xtc_threshold": 5e-324},
        {"temperature": 1, "xtc_probability": 1, "xtc_threshold": 0},
        {"temperature": 5e-324, "xtc_probability": 1, "xtc_threshold": 0},
        {"temperature": 5e-324, "xtc_probability": 1, "xtc_threshold": 1},
        {"temperature": 1, "xtc_probability": 5e-324, "xtc_threshold": 0},
    ],
)
def test_extremes(conn, options):
    """Nothing overflows or underflows."""
    for logits in (
        LOGITS[3],
        np.zeros(4),
        np.array([0, 1e-45, 1e4, -1e4]),
        np.array([0, 1e-30, 0, 1e-45]),
    ):
        _after, probability, rows = apply(conn, options | {"seed": 7}, logits, [0, 1, 1, 2, 3, 2])
        assert abs(probability.sum() - 1) < 1e-9
        assert choose(conn, options, logits, [0, 1, 1, 2, 3, 2], [7])[0] in {r[1] for r in rows}


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 1},
        {"min_p": 0},
        {"typical_p": 1},
        {"repetition_penalty": 1},
        {"logit_bias": {}},
        {"top_n_sigma": 0},
        {"xtc_probability": 0, "xtc_threshold": 0},
        {"xtc_threshold": 0},
        {"xtc_probability": 1, "xtc_threshold": 0.51},
        {"top_n_sigma": 1e6},
        {"frequency_penalty": 0},
        {"presence_penalty": 0},
        {"min_tokens": 0},
        {"ignore_eos": False},
        {"banned_tokens": []},
        {"banned_tokens": [None]},
        {"top_k": N_VOCAB},
        {name: None for name in PROCESSORS + FILTERS if name not in ("sequence_bias", "among")},
    ],
)
def test_off(conn, options):
    after, probability, _ = apply(
        conn, {"temperature": 1, "seed": 1} | options, LOGITS[1], [1, 1, 2]
    )
    np.testing.assert_array_equal(after, LOGITS[1])
    expected = np.exp(LOGITS[1] - LOGITS[1].max())
    np.testing.assert_allclose(probability, expected / expected.sum(), rtol=1e-12)
    call, parameters = sampling(options)
    assert conn.execute(f"SELECT ({call}).plain FROM {MODEL} AS m", parameters).fetchone()[0]


def test_long_lists_of_banned_tokens(demo):
    """They become a list of the others."""
    for n in (1000, 1001, 8191):
        call, parameters = sampling({"banned_tokens": list(range(n))})
        (mask,) = demo.execute(
            f"SELECT to_jsonb(({call}).mask) FROM gpt2._chosen_model('demo') AS m", parameters
        ).fetchone()
        if n == 1000:
            assert mask == {"allowed": None, "banned": list(range(1000))}
        else:
            assert mask == {"allowed": list(range(n, 8192)), "banned": None}


# ---- With a model


def test_logit_bias_by_text(demo):
    """A text is its tokens, a key of digits an id; several ways to say one token add up."""
    call, parameters = sampling(
        {"logit_bias": {" index": 1.5, "8191": False, "007": -2, "7 ": 3, " the index": 0}}
    )
    rows = demo.execute(
        f"SELECT b.* FROM gpt2._chosen_model('demo') AS m, unnest(({call}).bias) AS b", parameters
    ).fetchall()
    tokens = {
        text: demo.execute("SELECT gpt2_tokenize(%s)", (text,)).fetchone()[0]
        for text in (" index", "7 ", " the index")
    }
    assert len(tokens[" the index"]) > 1
    expected = {
        (tuple(tokens[" index"]), 1.5),
        ((8191,), -np.inf),
        ((7,), -2),
        (tuple(tokens["7 "]), 3),
        (tuple(tokens[" the index"]), 0),
    }
    assert {((*prefix, token), bias) for prefix, token, bias in rows} == expected
    one, two = (apply_demo(demo, bias) for bias in ({"5": 30}, {"5": 10, "05": 20}))
    assert one == two != apply_demo(demo, {})


def apply_demo(demo: psycopg.Connection, bias: dict) -> list[tuple]:
    return distribution(demo, {"temperature": 1, "top_k": 20, "logit_bias": bias}, [464])


def distribution(demo: psycopg.Connection, options: dict, tokens: list[int]) -> list[tuple]:
    """Rows of rank, token, logit and probability."""
    demo.execute("SET jit = off")
    call, parameters = sampling(options)
    return demo.execute(
        f"""SELECT d.* FROM (
               SELECT m, t, {call} AS o,
                      (gpt2._run(gpt2._begin(t, m), m, cardinality(t))).y[cardinality(t)] AS y
               FROM gpt2._chosen_model('demo') AS m, (SELECT %(tokens)s::int[]) AS i (t)
               OFFSET 0) AS i
           CROSS JOIN LATERAL gpt2._distribution(i.y, i.m, i.o, i.t, 1) AS d
           ORDER BY d.rank""",
        parameters | {"tokens": tokens},
    ).fetchall()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1, "seed": 3},
        {"banned_tokens": [318], "temperature": 0.5, "seed": 1},
        {"allowed_tokens": [5, 9], "temperature": 2, "seed": 1},
        {"allowed_tokens": []},
    ],
)
def test_log_probability_is_the_models_own(demo, options):
    """Of the raw logits at temperature 1, whatever was done to them."""
    demo.execute("SET jit = off")
    call, parameters = sampling(options | {"logprobs": True})
    rows = demo.execute(
        f"""SELECT s.token, s.logprob,
                   (SELECT u.logits FROM gpt2._unembed(i.y, i.m) AS u)
            FROM (SELECT m, {call} AS o, (gpt2._run(gpt2._begin('{{464,1,2}}', m), m, 3)).y[3] AS y
                  FROM gpt2._chosen_model('demo') AS m OFFSET 0) AS i
            CROSS JOIN LATERAL gpt2._sample(i.y, i.m, i.o, '{{464,1,2}}', 3, NULL) AS s""",
        parameters,
    ).fetchall()
    if options == {"allowed_tokens": []}:
        assert rows == []
        return
    ((token, logprob, logits),) = rows
    logits = np.array(logits)
    assert len(logits) == 8192
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    assert abs(logprob - expected[token]) < 1e-9
    (without,) = demo.execute(
        f"""SELECT s.logprob
            FROM (SELECT m, {call} AS o, (gpt2._run(gpt2._begin('{{464,1,2}}', m), m, 3)).y[3] AS y
                  FROM gpt2._chosen_model('demo') AS m OFFSET 0) AS i
            CROSS JOIN LATERAL gpt2._sample(i.y, i.m, i.o, '{{464,1,2}}', 3, NULL) AS s""",
        parameters | {"logprobs": False},
    ).fetchone()
    assert without is None


def test_filters_reach_the_functions(demo):
    """Close to 0, top_n_sigma is greedy; at temperature 0 it and xtc change nothing."""
    prompt = "The index"
    greedy = demo.execute("SELECT gpt2_generate(%s, 6)", [prompt]).fetchall()
    off = "xtc_probability => 1, xtc_threshold => 0, top_n_sigma => 2"
    for arguments in ("temperature => 1.5, top_n_sigma => 1e-6", f"temperature => 0, {off}"):
        for call in (
            "gpt2_generate(%s, 6, seed => 5, {})",
            "text FROM gpt2_stream(%s, 6, seed => 5, {}) ORDER BY step DESC LIMIT 1",
            "text FROM gpt2_complete(%s, max_tokens => 6, seed => 5, {})",
        ):
            assert demo.execute(f"SELECT {call.format(arguments)}", [prompt]).fetchall() == greedy
    rows = demo.execute("SELECT token, logit FROM gpt2_next_token(%s, NULL)", [prompt]).fetchall()
    logits = np.array([row[1] for row in rows])
    kept = demo.execute(
        "SELECT token FROM gpt2_next_token(%s, NULL, 0.3, top_n_sigma => 1.5)", [prompt]
    ).fetchall()
    assert kept == [(token,) for token, logit in rows if logit >= logits.max() - 1.5 * logits.std()]
    assert 1 < len(kept) < 1000


def test_generation_ends_where_no_token_is_possible(demo):
    demo.execute("SET jit = off")
    for options in (
        {"allowed_tokens": []},
        {"allowed_tokens": [5], "no_repeat_ngram_size": 1},
        {"banned_tokens": list(range(8192)), "temperature": 1, "seed": 1},
    ):
        call, parameters = sampling(options)
        (tokens,) = demo.execute(
            f"""SELECT (gpt2._run(gpt2._begin('{{464,1,2}}', m), m, 40, o)).tokens
                FROM (SELECT m, {call} AS o FROM gpt2._chosen_model('demo') AS m OFFSET 0) AS i""",
            parameters,
        ).fetchone()
        assert tokens == [464, 1, 2] + [5] * ("no_repeat_ngram_size" in options)


# ---- Errors

TOY = "Its tokens are 0 to 255."
TOKENS = "Tokens come from gpt2_tokenize(text, model), for the same model."


@pytest.mark.parametrize(
    "argument, message, detail, hint",
    [
        *[
            (
                f"temperature => {value}",
                "temperature must be 0 or more",
                f"It is {shown}; NaN, NULL and more than 1e6 are refused too.",
                "Use 0 for the likeliest token, 1 for the model's own distribution.",
            )
            for value, shown in [
                ("-1", "-1"),
                ("'NaN'", "NaN"),
                ("1e7", "10000000"),
                ("NULL", "NULL"),
            ]
        ],
        ("top_k => 0", "top_k must be 1 or more", "It is 0.", "Use NULL for the whole vocabulary."),
        *[
            (
                f"{name} => '{value}'",
                f"{name} must be above 0 and at most 1",
                f"It is {value}.",
                "Use 1 or NULL to keep all tokens.",
            )
            for name in ("top_p", "typical_p")
            for value in ("0", "-0.5", "1.0001", "NaN", "Infinity")
        ],
        *[
            (
                f"min_p => '{value}'",
                "min_p must be between 0 and 1",
                f"It is {value}.",
                "Use 0 or NULL to keep all tokens.",
            )
            for value in ("-0.5", "1.0001", "NaN")
        ],
        *[
            (
                f"top_n_sigma => '{value}'",
                "top_n_sigma must be between 0 and 1e6",
                f"It is {shown}.",
                "Use 0 or NULL to keep all tokens.",
            )
            for value, shown in [
                ("-1", "-1"),
                ("-1e-300", "-1e-300"),
                ("1000000.1", "1000000.1"),
                ("NaN", "NaN"),
                ("Infinity", "Infinity"),
            ]
        ],
        *[
            (f"{name} => '{value}'", f"{name} must be between 0 and 1", f"It is {value}.", hint)
            for name, hint in [
                ("xtc_probability", "Use 0 or NULL to keep all tokens."),
                ("xtc_threshold", "Use NULL for 0.1; above 0.5 it excludes nothing."),
            ]
            for value in ("-0.5", "1.0001", "NaN", "Infinity", "-Infinity")
        ],
        *[
            (
                f"repetition_penalty => '{value}'",
                "repetition_penalty must be above 0",
                f"It is {value}; NaN, less than 1e-100 and more than 1e100 are refused too.",
                "Use 1 or NULL for none, more to repeat less.",
            )
            for value in ("0", "-1", "NaN", "Infinity", "1e-200")
        ],
        *[
            (
                f"{name}_penalty => '{value}'",
                f"{name}_penalty must be finite",
                f"It is {value}; more than 1e100 either way is refused too.",
                "Use 0 or NULL for none, more to repeat less.",
            )
            for name in ("frequency", "presence")
            for value in ("NaN", "Infinity", "-Infinity", "1e+200")
        ],
        (
            "no_repeat_ngram_size => 0",
            "no_repeat_ngram_size must be 1 or more",
            "It is 0.",
            "Use NULL to let any sequence of tokens repeat.",
        ),
        (
            "min_tokens => -1",
            "min_tokens must be 0 or more",
            "It is -1.",
            "Use 0 to let a completion end at once.",
        ),
        *[
            (
                f"logit_bias => '{value}'",
                "logit_bias must be a JSON object",
                f"It is of type {kind}.",
                'Write {"token id or text": number}, or false in the place of a number for never.',
            )
            for value, kind in [("[1]", "array"), ("null", "null"), ("3", "number")]
        ],
        (
            """logit_bias => '{"": 1}'""",
            "a key of logit_bias is empty",
            "A key is a token id or a text.",
            "Leave it out.",
        ),
        *[
            (
                f"""logit_bias => '{{"3": {value}}}'""",
                'the value of "3" in logit_bias must be a number or false',
                f"It is {shown}; more than 1e100 either way is refused too.",
                "Use false for a token that is never chosen.",
            )
            for value, shown in [
                ("true", "true"),
                ("null", "null"),
                ('"1"', '"1"'),
                ("[1]", "[1]"),
                ("1e101", "1" + "0" * 101),
            ]
        ],
        *[
            (
                f"""logit_bias => '{{"{token}": 1}}'""",
                f'token {token} of logit_bias is not in the vocabulary of model "toy"',
                TOY,
                TOKENS,
            )
            for token in ("256", "99999999999999999999")
        ],
        *[
            (
                f"{name}_tokens => '{{3,{token},NULL}}'",
                f'token {token} of {name}_tokens is not in the vocabulary of model "toy"',
                TOY,
                TOKENS,
            )
            for name in ("allowed", "banned")
            for token in (256, -1, 2**31 - 1)
        ],
    ],
)
def test_errors(conn, argument, message, detail, hint):
    with pytest.raises(psycopg.Error) as raised:
        conn.execute(f"SELECT {sampler(argument)} FROM {MODEL} AS m")
    diagnostic = raised.value.diag
    assert (
        diagnostic.sqlstate,
        diagnostic.message_primary,
        diagnostic.message_detail,
        diagnostic.message_hint,
    ) == ("22023", message, detail, hint)


def sampler(argument: str) -> str:
    """An expression that is gpt2._sampler of one option, written as an argument is."""
    name, value = argument.split(" => ", 1)
    if name == "logit_bias":  # JSON's null would be none
        return f"gpt2._biases({value}, m)"
    return f"""gpt2._sampler(jsonb_populate_record(NULL::gpt2._options,
        jsonb_build_object('temperature', 0) || jsonb_build_object('{name}', {value})), m)"""


def test_tokens_of_a_padded_vocabulary(conn):
    """Ids beyond the tokenizer's are none."""
    padded = MODEL.replace('"n_token": 256', '"n_token": 200').replace("[255]", "[199]")
    for token in (0, 199):
        banned = sampler(f"banned_tokens => '{{{token}}}'")
        conn.execute(f"SELECT {banned} FROM {padded} AS m")
    with pytest.raises(psycopg.Error) as raised:
        allowed = sampler("allowed_tokens => '{200}'")
        conn.execute(f"SELECT {allowed} FROM {padded} AS m")
    assert raised.value.diag.message_detail == "Its tokens are 0 to 199."
