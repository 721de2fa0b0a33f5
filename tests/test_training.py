"""How the bundled model is made (loader/training), on made-up texts: `make test-training`.

What is cleaned and what is held out, the training's own arithmetic and some steps of it on the
CPU, and the figures beside ones that are computed otherwise. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib
import json
import math
import random
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO, ROOT
from oracle.checkpoints import SHAPES, write_checkpoint
from oracle.tokenizer import tokenizer

pytestmark = pytest.mark.training

END = 50256
WORDS = "the table index of a row is in and to server reads writes key value that when".split()


@pytest.fixture(autouse=True)
def path(monkeypatch) -> None:
    """The scripts import each other as a reader runs them, from their folder. One thread, as
    steps this small wait for each other longer than they compute."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(ROOT / "loader/training"))


def script(name: str):
    return importlib.import_module(name)


def run(monkeypatch, name: str, *arguments) -> None:
    """A script, as from a shell."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    script(name).main()


def english(n_words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n_words)) + f" {seed}."


# ---- Text of pages


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<h1>One</h1><p>Two\n  words</p>", "One\nTwo words"),
        ("<ul><li>one<li>two <b>and</b> a half</ul>", "one\ntwo and a half"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><th>c</th></tr></table>", "a b\nc"),
        ("<p>Code:</p><pre>\nif x:\n    y  =  1\n\n\nz</pre>", "Code:\nif x:\n    y  =  1\nz"),
        ("<p>a<br>b</p><script>no</script><nav>no</nav>", "a\nb"),
        ('<p>a</p><div class="toc other">no</div>b<div role="search">no</div>', "a\nb"),
        ('<div role="main"><p>yes</p></div><p>no</p>', "yes"),
        # three links and hardly anything beside them; two links; three links in a sentence
        ('<p><a href="a">one</a> <a href="b">two</a> | <a href="c">three</a></p>x', "x"),
        ('<p><a href="a">one</a> <a href="b">two</a></p>', "one two"),
        (
            '<p>See <a href="a">1</a>, <a href="b">2</a> or <a href="c">3</a> of them</p>',
            "See 1, 2 or 3 of them",
        ),
        ("<?xml version='1.0'?><p>a\N{PILCROW SIGN}&shy;b</p><!-- no -->", "ab"),
        ("<p>\N{LATIN SMALL LETTER E WITH ACUTE}</p>", "\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("  ", ""),
        ("<!-- nothing -->", ""),
    ],
)
def test_text_of_html(page, text):
    text_of_html = script("extract").text_of_html
    assert text_of_html(f"<meta charset=utf-8>{page}" if page.strip() else page) == text
    assert text_of_html(page.encode()) == text


def test_text_of_wrapped():
    page = b"One paragraph\nof two lines.\n\n \n\n  Another\n"
    assert script("extract").text_of_wrapped(page) == "One paragraph of two lines.\nAnother"


@pytest.mark.skipif(not shutil.which("mandoc"), reason="needs mandoc")
def test_text_of_man():
    page = b".TH X 1\n.SH NAME\nx \\(em a tool\n.SH USE\n.nf\nx  -a\n.fi\n"
    assert script("extract").text_of_man(page) == "NAME\nx \u2014 a tool\nUSE\nx  -a"


# ---- Which pages, and for what


def documents(*texts: str, manual: bool = False) -> list:
    corpus = script("corpus")
    source = corpus.SOURCES[0 if manual else 1]
    return [corpus.Document(source, f"/{i:02}.html", text) for i, text in enumerate(texts)]


def test_is_english():
    is_english = script("corpus").is_english
    assert is_english("This is the page that you read, and it has words. SELECT 1;")
    assert not is_english("Dies ist eine Seite auf Deutsch, mit vielen Worten darin.")
    assert not is_english("int main ( void ) { return 0 ; }")
    assert is_english("the") and not is_english("")


@pytest.mark.parametrize(("n", "kept"), [(6, True), (7, False)])
def test_boilerplate(n, kept):
    """A paragraph goes where more than six pages have it; a short one, and the manual's, stay."""
    line = "This page was made by a program, on a day."
    pages = [f"{line}\nshort\n{english(150, seed)}" for seed in range(n)]
    whole = documents(*pages, manual=True)
    found = script("corpus").without_boilerplate(whole + documents(*(p + "!x" for p in pages)))
    assert [document.text for document in found[:n]] == pages
    assert [line in document.text for document in found[n:]] == [kept] * n
    assert all("short" in document.text for document in found)


