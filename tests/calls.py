"""How often queries call each function, pgvector's and our own that are not inlined.

Usage: build/venv/bin/python tests/calls.py URI > tests/expected/calls.json
(URI: a database with the tests' model as 'single' and, in float16, as 'half')

The numbers follow from the model's shape, by formulas in tests/test_behaviour.py for the larger
ones. A fence that is lost (OFFSET 0 in the SQL) shows as a larger number.
"""

from __future__ import annotations

import json
import sys

import psycopg

#: 20 tokens reach over a chunk's end
QUERIES = [
    "SELECT gpt2_generate('The', 20, model => '{model}')",
    "SELECT gpt2_generate('The', 2, 1, 5, seed => 1, model => '{model}')",
    "SELECT * FROM gpt2_next_token(' table index the of', model => '{model}')",
    "SELECT gpt2_forward('{{1,2,3}}', '{model}')",
    "SELECT * FROM gpt2_trace(' table index the of', model => '{model}')",
    "SELECT gpt2_block(gpt2_embeddings('{{1,2,3}}', '{model}'), 0, '{model}')",
]
#: not counted: PostgreSQL 18 folds calls of them while it plans, or does not inline one, unlike 15
FOLDED = {
    "_attention_scale",
    "_chunk",
    "_norm_hook",
    "_patch_key",
    "_split_pattern",
    "_uniform",
    "_utf8_character",
    "_utf8_part",
}
#: nor these, where it is 18: 15 to 17 call them alike
FOLDED_BY_18 = {"_fill", "_n_pages", "_prompt", "array_to_vector"}  # the last one in _fill
COUNTS = "SELECT funcname, sum(calls)::int FROM pg_stat_xact_user_functions GROUP BY 1"


def not_counted(conn: psycopg.Connection) -> set[str]:
    return FOLDED | (FOLDED_BY_18 if conn.info.server_version >= 180000 else set())


def count_calls(conn: psycopg.Connection, query: str, *arguments) -> dict[str, int]:
    """Function -> calls of it, for those that the query calls and no planner folds."""
    conn.execute("SET track_functions = 'all'")
    with conn.transaction():
        before = dict(conn.execute(COUNTS).fetchall())
        conn.execute(query, arguments or None)
        after = dict(conn.execute(COUNTS).fetchall())
    return {
        name: n - before.get(name, 0)
        for name, n in sorted(after.items())
        if n > before.get(name, 0) and name not in not_counted(conn)
    }


def all_calls(conn: psycopg.Connection) -> dict[str, dict[str, int]]:
    """Query -> function -> calls, for each dtype."""
    queries = [query.format(model=model) for model in ("single", "half") for query in QUERIES]
    return {query: count_calls(conn, query) for query in queries}


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1], autocommit=True) as connection:
        print(json.dumps(all_calls(connection), indent=1))
