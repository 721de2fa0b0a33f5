"""The tour: docs/tour.md is what `make tour` prints, which stops for the reader and changes
nothing."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import psycopg
import pytest
from conftest import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "tour.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+")


def content(dsn: str) -> dict[str, int]:
    """How many rows each table and catalog of the database has: what a session could leave behind.
    Statistics are the server's own doing."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "SELECT oid::regclass::text FROM pg_class "
            "WHERE relkind = 'r' AND NOT relisshared AND oid <> 'pg_statistic'::regclass"
        )
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for (table,) in tables.fetchall()
        }


def equal(shown: str, printed: str) -> bool:
    """Whether two pages are the same, but for the last digit of what a query rounds: processors
    sum in different orders."""
    results = re.compile(r"(```text\n.*?```)", re.DOTALL)
    pairs = list(zip(results.split(shown), results.split(printed), strict=False))
    return len(results.split(shown)) == len(results.split(printed)) and all(
        a == b or (a.startswith("```text") and close(a, b)) for a, b in pairs
    )


def close(shown: str, printed: str) -> bool:
    numbers = [[Decimal(n) for n in NUMBER.findall(text)] for text in (shown, printed)]
    return NUMBER.sub("#", shown) == NUMBER.sub("#", printed) and all(
        a.as_tuple().exponent == b.as_tuple().exponent
        and abs(a - b) <= Decimal(1).scaleb(a.as_tuple().exponent)
        for a, b in zip(*numbers, strict=True)
    )


def test_prints_the_page_and_changes_nothing(bundled_dsn):
    before = content(bundled_dsn)
    tour = subprocess.run(
        [DOCS / "tour.sh", bundled_dsn],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert (tour.returncode, tour.stderr) == (0, "")
    if not equal(PAGE, tour.stdout):
        # for the report
        assert tour.stdout == PAGE, "docs/tour.md is not what the tour prints: make -s tour"
    assert content(bundled_dsn) == before


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (" 0.905 |", " 0.906 |", True),  # the last digit
        (" 0.905 |", " 0.915 |", False),
        (" 0.905 |", " 0.9050 |", False),
        ("|    64 |", "|    65 |", False),  # a token
        ("2.2 |", "2.3 |", False),  # a section of a paper
        ("(6 rows)", "(7 rows)", False),
        ("SELECT", "select", False),
    ],
)
def test_a_wrong_number_is_noticed(old, new, same):
    assert old in PAGE
    assert equal(PAGE, PAGE.replace(old, new, 1)) is same


def test_every_step_is_on_the_last_page():
    assert [int(n) for n in STEPS] == list(range(1, len(STEPS) + 1))
    assert re.findall(r"^\| (\d+)\. ", PAGE, re.MULTILINE) == STEPS


def test_links():
    targets = dict(re.findall(r"^\[(.+?)\]: (\S+)$", PAGE, re.MULTILINE))
    table = "".join(re.findall(r"^\|.*$", PAGE, re.MULTILINE))
    assert set(re.findall(r"\[(.+?)\]", table)) == set(targets)
    for target in targets.values():
        assert (DOCS / target).is_file(), target


def test_queries_fit_the_screen():
    queries = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert len(queries) > len(STEPS)
    for query in queries:
        assert len(query.splitlines()) <= 16, query
    assert [line for line in PAGE.splitlines() if len(line) > 100] == []


def test_make_target():
    made = subprocess.run(
        ["make", "--dry-run", "tour"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "docs/tour.sh" in made.stdout


# On a terminal

STOP = "Enter: go on"


@contextmanager
def reader(dsn: str, **environment: str) -> Iterator[tuple]:
    """A reader at a terminal: what was read up to the next stop (or the end), and pressing keys."""
    master, slave = pty.openpty()
    tour = subprocess.Popen(
        [DOCS / "tour.sh", dsn],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **environment},
    )
    os.close(slave)

    def page() -> str:
        text = ""
        while STOP not in text:
            try:
                text += os.read(master, 65536).decode(errors="replace")
            except OSError:  # it has ended
                break
        return text

    try:
        yield tour, page, lambda keys: os.write(master, keys)
    finally:
        tour.kill()
        tour.wait()
        os.close(master)


def test_stops_before_each_step(bundled_dsn):
    before = content(bundled_dsn)
    with reader(bundled_dsn, PAUSE="yes") as (tour, page, press):
        assert "# A tour of GPT-2" in (text := page())
        for step in STEPS[:3]:
            assert f"## {step}. " not in text
            press(b"\n")
            assert f"## {step}. " in (text := page())
            assert "```" not in text and "rows)" in text
        press(b"q\n")
        assert STOP not in page()
        assert tour.wait(timeout=60) == 0
    assert content(bundled_dsn) == before


def test_does_not_stop_when_told_so(bundled_dsn):
    with reader(bundled_dsn, PAUSE="") as (tour, page, _):
        text = page()
        assert STOP not in text
        assert all(f"## {step}. " in text for step in STEPS)
        assert tour.wait(timeout=60) == 0