def test_a_page_once():
    text = english(150, 1)
    found = script("corpus").without_boilerplate(
        documents(text, text.upper().replace(" ", "  "), text + " more", "too short")
    )
    assert [document.text for document in found] == [text, text + " more"]


def test_share_held_out():
    corpus = script("corpus")
    for source, percent in ((corpus.SOURCES[0], 3), (corpus.SOURCES[1], 1.5)):
        n = sum(
            corpus.is_test(corpus.Document(source, f"/page-{i}.html", "")) for i in range(20_000)
        )
        assert n == pytest.approx(200 * percent, rel=0.15)


@pytest.mark.parametrize(("n", "near"), [(0, False), (25, False), (45, True), (100, True)])
def test_near_copies(n, near):
    """n of a hundred tokens of a page for the test stand in another page."""
    corpus = script("corpus")
    rng = np.random.default_rng(1)
    tested, other, own = rng.integers(0, 50_000, (3, 100)).astype(np.uint16)
    known = corpus.hashes_of([other, tested])
    assert corpus.is_near_copy(np.concatenate([own, tested[:n], own]), known) is near


def test_end_of_the_manual():
    """Whole pages, from the last one back, of no more than so many tokens together."""
    corpus = script("corpus")
    pages = documents("a", "b", "c", "d", manual=True)
    assert corpus.unseen_pages(pages, [9, 12_000, 11_000, 9_000]) == {"/02.html", "/03.html"}
    assert corpus.unseen_pages(pages, [9, 9, 9, 20_001]) == set()


def package(folder: Path, name: str, pages: dict[str, str]) -> None:
    """A Debian package in a folder, of files by their paths."""
    tree = folder / name
    for path, text in {f"usr/share/doc/{name}/copyright": "yours", **pages}.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        content = text.encode()
        file.write_bytes(gzip.compress(content) if path.endswith(".gz") else content)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.2-3\nArchitecture: all\nMaintainer: n <n@n>\nDescription: n\n"
    )
    made = folder / "packages" / f"{name}_1.2-3_all.deb"
    made.parent.mkdir(exist_ok=True)
    subprocess.run(["dpkg-deb", "--build", tree, made], check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_corpus(monkeypatch, tmp_path):
    """From packages to tokens: every page that counts is in one part, whole."""
    sources = script("sources")
    manual = {f"usr/share/doc/m/html/{i:03}.html": f"<p>{english(200, i)}" for i in range(120)}
    others = {f"usr/share/doc/o/{i:03}.txt.gz": english(200, 1000 + i) for i in range(120)}
    package(tmp_path, "m", manual | {"usr/share/doc/m/html/release-1.html": english(200, 5001)})
    package(tmp_path, "o", others | {"usr/share/doc/o/x.bin": english(200, 5002)})
    made_up = (
        sources.Source("m", "free", "^/usr/share/doc/m/html/.*html$"),
        sources.Source("o", "free", r"^/usr/share/doc/o/.*\.gz$", "wrapped"),
    )
    monkeypatch.setattr(script("corpus"), "SOURCES", made_up)
    monkeypatch.setattr(script("corpus"), "N_UNSEEN", 1000)
    run(monkeypatch, "corpus", "--output", tmp_path)

    decode = tokenizer().decode
    found, parts = [], {}
    for part in script("corpus").PARTS:
        tokens = np.load(tmp_path / f"{part}.npy")
        assert tokens.dtype == np.uint16 and tokens[0] == END
        ends = [*np.flatnonzero(tokens == END), len(tokens)]
        texts = [decode(tokens[a + 1 : b].tolist()) for a, b in pairwise(ends)]
        parts[part] = {int(text.split()[-1].rstrip(".")) for text in texts}
        found += texts
    wanted = [english(200, i) for i in (*range(120), *range(1000, 1120))]
    assert sorted(found) == sorted(wanted)
    assert parts["test_unseen"] == set(range(120 - len(parts["test_unseen"]), 120)) != set()
    assert max(parts["test_postgresql"]) < 1000 <= min(parts["test_other"])
    # the manual comes first
    first = np.load(tmp_path / "train.npy")
    rows = json.loads((tmp_path / "corpus.json").read_text())
    assert [row["version"] for row in rows] == ["1.2-3"] * 2
    assert rows[0]["train"]["documents"] == len({i for i in parts["train"] if i < 1000})
    assert first[rows[0]["train"]["tokens"]] == END
    assert sum(row["train"]["tokens"] for row in rows) == len(first)
    assert (tmp_path / "packages/o.copyright").read_text() == "yours"


# ---- Training


def test_rows():
    tokens = np.array([7] * 5 + [9] * 4 + [50_000] * 3 + [END] + [3] * 2)
    rows = script("train").Rows(tokens, 5)
    assert [rows.of[token] for token in (7, 9, 50_000, END)] == [0, 1, 2, 3]
    assert rows.of[3] == rows.of[12_345] == 4 and rows.n_shared == 50_257 - 4
    assert rows.share == pytest.approx(2 / (15 + 5))


def test_windows():
    """Each token is predicted once before any is again, but for those that fill no window."""
    import torch

    windows = script("train").Windows(torch.arange(1000), 16, seed=1)
    for _ in range(3):
        epoch = windows.take(1)
        epoch = torch.cat([epoch, windows.take(len(windows.starts))])
        assert bool((epoch[:, 1:] == epoch[:, :1] + torch.arange(1, 17)).all())
        new = epoch[:, 1:].flatten()
        assert len(set(new.tolist())) == len(new) > 1000 - 2 * 16


def tiny_options(**changed) -> argparse.Namespace:
    shape = dict(rows=12, context=8, width=16, blocks=2, heads=2, dropout=0.0, seed=1, bits=5)
    return argparse.Namespace(**shape | changed)


def test_loss_is_that_of_the_whole_vocabulary():
    """The loss over the rows, and of the model in which each token has its row."""
    import torch

    train = script("train")
    model = train.new_model(tiny_options())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20)
    of = torch.tensor([*range(11), *[11] * 30])  # 30 tokens share the last row
    tokens = torch.randint(len(of), (6, 9), generator=torch.Generator().manual_seed(2))
    logits = model(of[tokens[:, :-1]]).logits[..., of]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert train.loss(model, of[tokens], 30).item() == pytest.approx(expected.item(), rel=1e-5)


