"""gpt2_completions, as OpenAI's own client sees it over HTTP, beside what the other functions give."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import psycopg
import pytest
from conftest import PROPERTY, one
from gateway import gateway
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

PROMPT = "CREATE TABLE"


@pytest.fixture(scope="module")
def client(demo_dsn: str) -> Iterator[openai.OpenAI]:
    with gateway(demo_dsn) as url:
        yield openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def complete(client: openai.OpenAI, prompt=PROMPT, **options):
    return client.completions.create(model="demo", prompt=prompt, **options)


def ours(conn: psycopg.Connection, prompt: str = PROMPT, **options) -> list[tuple]:
    """(text, tokens, logprobs, finish_reason) of gpt2_complete, without the prompt."""
    named = "".join(f", {name} => %({name})s" for name in options)
    return conn.execute(
        "SELECT text, tokens, logprobs, finish_reason"
        f" FROM gpt2_complete(%(prompt)s, echo => false{named})",
        options | {"prompt": prompt},
    ).fetchall()


def test_defaults_are_openais(client, demo):
    answer = complete(client, seed=5)
    [choice] = answer.choices
    [(text, tokens, _, _)] = ours(demo, seed=5, max_tokens=16, temperature=1)
    assert (choice.text, choice.index, choice.logprobs) == (text, 0, None)
    n_prompt = len(one(demo, "SELECT gpt2_tokenize(%s)", PROMPT))
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": n_prompt,
        "completion_tokens": len(tokens),
        "total_tokens": n_prompt + len(tokens),
    }
    assert answer.object == "text_completion" and answer.model == "demo"
    assert answer.id.startswith("cmpl-") and answer.id != complete(client, seed=5).id
    now = one(demo, "SELECT extract(epoch FROM clock_timestamp())::float8")
    assert abs(answer.created - now) < 60


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0.7, "top_p": 0.9, "seed": 3},
        {"temperature": 0, "frequency_penalty": 0.5, "presence_penalty": 1},
        {"temperature": 0, "logit_bias": {"11": 5, "13": -100}},
        {"temperature": 0, "max_tokens": 1},
        {"temperature": 0, "max_tokens": 0},
    ],
)
def test_options(client, demo, options):
    [choice] = complete(client, **options).choices
    options = {"max_tokens": 16} | options
    if "logit_bias" in options:
        options["logit_bias"] = Jsonb(options["logit_bias"])
    [(text, *_)] = ours(demo, **options)
    assert choice.text == text


def test_options_of_ours(client, demo):
    options = {
        "top_k": 5,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "allowed_tokens": [11, 13, 262],
    }
    [choice] = complete(client, seed=2, extra_body=options).choices
    [(text, *_)] = ours(demo, seed=2, max_tokens=16, temperature=1, **options)
    assert choice.text == text
    [choice] = complete(client, max_tokens=2, extra_body={"pattern": "[0-9]{2}"}).choices
    assert choice.text.isdigit() and choice.finish_reason == "stop"
    [choice] = complete(client, max_tokens=1, extra_body={"pattern": "[0-9]{90}"}).choices
    assert (choice.text, choice.finish_reason) == (None, "constraint")


@pytest.mark.parametrize("stop", [" ", ["zzz", "e"]])
def test_stop(client, stop):
    [choice] = complete(client, temperature=0, max_tokens=20, stop=stop, logprobs=0).choices
    assert choice.finish_reason == "stop"
    assert not any(s in choice.text for s in ([stop] if isinstance(stop, str) else stop))
    # tokens that begin after the end of the text are left out
    assert "".join(choice.logprobs.tokens).startswith(choice.text)
    assert all(offset < len(PROMPT) + len(choice.text) for offset in choice.logprobs.text_offset)


def test_length(client):
    [choice] = complete(client, temperature=0, max_tokens=3).choices
    assert choice.finish_reason == "length"
    [choice] = complete(client, prompt="x" * 40, temperature=0, max_tokens=100_000).choices
    assert choice.finish_reason in ("length", "stop")


def test_several_prompts_and_choices(client, demo):
    prompts = ["CREATE", "DROP INDEX", ""]
    answer = complete(client, prompt=prompts, n=2, seed=7, max_tokens=4)
    assert [choice.index for choice in answer.choices] == list(range(6))
    expected = [
        ours(demo, prompt=prompt, n=2, seed=7, max_tokens=4, temperature=1) for prompt in prompts
    ]
    assert [c.text for c in answer.choices] == [text for two in expected for text, *_ in two]
    n_prompt = sum(max(1, len(one(demo, "SELECT gpt2_tokenize(%s)", prompt))) for prompt in prompts)
    assert answer.usage.prompt_tokens == n_prompt
    assert answer.usage.completion_tokens == sum(len(t) for two in expected for _, t, *_ in two)


def test_the_best_of_some(client, demo):
    answer = complete(client, n=2, best_of=5, seed=1, max_tokens=6)
    all_five = ours(demo, n=5, seed=1, max_tokens=6, temperature=1)
    best = sorted(all_five, key=lambda c: -sum(c[2]) / len(c[2]))
    assert [choice.text for choice in answer.choices] == [text for text, *_ in best[:2]]
    assert answer.usage.completion_tokens == sum(len(tokens) for _, tokens, *_ in all_five)


def test_prompts_as_ids(client, demo):
    ids = one(demo, "SELECT gpt2_tokenize(%s)", PROMPT)
    by_text = complete(client, temperature=0).choices[0].text
    assert complete(client, prompt=ids, temperature=0).choices[0].text == by_text
    answer = complete(client, prompt=[ids, ids[:1]], temperature=0, echo=True)
    assert answer.choices[0].text == PROMPT + by_text
    assert len(answer.choices) == 2


@pytest.mark.parametrize("k", [0, 1, 5])
def test_log_probabilities(client, demo, k):
    """Of the prompt's tokens as gpt2_score gives them, of the others as gpt2_complete does; the
    likeliest are those of gpt2_next_token."""
    [choice] = complete(client, echo=True, logprobs=k, max_tokens=3, temperature=0).choices
    logprobs = choice.logprobs
    scores = demo.execute("SELECT token, piece, logprob FROM gpt2_score(%s)", [PROMPT]).fetchall()
    [(text, tokens, ours_logprobs, _)] = ours(demo, max_tokens=3)
    assert choice.text == PROMPT + text
    assert "".join(logprobs.tokens) == PROMPT + text
    assert logprobs.tokens[: len(scores)] == [piece for _, piece, _ in scores]
    expected = [logprob for *_, logprob in scores] + ours_logprobs
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1:] == pytest.approx(expected[1:], rel=1e-9)
    offsets = [len("".join(logprobs.tokens[:i])) for i in range(len(logprobs.tokens))]
    assert logprobs.text_offset == offsets
    if k == 0:
        assert logprobs.top_logprobs is None
        return
    assert logprobs.top_logprobs[0] is None
    ids = [token for token, *_ in scores] + tokens
    for i in range(1, len(ids)):
        likeliest = demo.execute(
            "SELECT piece, ln(probability) FROM gpt2_next_token(top_k => NULL, input_ids => %s)"
            " WHERE rank <= %s OR token = %s",
            [ids[:i], k, ids[i]],
        ).fetchall()
        assert logprobs.top_logprobs[i] == pytest.approx(dict(likeliest), rel=1e-6)


def test_echo_of_nothing_else(client, demo):
    """max_tokens 0 with echo and logprobs scores a text."""
    [choice] = complete(client, echo=True, logprobs=1, max_tokens=0).choices
    scores = demo.execute("SELECT logprob FROM gpt2_score(%s)", [PROMPT]).fetchall()
    assert choice.text == PROMPT
    assert choice.logprobs.token_logprobs[1:] == pytest.approx([s for (s,) in scores[1:]], rel=1e-9)


def test_a_token_that_is_no_character(client, demo):
    [choice] = complete(client, prompt="é→🙂a", echo=True, logprobs=0, max_tokens=0).choices
    raw = demo.execute(
        "SELECT t.bytes FROM unnest(gpt2_tokenize(%s)) WITH ORDINALITY AS u (token, n)"
        " JOIN gpt2.token AS t USING (token)"
        " WHERE t.tokenizer = (SELECT tokenizer FROM gpt2.model WHERE name = 'demo') ORDER BY u.n",
        ["é→🙂a"],
    ).fetchall()
    spelt, offset = [], []
    for i, (token,) in enumerate(raw):
        try:
            spelt.append(token.decode())
        except UnicodeDecodeError:
            spelt.append("bytes:" + "".join(f"\\x{byte:02x}" for byte in token))
        before = b"".join(b for (b,) in raw[:i])
        offset.append(sum(byte & 192 != 128 for byte in before))
    assert choice.logprobs.tokens == spelt and any(s.startswith("bytes:") for s in spelt)
    assert choice.logprobs.text_offset == offset


def test_special_tokens(client, demo):
    text = "<|endoftext|>a"
    for special, function in ((True, "true"), (False, "false")):
        answer = complete(client, prompt=text, max_tokens=0, extra_body={"special_tokens": special})
        n = len(one(demo, f"SELECT gpt2_tokenize(%s, special_tokens => {function})", text))
        assert answer.usage.prompt_tokens == n


@pytest.mark.parametrize(
    ("options", "error", "param", "message"),
    [
        ({"temperature": -1}, openai.BadRequestError, "temperature", "temperature must be 0 or"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature", "must be a number"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens", "max_tokens must be 0 or"),
        ({"max_tokens": 1.5}, openai.BadRequestError, "max_tokens", "must be an integer"),
        ({"max_tokens": 10**10}, openai.BadRequestError, None, "out of range for type integer"),
        ({"n": 0}, openai.BadRequestError, "n", "n must be between 1 and 1000"),
        ({"n": 3, "best_of": 2}, openai.BadRequestError, "best_of", "best_of must be n or more"),
        ({"logprobs": 6}, openai.BadRequestError, "logprobs", "between 0 and 5"),
        ({"echo": 1}, openai.BadRequestError, "echo", "echo must be a boolean"),
        ({"stop": [1]}, openai.BadRequestError, "stop", "a string or a list of strings"),
        ({"logit_bias": [1]}, openai.BadRequestError, "logit_bias", "must be an object"),
        ({"suffix": "end"}, openai.BadRequestError, "suffix", "suffix is not supported"),
        ({"prompt": []}, openai.BadRequestError, "prompt", "prompt must be a string"),
        ({"prompt": [["a"]]}, openai.BadRequestError, "prompt", "prompt must be a string"),
        ({"prompt": [1, "a"]}, openai.BadRequestError, "prompt", "prompt must be a string"),
        ({"prompt": [99999999]}, openai.BadRequestError, None, "99999999"),
        ({"prompt": "a " * 2000}, openai.BadRequestError, None, "the prompt is too long"),
        ({"extra_body": {"tok_k": 3}}, openai.BadRequestError, None, '"tok_k" is no field'),
        ({"extra_body": {"stream": True}}, openai.BadRequestError, "stream", "gpt2_stream"),
    ],
)
def test_bad_requests(client, options, error, param, message):
    with pytest.raises(error) as raised:
        complete(client, **({"max_tokens": 2} | options))
    assert message in raised.value.body["message"]
    assert raised.value.body["param"] == param
    assert raised.value.body["type"] == "invalid_request_error"


def test_no_such_model(client):
    with pytest.raises(openai.NotFoundError, match='model "gpt-5" does not exist') as raised:
        client.completions.create(model="gpt-5", prompt=PROMPT)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_no_model(new_database):
    with psycopg.connect(new_database(holds="extension"), autocommit=True) as conn:
        answer = one(conn, "SELECT gpt2_completions('{}')")
        assert answer["error"]["type"] == "server_error"
        assert answer["error"]["message"].startswith("no model is loaded. ")


@pytest.mark.parametrize("request_", ["[]", "1", '"text"', "null"])
def test_no_object(demo, request_):
    error = one(demo, "SELECT gpt2_completions(%s::jsonb)", request_)["error"]
    assert error["message"].startswith("request must be a JSON object. It is of type ")
    assert error["param"] is None


@pytest.mark.parametrize(
    ("request_", "error", "detail"),
    [
        ([], "request must be a JSON object", "It is of type array."),
        ({"tok_k": 3}, '"tok_k" is no field of a request', "There are OpenAI's, and the options"),
        ({"echo": 1}, "echo must be a boolean", "It is 1."),
        ({"stream": True}, "stream is not supported", "One value is given, when all is done."),
        ({"suffix": "a"}, "suffix is not supported", "GPT-2 reads what is before, not what"),
        ({"logprobs": 6}, "logprobs must be between 0 and 5", "It is 6."),
        ({"n": 2, "best_of": 1}, "best_of must be n or more", "It is 1, n is 2."),
    ],
)
def test_what_the_error_object_is_made_of(demo, request_, error, detail):
    """The error below, with its DETAIL and HINT."""
    with pytest.raises(psycopg.Error) as raised:
        demo.execute("SELECT gpt2._completions(%s)", [Jsonb(request_)])
    diag = raised.value.diag
    assert diag.message_primary == error and diag.message_detail.startswith(detail)
    message = f"{error}. {diag.message_detail} {diag.message_hint}"
    answer = one(demo, "SELECT gpt2_completions(%s)", Jsonb(request_))["error"]
    assert (answer["message"], answer["code"]) == (message, diag.sqlstate)


def test_null(demo):
    assert one(demo, "SELECT gpt2_completions(NULL)") is None
    # null is what clients send for what is left out
    with_null = one(
        demo,
        """SELECT gpt2_completions('{"prompt": "a", "temperature": 0,
        "max_tokens": 2, "stop": null, "n": null, "unheard_of": null}')""",
    )
    assert with_null["choices"][0]["text"] == one(
        demo, "SELECT gpt2_generate('a', 2, echo => false)"
    )


