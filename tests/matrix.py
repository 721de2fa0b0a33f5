"""`make test` with one server after another, and a table of what came of it.

Usage: build/venv/bin/python tests/matrix.py NAME...
The names are extension/setup/matrix's; PYTEST_ARGS in the environment goes to pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "extension/setup"


class Result(NamedTuple):
    name: str
    server: str  # its version
    pgvector: str
    passed: int
    skipped: Counter[str]  # by reason
    failed: int
    succeeded: bool  # all of `make test`, which runs the SQL regression tests first


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def pgvector_version(pg_config: str) -> str:
    control = Path(output(pg_config, "--sharedir")) / "extension/vector.control"
    return re.search(r"^default_version *= *'(.*)'", control.read_text(), re.MULTILINE)[1]


def read_report(report: Path) -> tuple[int, Counter[str], int]:
    """passed, skipped by reason, failed or ended in an error: of a JUnit report"""
    passed, skipped, failed = 0, Counter(), 0
    for case in ElementTree.parse(report).iter("testcase"):
        if (skip := case.find("skipped")) is not None:
            skipped[skip.get("message")] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        else:
            passed += 1
    return passed, skipped, failed


def run(name: str) -> Result:
    pg_config = output(SETUP / "matrix", name)
    report = ROOT / f"build/matrix/{name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    arguments = f"--junit-xml='{report}' {os.environ.get('PYTEST_ARGS', '')}"
    made = subprocess.run(
        ["make", "-C", ROOT, "test", f"PG_CONFIG={pg_config}", f"PYTEST_ARGS={arguments}"],
        # the make that called has options and variables of its own
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
    )
    subprocess.run([SETUP / "cluster", "stop"], check=True)
    counts = read_report(report) if report.exists() else (0, Counter(), 0)
    return Result(
        name,
        output(pg_config, "--version").removeprefix("PostgreSQL ").split()[0],
        pgvector_version(pg_config),
        *counts,
        succeeded=made.returncode == 0,
    )


def table(results: list[Result]) -> str:
    lines = [
        f"{'name':6} {'PostgreSQL':10} {'pgvector':8} {'passed':>7} {'skipped':>7} {'failed':>7}"
    ]
    for r in results:
        lines.append(
            f"{r.name:6} {r.server:10} {r.pgvector:8} {r.passed:7} {r.skipped.total():7} "
            f"{r.failed:7}{'' if r.succeeded else '  make test failed'}"
        )
    for r in results:
        for reason, count in r.skipped.most_common():
            lines.append(f"skipped with {r.name}: {count:4} {reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    outcome = [run(name) for name in sys.argv[1:]]
    print(table(outcome))
    sys.exit(not all(r.succeeded for r in outcome))