def test_schedule():
    schedule = script("train").Schedule(None, 100)
    rates = [schedule.rate(schedule.progress(step)) for step in range(101)]
    assert max(rates) == rates[2] == pytest.approx(1, abs=1e-3)
    assert rates[0] < 1e-3 and rates[100] < 1e-3
    assert np.allclose(np.diff(rates[2:]), -1 / 98)


@pytest.mark.parametrize("bits", [5, 10])
def test_rounded(bits):
    import torch

    values = torch.randn(10_000, generator=torch.Generator().manual_seed(3)) * 0.1
    made = script("train").rounded(values, bits)
    assert made.dtype == torch.float16
    assert int((made.view(torch.int16) & ((1 << (10 - bits)) - 1)).abs().max()) == 0
    large = values.abs() > 1e-3  # below it float16 has fewer bits
    assert float((made.float() / values - 1)[large].abs().max()) <= 2.0 ** -(bits + 1) + 2.0**-11


@pytest.fixture
def data(tmp_path) -> Path:
    """What corpus.py writes, of made-up sentences."""
    encode, folder = tokenizer().encode, tmp_path / "data"
    folder.mkdir()

    def write(name: str, seeds: range) -> int:
        parts = [np.array([END, *encode(english(60, seed)).ids], np.uint16) for seed in seeds]
        np.save(folder / f"{name}.npy", np.concatenate(parts))
        return sum(map(len, parts))

    total = write("train", range(100))
    for name, first in (("test_postgresql", 200), ("test_unseen", 210), ("test_other", 220)):
        write(name, range(first, first + 5))
    (folder / "corpus.json").write_text(json.dumps([{"train": {"tokens": total // 2}}]))
    return folder


def test_steps_of_training(monkeypatch, capsys, tmp_path, data):
    """Some steps on the CPU: the loss falls far, and the checkpoint is one that the loader reads."""
    import torch
    from gpt2_loader.checkpoint import Checkpoint
    from gpt2_loader.client import read_tensor
    from transformers import GPT2LMHeadModel

    monkeypatch.setattr(script("train").torch.cuda, "is_available", lambda: False)
    shape = "--rows 64 --width 32 --blocks 2 --heads 2 --context 32 --batch 8".split()
    how = "--steps 60 --report 30 --no-compile --dropout 0".split()
    run(monkeypatch, "train", "--data", data, "--output", tmp_path / "model", *shape, *how)
    printed = capsys.readouterr().out
    assert "64 rows" in printed and "60 steps" in printed
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in printed.splitlines()
              if line.startswith("step ")]  # fmt: skip
    # at first the whole vocabulary is as likely as each other; then 17 words
    assert math.log(50_257) > losses[0] > losses[1] and losses[1] < 5

    checkpoint = Checkpoint(str(tmp_path / "model"), read_tensor)
    assert checkpoint.vocabulary is None and checkpoint.config.n_vocab == 50_257
    assert checkpoint.tokens.eos_tokens == [END]
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    wte = model.transformer.wte.weight.detach().numpy()
    assert len(np.unique(wte, axis=0)) == 64
    seen, unseen = tokenizer().encode(" table").ids[0], 40_000
    assert (wte[unseen] == wte[40_001]).all() and (wte[seen] != wte[unseen]).any()
    # it is the model that was trained, but for the roundings
    tested = ast.literal_eval(printed.split("nats a token in the tests: ")[1].splitlines()[0])
    tokens = torch.from_numpy(np.load(data / "test_other.npy").astype(np.int64))
    windows = tokens.unfold(0, 33, 32)
    with torch.inference_mode():
        logits = model(windows[:, :-1]).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())
    assert loss.item() == pytest.approx(tested["other"], abs=0.1)


# ---- Figures


@pytest.fixture
def scorer(tmp_path):
    """Of a model of context 32 and a vocabulary of its own, on the CPU."""
    made = script("evaluate").Scorer(write_checkpoint(tmp_path, SHAPES["short_context"]))
    made.model, made.device = made.model.cpu(), "cpu"
    return made


@pytest.mark.parametrize("n_words", [1, 9, 10, 30])
def test_bits(scorer, n_words):
    """Token by token: each one's -log2 P after what its window has before it."""
    import torch

    text = english(n_words, 5)
    n_vocab, n_ctx = scorer.n_vocab, scorer.context
    tokens = [n_vocab - 1, *tokenizer(n_vocab).encode(text).ids]
    end, expected = min(n_ctx, len(tokens)), 0.0
    for i in range(1, len(tokens)):
        if i >= end:
            end = min(end + n_ctx // 2, len(tokens))
        before = torch.tensor([tokens[max(end - n_ctx, 0) : i]])
        logits = scorer.model(before).logits[0, -1].double().detach()
        expected -= float(logits.log_softmax(-1)[tokens[i]]) / math.log(2)
    assert scorer.bits(text) == pytest.approx(expected, rel=1e-4)
    assert scorer.bits_per_byte([text, text]) == pytest.approx(expected / len(text), rel=1e-4)


def test_bits_of_a_model_that_knows_nothing(scorer):
    import torch

    with torch.no_grad():
        for parameter in scorer.model.parameters():
            parameter.zero_()
    text = english(100, 6)
    n = len(tokenizer(scorer.n_vocab).encode(text).ids)
    assert scorer.bits(text) == pytest.approx(n * math.log2(scorer.n_vocab), rel=1e-5)


def test_evaluate(monkeypatch, capsys, tmp_path, data):
    """A column a model, in the order of the command line."""
    small = write_checkpoint(tmp_path / "small", SHAPES["one_block"])
    run(monkeypatch, "evaluate", DEMO, small, "--data", data)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"1  {DEMO}: 4.55 MB") and lines[1].startswith(f"2  {small}: ")
    figures = [line.split()[:2] for line in lines[-3:]]
    scores = [script("evaluate").Scorer(model) for model in (DEMO, small)]
    texts = script("evaluate").texts(data / "test_other.npy")
    assert texts == [english(60, seed) for seed in range(220, 225)]
    assert [float(figure) for figure in figures[2]] == pytest.approx(
        [score.bits_per_byte(texts) for score in scores], abs=0.0006
    )