def test_other_errors_are_raised(demo):
    with demo.transaction(force_rollback=True):
        demo.execute("SET LOCAL statement_timeout = 1")
        with pytest.raises(psycopg.errors.QueryCanceled):
            demo.execute("""SELECT gpt2_completions('{"max_tokens": 200, "ignore_eos": true}')""")


def test_it_changes_nothing(demo_dsn):
    """A transaction that only reads may call it, and the planner's settings are as they were."""
    settings_now = "SELECT name, setting FROM pg_settings"
    call = """SELECT gpt2_completions('{"max_tokens": 1}') -> 'choices'"""
    with psycopg.connect(demo_dsn, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = on")
        assert one(conn, call)  # loads libraries, which have settings
        before = set(conn.execute(settings_now))
        assert one(conn, call)
        assert set(conn.execute(settings_now)) == before


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 60_000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab5"), inner),
    max_leaves=6,
)
FIELDS = (
    "prompt max_tokens n best_of echo logprobs stop suffix stream user seed temperature top_p top_k"
    " logit_bias frequency_penalty presence_penalty allowed_tokens choices pattern special_tokens"
).split()


@pytest.fixture
def short(demo):
    """Statements of the property below end, whatever is asked for."""
    demo.execute("SET statement_timeout = '20s'")
    return demo


@settings(PROPERTY, max_examples=150)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_any_json_is_answered(short, request_):
    request_ = {"max_tokens": 1} | request_
    if isinstance(request_["max_tokens"], int):
        request_["max_tokens"] = min(request_["max_tokens"], 2)
    for field in ("n", "best_of"):
        if isinstance(request_.get(field), int):
            request_[field] = min(request_[field], 3)
    answer = one(short, "SELECT gpt2_completions(%s)", Jsonb(request_))
    if "error" in answer:
        assert answer["error"].keys() == {"message", "type", "param", "code"}
    else:
        assert len(answer["choices"]) >= 1
