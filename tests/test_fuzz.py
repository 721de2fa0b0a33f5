"""Both importers read broken model directories alike: the first mutations of tests/fuzz.py, of which
`make fuzz` takes more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import fuzz
import pytest
from conftest import ROOT
from gpt2_loader import checkpoint, client, files, safetensors_header, vocabulary
from test_loader import entry, file_of

#: `make attack` has more
N_FILES = int(os.environ.get("GPT2_FILES", "400"))


@pytest.fixture(scope="module", autouse=True)
def unheard() -> Iterator[None]:
    """Nobody reads the words of these errors: tests/messages.py shall not count them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GPT2_MESSAGES", raising=False)
        yield


@pytest.fixture(scope="module")
def results() -> list[fuzz.Result]:
    blocks = fuzz.run_all(seed=1, first=0, n_files=N_FILES)
    return sorted(result for block in blocks for result in block)


def test_both_importers_agree(results):
    assert not [result for result in results if result.wrong]


def test_mutations_are_broken_and_whole(results):
    """Changes that no directory survives, or that none notices, would find nothing."""
    counts = Counter(result.outcome for result in results)
    assert counts["loaded"] > N_FILES / 20
    assert sum(counts[code] for code in ("0A000", "22000", "22P03")) > N_FILES / 2
    assert len({result.what for result in results}) > N_FILES * 0.7


def test_a_mutation_is_the_same_again(results):
    [again] = fuzz.run(seed=1, first=123, n_files=1)
    assert again == results[123]


def lax_sizes(value):
    return isinstance(value, list)


def lax_expect(value, kind, what, path):
    return value


def inexact(tensor, start, stop):
    return READ_TENSOR(tensor, start, stop) + 1


READ_TENSOR = client.read_tensor


@pytest.mark.parametrize(
    "module, name, value",
    [
        (safetensors_header, "_sizes", lax_sizes),
        (files, "_check_values", lambda value: None),
        (files, "_integer", int),
        (vocabulary, "expect", lax_expect),
        (checkpoint, "expect", lax_expect),
        (files, "SHOWN", 10_000),
        (client, "read_tensor", inexact),
    ],
)
def test_a_careless_reader_is_found(monkeypatch, module, name, value):
    monkeypatch.setattr(module, name, value)
    assert any(result.wrong for result in fuzz.run(seed=1, first=0, n_files=2000))


def test_a_header_that_only_the_package_refuses_is_found(monkeypatch, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_of({"a": entry(0, 0, shape=(1 << 62, 8, 0))}))
    assert not fuzz.compare_headers(str(path))
    monkeypatch.setattr(safetensors_header, "MAX_ELEMENTS", 1 << 200)
    assert "the package refuses what we take" in fuzz.compare_headers(str(path))[0].text


def test_as_a_program(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "fuzz", "--files", "5", "--keep", str(tmp_path)],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    counts = {line[:12].rstrip(): int(line[12:]) for line in process.stdout.splitlines()}
    assert counts["files"] == counts["loaded"] + counts["refused"] == 5
    assert [counts[kind] for kind in fuzz.KINDS] == [0, 0, 0]
    assert "5/5" in process.stderr
    assert not list(tmp_path.iterdir())


def test_a_finding_ends_it_with_what_makes_it_again(monkeypatch, capsys):
    """In this process, which has the careless reader."""
    monkeypatch.setattr(client, "read_tensor", inexact)
    monkeypatch.setattr(fuzz, "run_all", lambda *arguments: [list(fuzz.run(*arguments))])
    monkeypatch.setattr(sys, "argv", ["fuzz", "--files", "40"])
    assert fuzz.main() == 1
    printed = capsys.readouterr().out
    assert re.search(r"^differences +[1-9]", printed, re.MULTILINE)
    number = re.search(
        r"again: PYTHONPATH=tests build/venv/bin/python -m fuzz --seed 1 --first (\d+) --files 1$",
        printed,
        re.MULTILINE,
    )
    [again] = fuzz.run(seed=1, first=int(number[1]), n_files=1)
    assert {wrong.kind for wrong in again.wrong} == {"differences"}
