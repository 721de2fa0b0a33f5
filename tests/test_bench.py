"""The parts of the benchmark that need no reference: medians, table, texts. Nothing is timed."""

from __future__ import annotations

import json
import os

import pytest

from bench import report, texts
from bench.memory import status, watch
from bench.samples import Line, interleave


def test_samples_are_taken_in_turn():
    order = []

    def sample(name: str, value: float):
        return lambda: order.append(name) or value

    assert interleave(sample("ours", 2.0), sample("theirs", 1.0), 3) == ([2.0] * 3, [1.0] * 3)
    assert order == ["ours", "theirs"] * 3


def test_the_ratio_is_of_medians():
    line = Line("x", "ms", [9.0, 2.0, 3.0], [1.0, 100.0, 1.5])
    assert (line.ours_median, line.reference_median, line.ratio) == (3.0, 1.5, 2.0)


@pytest.mark.parametrize(
    "line", [Line("x", "ms", []), Line("x", "ms", [1.0]), Line("x", "ms", [], [1.0])]
)
def test_what_was_not_measured_has_no_ratio(line):
    assert line.ratio is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (81404.4, "81,404")],
)
def test_figures(value, text):
    assert report.figure(value) == text


def test_the_table_is_aligned():
    lines = [Line("token", "ms", [130.0], [40.0], "theirs"), Line("of its own", "MB", [])]
    assert report.table(lines).splitlines() == [
        "line        unit  ours  reference  ratio  reference is",
        "----------  ----  ----  ---------  -----  ------------",
        "token       ms     130       40.0   3.25  theirs",
        "of its own  MB     n/a",
    ]


def test_json_has_every_sample(tmp_path):
    path = tmp_path / "bench.json"
    report.write(path, {"CPU": "x"}, True, [Line("token", "ms", [3.0, 1.0, 2.0], [1.0])])
    written = json.loads(path.read_text())
    assert written["machine"] == {"CPU": "x"} and written["quick"] is True
    [line] = written["lines"]
    assert line["ours"] == [3.0, 1.0, 2.0] and line["ratio"] == 2.0


@pytest.mark.parametrize("make", [texts.english, texts.mixed])
def test_texts_have_a_megabyte_and_are_the_same_each_time(make):
    text = make()
    assert len(text.encode()) == texts.SIZE
    assert text == make()
    assert "\0" not in text  # PostgreSQL's text cannot hold it


def test_memory_is_read_from_proc():
    with watch(os.getpid()) as peaks:
        pass
    assert peaks["private"] > 0 and peaks["resident"] >= status(os.getpid(), "VmRSS") > 0
    assert status(2**22 + 1, "VmHWM") is None  # above the largest process id
