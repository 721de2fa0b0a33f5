"""gpt2_loader.harness beside the evaluation harness's own `hf` backend, on the same weights, with tasks
that are made here: `make test-oracle`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import psycopg
import pytest
from conftest import ROOT, load_model
from oracle.tokenizer import tokenizer

from databases import BUNDLED

pytestmark = pytest.mark.oracle

TEXTS = [
    "The table is created with CREATE TABLE.",
    "An index makes a query faster. " * 40,  # longer than a window
    "SELECT count(*) FROM orders WHERE total > 100;",
    "Größe → naïve 🙂",
    "x",
]
CHOICES = [
    {"query": "To remove a table, use", "choices": [" DROP TABLE", " a spoon"], "gold": 0},
    {"query": "The server listens on a ", "choices": ["port", "potato", " port"], "gold": 0},
    {"query": "Rows are stored in", "choices": [" pages", " the sky"], "gold": 0},
]
CONTEXT = 64


def task(name: str, rows: list[dict], folder, **config) -> dict:
    """A task whose documents are a file."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        **config,
    }


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("tasks")
    texts = [{"text": text} for text in TEXTS]
    return [
        task(
            "choices",
            CHOICES,
            folder,
            output_type="multiple_choice",
            doc_to_text="query",
            doc_to_choice="choices",
            doc_to_target="gold",
            metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
        ),
        task(
            "texts",
            texts,
            folder,
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="text",
            metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        ),
        task(
            "completions",
            [{"text": text} for text in TEXTS if len(text) < 100],
            folder,
            output_type="generate_until",
            doc_to_text="text",
            doc_to_target="text",
            generation_kwargs={"until": ["\n", "."], "max_gen_toks": 12, "do_sample": False},
            metric_list=[{"metric": "exact_match"}],
        ),
    ]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The bundled model with a context of 64, so that texts are longer."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(BUNDLED)
    model.transformer.wpe.weight.data = model.transformer.wpe.weight.data[:CONTEXT].clone()
    model.config.n_positions = model.config.n_ctx = CONTEXT
    folder = tmp_path_factory.mktemp("short")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dsn(new_database, directory):
    uri = new_database(holds="extension")
    load_model(uri, directory, "short")
    return uri


@pytest.fixture(scope="module")
def backends(dsn, directory):
    from gpt2_loader.harness import SqlLM
    from lm_eval.models.huggingface import HFLM
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    theirs = HFLM(
        pretrained=GPT2LMHeadModel.from_pretrained(directory).float(),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer()._tokenizer,
            eos_token="<|endoftext|>",
            bos_token="<|endoftext|>",
        ),
        device="cpu",
        batch_size=1,
        max_length=CONTEXT,
    )
    return SqlLM(dsn, "short", batch_size=3), theirs


def evaluate(backend, tasks: list[dict]) -> dict:
    from lm_eval.evaluator import simple_evaluate

    return simple_evaluate(
        backend, tasks=copy.deepcopy(tasks), bootstrap_iters=0, log_samples=True, verbosity="ERROR"
    )


def test_equals_hf(backends, tasks):
    """Metrics, and what each request was answered."""
    ours, theirs = (evaluate(backend, tasks) for backend in backends)
    assert ours["results"].keys() == theirs["results"].keys() == {t["task"] for t in tasks}
    for name, metrics in theirs["results"].items():
        numbers = {key: value for key, value in metrics.items() if isinstance(value, float)}
        assert numbers
        assert {key: ours["results"][name][key] for key in numbers} == pytest.approx(
            numbers, rel=1e-4
        )
        answers = [
            [sample["resps"] for sample in sorted(run["samples"][name], key=lambda s: s["doc_id"])]
            for run in (ours, theirs)
        ]
        ours_flat, theirs_flat = map(flat, answers)
        assert ours_flat == [
            answer if isinstance(answer, str) else pytest.approx(answer, rel=1e-4)
            for answer in theirs_flat
        ]


def flat(answers) -> list:
    """The numbers, words and texts of nested lists."""
    if isinstance(answers, list | tuple):
        return [leaf for answer in answers for leaf in flat(answer)]
    return [answers if isinstance(answers, str) else float(answers)]


def test_another_model_differs(dsn, backends, tasks):
    """The comparison can fail."""
    from gpt2_loader.harness import SqlLM

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SELECT gpt2_create_variant('other', 'short')")
        conn.execute("""UPDATE gpt2.linear SET bias = bias + 0.1 FROM gpt2.model AS m
                        WHERE m.model = linear.model AND m.name = 'other' AND block = 1 AND slice = 0""")
    ours = evaluate(SqlLM(dsn, "other"), tasks[1:2])["results"]["texts"]
    theirs = evaluate(backends[1], tasks[1:2])["results"]["texts"]
    key = "bits_per_byte,none"
    assert ours[key] != pytest.approx(theirs[key], rel=1e-3)


def test_no_such_model(dsn):
    from gpt2_loader.harness import SqlLM

    with pytest.raises(ValueError, match='model "nobody" does not exist'):
        SqlLM(dsn, "nobody")


def test_unknown_option(backends):
    from lm_eval.api.instance import Instance

    request = Instance("generate_until", {}, ("a", {"until": [], "num_beams": 4}), 0)
    with pytest.raises(ValueError, match="gpt2_generate has no num_beams"):
        backends[0].generate_until([request], disable_tqdm=True)


def test_command_line(dsn):
    """The harness's own, with one more model."""
    done = subprocess.run(
        [sys.executable, "-m", "gpt2_loader.harness", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "lm-eval" in done.stdout or "lm_eval" in done.stdout
