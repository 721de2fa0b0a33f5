"""Compares a model with the figures of 'GPT in 500 lines of SQL': `make verify MODEL=...`.

Usage: python -m verify URI NAME   (the database, and the model's name in it)

The figures are facts of the post, for OpenAI's GPT-2 124M; article.json names the source. The exit
status is 1 where one differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import psycopg
from verify import figures
from verify.ours import Ours, compare

ARTICLE = Path(__file__).with_name("article.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="verify", description="Compares with printed figures.")
    parser.add_argument("uri", help="the database")
    parser.add_argument("name", help="the model's name in it")
    parser.add_argument("--figures", type=Path, default=ARTICLE, help="a file like article.json")
    options = parser.parse_args()
    published = figures.read(options.figures)
    n = n_equal = 0
    with psycopg.connect(options.uri, autocommit=True) as conn:
        for row in compare(published, Ours(conn, options.name)):
            print(figures.text(row), flush=True)
            n += len(row.equal)
            n_equal += sum(row.equal)
    print(f"\n{published['source']}")
    print(f"model {options.name}: {n_equal} of {n} figures are equal in every printed digit")
    raise SystemExit(n_equal < n)


if __name__ == "__main__":
    main()
