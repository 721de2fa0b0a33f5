"""The checker of our rules for SQL: `make lint-sql`, with FIGURES=1 also what can be counted.

A line a finding, `path:line: message [rule]`; the exit status is 1 where there are any.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from databases import temporary
from lint.figures import figures
from lint.rules import RULES, Tree

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def extension_database(cluster: str) -> Iterator[psycopg.Connection]:
    """A database with the extensions, as long as it is needed."""
    with temporary(cluster, "lint") as made:
        made.execute("SET client_min_messages = warning")
        made.execute("CREATE EXTENSION gpt2 CASCADE")
        if made.execute(
            "SELECT name FROM pg_available_extensions WHERE name = 'plpython3u'"
        ).fetchone():
            made.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
        yield made


def main() -> int:
    parser = argparse.ArgumentParser(prog="lint", description="Checks the rules for SQL.")
    parser.add_argument("--figures", action="store_true", help="print what can be counted too")
    options = parser.parse_args()
    cluster = os.environ.get("GPT2_TEST_DSN")
    if not cluster:
        raise SystemExit("GPT2_TEST_DSN is not set: run the checker with `make lint`")
    with extension_database(cluster) as connection:
        tree = Tree(ROOT, connection)
    found = sorted({(*finding, rule.__name__) for rule in RULES for finding in rule(tree)})
    for place, message, rule in found:
        print(f"{place.path}:{place.line}: {message} [{rule}]")
    if options.figures:
        for name, value in figures(tree):
            print(f"{name}: {value}")
    counts = Counter(rule for *_, rule in found)
    print(
        "findings:",
        ", ".join(f"{rule} {n}" for rule, n in counts.items()) or "none",
        file=sys.stderr,
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
