"""The queries of README.md and docs/ that show a result, and what psql prints for them.

    build/venv/bin/python tests/examples.py URI    writes the results into the pages anew

URI: a database with the bundled model, such as `make -s dsn` names after `make demo`. Each query
has a session of its own. docs/tour.md has another way: make -s tour > docs/tour.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pages

#: a query, and the result below it
EXAMPLE = re.compile(r"```sql\n((?:(?!```).)*)```\n```text\n(.*?)```", re.DOTALL)
WITH_EXAMPLES = [page for page in pages.PAGES if page != "docs/tour.md"]


def examples() -> Iterator[tuple[str, str]]:
    """(query, result) of all pages, as they stand there."""
    for page in WITH_EXAMPLES:
        yield from EXAMPLE.findall((pages.ROOT / page).read_text(encoding="utf-8"))


def printed(uri: str, query: str) -> str:
    """What psql prints, without the empty lines at its end."""
    psql = subprocess.run(
        ["psql", "--no-psqlrc", "--quiet", "--dbname", uri],
        input=query,
        capture_output=True,
        text=True,
        check=True,
    )
    return psql.stdout.rstrip("\n")


def rewrite(uri: str) -> None:
    for page in WITH_EXAMPLES:
        path = pages.ROOT / page
        text = path.read_text(encoding="utf-8")
        path.write_text(
            EXAMPLE.sub(lambda m: f"```sql\n{m[1]}```\n```text\n{printed(uri, m[1])}\n```", text),
            encoding="utf-8",
        )


if __name__ == "__main__":
    rewrite(sys.argv[1])
