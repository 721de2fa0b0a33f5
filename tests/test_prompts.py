"""Prompts as token ids, special tokens in a text, and texts that are cut to the context: what
transformers makes of the same ids (fixtures by tests/oracle/make_prompt_fixtures.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import PROPERTY, one
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.checkpoints import SHAPES
from oracle.compare import assert_close
from psycopg import errors

FIXTURES = np.load(Path(__file__).parent / "oracle" / "prompts.npz")
#: as in make_prompt_fixtures.py
MODELS = ("narrow_mlp", "untied", "short_context")
PROMPTS = ("end", "dialogue", "ends", "split", "rest", "left", "right")
N_NEW = 8
CHOICES = [" in", "x", "é 😀", " the"]
#: what reads a prompt and gives one value of it, which is equal where the prompt is
READERS = {
    "gpt2_next_token": "SELECT array_agg(n ORDER BY n.rank) FROM gpt2_next_token({}) AS n",
    "gpt2_beam": "SELECT array_agg(b ORDER BY b.step, b.beam) FROM gpt2_beam({}, max_tokens => 2) "
    "AS b",
    "gpt2_beam_search": "SELECT gpt2_beam_search({}, max_tokens => 3, echo => false)",
    "gpt2_prefix": "SELECT (gpt2_prefix({})).y",
    "gpt2_perplexity": "SELECT gpt2_perplexity({})",
    "gpt2_classify": "SELECT gpt2_classify({}, choices => ARRAY['x', ' in'])",
    "gpt2_trace": "SELECT array_agg(t ORDER BY t) FROM gpt2_trace({}, hooks => '{{z}}') AS t",
    "gpt2_attention": "SELECT array_agg(a) FROM gpt2_attention({}, block => 0, head => 1) AS a",
    "gpt2_head_summary": "SELECT array_agg(h) FROM gpt2_head_summary({}) AS h",
    "gpt2_logit_lens": "SELECT array_agg(l) FROM gpt2_logit_lens({}) AS l",
    "gpt2_direct_logit_attribution": "SELECT array_agg(a) FROM "
    "gpt2_direct_logit_attribution({}) AS a",
    "gpt2_neurons": "SELECT array_agg(n) FROM gpt2_neurons({}, block => 1) AS n",
    "gpt2_attention_svg": "SELECT gpt2_attention_svg({}, block => 0, head => 0)",
    "gpt2_heads_svg": "SELECT gpt2_heads_svg({})",
    "gpt2_lens_svg": "SELECT gpt2_lens_svg({})",
    "gpt2_surprisal_svg": "SELECT gpt2_surprisal_svg({})",
    "gpt2_report": "SELECT gpt2_report({})",
    "gpt2_attention_text": "SELECT array_agg(a) FROM gpt2_attention_text({}, block => 0, "
    "head => 0) AS a",
    "gpt2_surprisal_text": "SELECT array_agg(s) FROM gpt2_surprisal_text({}) AS s",
}
#: those whose first argument has no default, as one after it has none
NEED_TEXT = {"gpt2_classify": "prompt", "gpt2_attention": "text", "gpt2_neurons": "text"} | {
    f"gpt2_attention_{kind}": "text" for kind in ("svg", "text")
}


def fixture(name: str, prompt: str, what: str):
    return FIXTURES[f"{name}/{prompt}/{what}"]


@pytest.fixture(params=[(m, p) for m in MODELS for p in PROMPTS], ids="-".join)
def case(request) -> tuple[str, str, list[int]]:
    """(model, prompt, its ids)"""
    name, prompt = request.param
    return name, prompt, fixture(name, prompt, "tokens").tolist()


# ---- As transformers


def test_generate_after_ids(shapes, case):
    name, prompt, ids = case
    greedy = fixture(name, prompt, "greedy").tolist()
    end = SHAPES[name]["vocab_size"] - 1
    shown = fixture(name, prompt, "text").item().removesuffix("<|endoftext|>" * (greedy[-1] == end))
    call = "(input_ids => %s::int[], max_tokens => %s, model => %s)"
    assert one(shapes, f"SELECT gpt2_generate{call}", ids, N_NEW, name) == shown
    row = shapes.execute(
        f"SELECT text, tokens, prompt_tokens FROM gpt2_complete{call}", [ids, N_NEW, name]
    ).fetchone()
    assert row == (shown, greedy, len(ids))
    stream = shapes.execute(f"SELECT text FROM gpt2_stream{call}", [ids, N_NEW, name]).fetchall()
    assert stream[-1][0] == shown and all(shown.startswith(text) for (text,) in stream)
    top = "SELECT token FROM gpt2_next_token(input_ids => %s::int[], top_k => 1, model => %s)"
    assert one(shapes, top, ids, name) == greedy[0]
    beam = (
        "SELECT gpt2_beam_search(input_ids => %s::int[], max_tokens => %s, beams => 1, model => %s)"
    )
    assert one(shapes, beam, ids, N_NEW, name) == shown


def test_score_and_embed_ids(shapes, case):
    name, prompt, ids = case
    scores = shapes.execute(
        "SELECT token, logprob FROM gpt2_score(input_ids => %s::int[], model => %s)", [ids, name]
    ).fetchall()
    assert [token for token, _ in scores] == ids
    if len(ids) > 1:
        assert_close(np.array([p for _, p in scores[1:]]), fixture(name, prompt, "logprobs"))
    ours = one(shapes, "SELECT gpt2_embed(input_ids => %s::int[], model => %s)::real[]", ids, name)
    assert_close(np.array(ours), fixture(name, prompt, "embedded"))


def test_choose_after_ids(shapes, case):
    name, prompt, ids = case
    chosen = dict(
        shapes.execute(
            "SELECT choice, logprob FROM gpt2_choose(NULL, %s, input_ids => %s::int[], model => %s)",
            [CHOICES, ids, name],
        ).fetchall()
    )
    assert_close(np.array([chosen[c] for c in CHOICES]), fixture(name, prompt, "choices"))


@pytest.mark.parametrize("end", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_a_long_prompt_is_cut(shapes, name, end):
    """Generation leaves room for what comes, and shows the prompt whole."""
    ids, n_ctx = fixture(name, "long", "tokens").tolist(), SHAPES[name]["n_positions"]
    call = "(input_ids => %s::int[], truncate => %s, max_tokens => %s, model => %s, echo => %s)"
    row = shapes.execute(
        f"SELECT tokens, prompt_tokens FROM gpt2_complete{call}", [ids, end, N_NEW, name, True]
    ).fetchone()
    assert row == (fixture(name, end, "greedy").tolist(), n_ctx - N_NEW)
    whole = one(shapes, "SELECT gpt2_detokenize(%s::int[], %s)", ids, name)
    for echo, before in ((True, whole), (False, "")):
        for function in ("generate", "beam_search"):
            search = ", beams => 1" if function == "beam_search" else ""
            text = one(
                shapes, f"SELECT gpt2_{function}{call[:-1]}{search})", ids, end, N_NEW, name, echo
            )
            shown = one(
                shapes, "SELECT gpt2_detokenize(%s::int[], %s)",
                [t for t in row[0] if t != SHAPES[name]["vocab_size"] - 1], name,
            )  # fmt: skip
            assert text == before + shown
    # what only reads fills the context
    cut = ids[-n_ctx:] if end == "left" else ids[:n_ctx]
    for query in (
        "SELECT array_agg(s) FROM gpt2_score(input_ids => %s::int[], model => %s{}) AS s",
        "SELECT gpt2_embed(input_ids => %s::int[], model => %s{})",
    ):
        assert one(shapes, query.format(", truncate => %s"), ids, name, end) == one(
            shapes, query.format(""), cut, name
        )
    # the longest choice has 7 tokens in the smallest vocabulary
    n_choice = max(
        len(one(shapes, "SELECT gpt2_tokenize(%s, %s)", choice, name)) for choice in CHOICES
    )
    cut = ids[-(n_ctx - n_choice) :] if end == "left" else ids[: n_ctx - n_choice]
    query = (
        "SELECT array_agg(c) FROM gpt2_choose(NULL, %s, input_ids => %s::int[], model => %s{}) AS c"
    )
    assert one(shapes, query.format(", truncate => %s"), CHOICES, ids, name, end) == one(
        shapes, query.format(""), CHOICES, cut, name
    )


# ---- Special tokens in a text


def test_special_tokens_are_read_on_request(shapes):
    name, text = "narrow_mlp", "Is it in?<|endoftext|>No<|endoftext|>"
    end = SHAPES[name]["vocab_size"] - 1
    ids = one(shapes, "SELECT gpt2_tokenize(%s, %s, special_tokens => true)", text, name)
    plain = one(shapes, "SELECT gpt2_tokenize(%s, %s)", text, name)
    assert ids.count(end) == 2 and end not in plain
    for special, tokens in ((True, ids), (False, plain)):
        for function, query in READERS.items():
            # what is positional in these is named here
            first = NEED_TEXT.get(function, "")
            asked = f"{first} => %s" if first else "%s"
            given = (
                f"{first} => NULL, input_ids => %s::int[]" if first else "input_ids => %s::int[]"
            )
            options = ", special_tokens => %s, model => %s"
            assert one(shapes, query.format(asked + options), text, special, name) == one(
                shapes, query.format(given + ", model => %s"), tokens, name
            ), function


@pytest.mark.parametrize(
    "query",
    [
        "gpt2_generate(%s, 5, echo => false, model => %s{})",
        "(SELECT array_agg(c) FROM gpt2_complete(%s, 5, n => 2, echo => false, model => %s{}) AS c)",
        "(SELECT array_agg(s.token) FROM gpt2_stream(%s, 5, model => %s{}) AS s)",
        "(SELECT array_agg(c) FROM gpt2_choose(%s, ARRAY['x', '<|endoftext|>'], %s{}) AS c)",
        "(SELECT array_agg(s) FROM gpt2_score(%s, %s{}) AS s)",
        "gpt2_embed(%s, model => %s{})",
    ],
)
def test_special_tokens_of_what_generates(shapes, query):
    """A special token in a text is what its id is, and is text where it is not asked for."""
    text, name = "No<|endoftext|>Oh", "untied"
    asked = one(shapes, "SELECT " + query.format(", special_tokens => true"), text, name)
    plain = one(shapes, "SELECT " + query.format(""), text, name)
    assert asked != plain
    ids = one(shapes, "SELECT gpt2_tokenize(%s, %s, special_tokens => true)", text, name)
    given = query.format(", special_tokens => true, input_ids => %s::int[]")
    assert asked == one(shapes, "SELECT " + given, None, name, ids)


def test_similarity_reads_special_tokens(shapes):
    query = "SELECT gpt2_similarity('a<|endoftext|>', 'b', model => 'untied', special_tokens => %s)"
    assert one(shapes, query, True) != one(shapes, query, False)
    embed = "gpt2_embed(%s, model => 'untied', special_tokens => true)"
    assert one(shapes, query, True) == one(
        shapes, f"SELECT 1 - ({embed} <=> {embed})", "a<|endoftext|>", "b"
    )


# ---- What holds for any prompt


@settings(PROPERTY, max_examples=30)
@given(ids=st.lists(st.integers(0, 298), max_size=12), special=st.booleans())
def test_ids_of_a_text_are_the_text(shapes, ids, special):
    """Any ids: what is generated after them, with its echo, is the decoding of all of them."""
    row = shapes.execute(
        "SELECT text, tokens FROM gpt2_complete(input_ids => %s::int[], max_tokens => 4, "
        "special_tokens => %s, ignore_eos => true, model => 'one_block')", [ids, special],
    ).fetchone()  # fmt: skip
    assert row[0] == one(shapes, "SELECT gpt2_detokenize(%s::int[], 'one_block')", ids + row[1])


def test_an_array_of_any_bounds(shapes):
    query = "SELECT gpt2_generate(input_ids => %s::int[], max_tokens => 3, model => 'one_block')"
    expected = one(shapes, query, "{5,6,7}")
    assert one(shapes, query, "[7:9]={5,6,7}") == expected
    with pytest.raises(errors.InvalidParameterValue, match="has 2 dimensions"):
        one(shapes, query, "{{5},{6},{7}}")


def test_an_empty_list_begins_a_document(shapes):
    for echo in (True, False):
        query = "SELECT gpt2_generate({}, max_tokens => 5, echo => %s, model => 'untied')"
        assert one(shapes, query.format("input_ids => '{}'"), echo) == one(
            shapes, query.format("''"), echo
        )


def test_no_prompt_is_null(shapes):
    assert one(shapes, "SELECT gpt2_generate(model => 'untied')") is None
    assert one(shapes, "SELECT gpt2_perplexity(model => 'untied')") is None
    assert one(shapes, "SELECT gpt2_embed(NULL, input_ids => NULL, model => 'untied')") is None


def test_a_prefix_of_ids(shapes):
    ids = fixture("untied", "dialogue", "tokens").tolist()
    query = "SELECT gpt2_generate(input_ids => %s::int[], max_tokens => 5, model => 'untied'{})"
    assert one(shapes, query.format(""), ids) == one(
        shapes,
        query.format(", prefix => gpt2_prefix(model => 'untied', input_ids => %s::int[])"),
        ids,
        ids[:-3],
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ("'a', input_ids => '{1}'", errors.InvalidParameterValue, "the prompt is given twice"),
        ("'a', input_ids => '{}'", errors.InvalidParameterValue, "the prompt is given twice"),
        ("input_ids => '{1,NULL}'", errors.InvalidParameterValue, "token NULL is not in the"),
        ("input_ids => '{1,-1}'", errors.InvalidParameterValue, "token -1 is not in the"),
        ("input_ids => '{300}'", errors.InvalidParameterValue, "token 300 is not in the"),
        (
            "input_ids => array_fill(1, ARRAY[33])",
            errors.ProgramLimitExceeded,
            "the prompt is too long",
        ),
        ("'a', truncate => 'middle'", errors.InvalidParameterValue, 'truncate "middle" does not'),
        (
            "'a', max_tokens => 32, truncate => 'left'",
            errors.ProgramLimitExceeded,
            "has no room for the prompt",
        ),
        ("'a', max_tokens => -1, truncate => 'left'", errors.InvalidParameterValue, "max_tokens"),
    ],
)
def test_errors(shapes, arguments, error, message):
    with pytest.raises(error, match=message) as raised:
        one(shapes, f"SELECT gpt2_generate({arguments}, model => 'short_context')")
    assert raised.value.diag.message_detail and raised.value.diag.message_hint


def test_a_batch_goes_on(shapes):
    """A text that is too long no longer ends a statement over many."""
    texts = ["a", "b " * 100, "c"]
    query = """SELECT array_agg(gpt2_generate(t, 4, echo => false, model => 'short_context'{})
                                ORDER BY n)
               FROM unnest(%s::text[]) WITH ORDINALITY AS u (t, n)"""
    with pytest.raises(errors.ProgramLimitExceeded):
        one(shapes, query.format(""), texts)
    cut = one(shapes, query.format(", truncate => 'left'"), texts)
    assert cut[0::2] == one(shapes, query.format(""), texts[0::2])
    assert one(
        shapes,
        "SELECT gpt2_similarity(%s, %s, model => 'short_context', truncate => 'right')",
        texts[1],
        "b " * 90,
    ) == pytest.approx(1, abs=1e-6)
