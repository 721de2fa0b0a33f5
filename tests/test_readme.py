"""Every query in the documentation that shows a result gives that result, in psql, as it is
printed."""

from __future__ import annotations

import re
import subprocess

import pytest
from conftest import ROOT

EXAMPLES = [
    example for file in ("README.md", "docs/reference.md", "docs/tuning.md", "docs/pictures.md",
                         "docs/insight.md", "docs/generation.md", "docs/tasks.md")
    for example in re.findall(r"```sql\n((?:(?!```).)*)```\n```text\n(.*?)```",
                              (ROOT / file).read_text(encoding="utf-8"), flags=re.DOTALL)]
COMMANDS = re.findall(r"^make (?:-s )?([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_there_are_examples():
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize(("query", "result"), EXAMPLES)
def test_example(demo_dsn, query, result):
    psql = subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", "--dbname", demo_dsn],
        input=query, capture_output=True, text=True, check=True)
    assert psql.stdout.rstrip("\n") == result.rstrip("\n")


@pytest.mark.parametrize("target", sorted(set(COMMANDS)))
def test_make_target_exists(target):
    """Make would run something for each target that the README names."""
    subprocess.run(["make", "--dry-run", target, "MODEL=x"], cwd=ROOT, check=True,
                   capture_output=True)
