"""tests/matrix.py counts what pytest counts."""

import re
import subprocess
import sys

from matrix import Result, read_report, table

TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError

@pytest.mark.parametrize("n", range(3))
def test_passes(n):
    pass

@pytest.mark.parametrize("n", range(2))
def test_skips(n):
    pytest.skip("the server has no ICU")

@pytest.mark.skipif(True, reason="needs Node.js")
def test_is_skipped():
    pass

def test_fails():
    assert False

def test_ends_in_an_error(broken):
    pass
"""


def test_counts(tmp_path):
    (tmp_path / "test_all.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout
    summary = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", said.splitlines()[-1])}
    passed, skipped, failed = read_report(report)
    assert passed == summary["passed"]
    assert skipped.total() == summary["skipped"]
    assert failed == summary["failed"] + summary["error"]
    assert skipped == {"the server has no ICU": 2, "needs Node.js": 1}

    rows = table([Result("16", "16.4", "0.7.4", passed, skipped, failed, False)]).splitlines()
    assert rows[1].split() == "16 16.4 0.7.4 3 3 2 make test failed".split()
    assert [row.split(maxsplit=3)[2:] for row in rows[2:]] == [
        ["16:", "2 the server has no ICU"],
        ["16:", "1 needs Node.js"],
    ]
