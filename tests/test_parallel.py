"""A long text, read and scored by parallel workers: the same to the last bit, however many they are.

The model is wide enough for what is read by chunks (gpt2._is_long) and small otherwise. With no
workers its texts are too short for that, so that the other way to read is what is compared with.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from conftest import cases, examples, load_model, one
from oracle.checkpoints import write_checkpoint
from psycopg import errors

SHAPE = dict(n_layer=2, n_head=4, n_embd=512, n_positions=192, vocab_size=2000)
#: 9 chunks and a part of one
IDS = [random.Random(1).randrange(1999) for _ in range(156)]
QUERIES = {
    "generate": "SELECT gpt2_generate(input_ids => %(ids)s, max_tokens => 20)",
    "stream": "SELECT * FROM gpt2_stream(input_ids => %(ids)s, max_tokens => 20)",
    "complete": """SELECT * FROM gpt2_complete(
        input_ids => %(ids)s, max_tokens => 3, n => 2, temperature => 1, seed => 1)""",
    "next token": "SELECT * FROM gpt2_next_token(input_ids => %(ids)s)",
    "beam search": "SELECT * FROM gpt2_beam(input_ids => %(ids)s, max_tokens => 2)",
    "prefix": "SELECT gpt2_prefix(input_ids => %(ids)s)::text",
    "score": "SELECT * FROM gpt2_score(input_ids => %(ids)s)",
    "perplexity": "SELECT gpt2_perplexity(input_ids => %(ids)s)",
    "windows": "SELECT gpt2_perplexity(input_ids => %(ids)s || %(ids)s, stride => 100)",
    "choose": "SELECT * FROM gpt2_choose(NULL, '{a,bcd}', input_ids => %(ids)s)",
    "embed": "SELECT gpt2_embed(input_ids => %(ids)s)",
    "steer": """SELECT * FROM gpt2_next_token(input_ids => %(ids)s, steer => ARRAY[
        (1, NULL, array_fill(0.5, ARRAY[512])::vector, 2),
        (2, 100, array_fill(0.25, ARRAY[512])::vector, 1)]::gpt2.steering[])""",
    "begun by a prefix": """SELECT * FROM gpt2_next_token(
        input_ids => %(ids)s, prefix => (SELECT gpt2_prefix(input_ids => (%(ids)s::int[])[:21])))""",
}
#: what reads in another way each, or for another purpose
SOME = ["generate", "next token", "score", "choose", "embed", "steer", "begun by a prefix"]


@pytest.fixture(scope="module")
def wide_dsn(new_database, tmp_path_factory) -> str:
    """URI of a database with a model whose texts are read by workers."""
    uri = new_database(holds="extension")
    load_model(uri, write_checkpoint(tmp_path_factory.mktemp("wide"), SHAPE), "wide")
    return uri


@pytest.fixture
def wide(wide_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(wide_dsn, autocommit=True) as connection:
        yield connection


def set_workers(conn: psycopg.Connection, n: int) -> None:
    conn.execute(f"SET max_parallel_workers_per_gather = {n}")


def rows(conn: psycopg.Connection, query: str, workers: int) -> list[tuple]:
    set_workers(conn, workers)
    return conn.execute(query, {"ids": IDS}).fetchall()


def workers_of(admin: psycopg.Connection, pid: int) -> int:
    return one(admin, "SELECT count(*) FROM pg_stat_activity WHERE leader_pid = %s", pid)


@contextmanager
def most_workers(dsn: str, conn: psycopg.Connection) -> Iterator[list[int]]:
    """In the end the list has how many workers the connection had at once."""
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        with psycopg.connect(dsn, autocommit=True) as admin:
            most = 0
            while not done.wait(0.002):
                most = max(most, workers_of(admin, conn.info.backend_pid))
            seen.append(most)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize(
    ("name", "workers"),
    cases(
        itertools.product(QUERIES, (1, 2, 4)),
        [("generate", 1), ("generate", 4), *((name, 2) for name in SOME)],
    ),
)
def test_the_same_with_any_number_of_workers(wide, name, workers):
    expected = rows(wide, QUERIES[name], 0)
    assert rows(wide, QUERIES[name], workers) == expected != []


@pytest.mark.parametrize("name", ["generate", "score"])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_workers_are_there(wide_dsn, wide, name, workers):
    with most_workers(wide_dsn, wide) as seen:
        rows(wide, QUERIES[name], workers)
    assert 0 < seen[0] <= workers if workers else seen == [0]


def test_short_texts_are_read_without(wide_dsn, wide):
    with most_workers(wide_dsn, wide) as seen:
        for _ in range(examples(20)):
            wide.execute("SELECT gpt2_generate(input_ids => %s, max_tokens => 1)", (IDS[:40],))
            wide.execute("SELECT * FROM gpt2_score(input_ids => %s)", (IDS[:40],))
    assert seen == [0]


@pytest.mark.parametrize("n", cases([16, 31, 32, 47, 100], [16, 31, 47]))
def test_each_length_read_by_chunks(shapes, n):
    """Keys, values and activations, of any model and length, after what a prefix has read or not."""
    query = """
        WITH m AS MATERIALIZED (SELECT gpt2._chosen_model('five_blocks') AS m),
        begun AS MATERIALIZED (
            SELECT c.n, gpt2._continue(c.context, ARRAY(SELECT i %% 900
                                                        FROM generate_series(1, %(n)s) AS i))
                       AS context, m.m
            FROM m, LATERAL (
                SELECT n, gpt2._run(gpt2._begin((ARRAY[5, 6, 7] || array_fill(8, ARRAY[37]))[:n],
                                                m.m), m.m, n) AS context
                FROM unnest('{0,1,16,37}'::int[]) AS n) AS c
        )
        SELECT b.n, a.context = r.context, (r.context).n_past, (r.context).past::text
        FROM begun AS b
        CROSS JOIN LATERAL (SELECT gpt2._run(b.context, b.m, b.n + %(n)s) AS context) AS a
        CROSS JOIN LATERAL (
            SELECT gpt2._run(
                       ROW((b.context).tokens, l.n_past, l.past, NULL, l.y, 0, '', '{}', NULL),
                       b.m, b.n + %(n)s) AS context
            FROM gpt2._read_long(b.context, b.m, NULL) AS l) AS r"""
    for workers in (0, 2):
        set_workers(shapes, workers)
        for begun, same, n_past, past in shapes.execute(query, {"n": n}).fetchall():
            assert same and n_past == (begun + n) // 16 * 16, (begun, workers)
            assert (past is None) == (n_past == 0)
    shapes.execute("RESET max_parallel_workers_per_gather")


def test_no_worker_can_be_had(wide):
    expected = {name: rows(wide, QUERIES[name], 0) for name in ("next token", "score")}
    wide.execute("SET max_parallel_workers = 0")
    for name, of in expected.items():
        assert rows(wide, QUERIES[name], 2) == of


def test_in_a_cursor(wide):
    expected = rows(wide, QUERIES["score"], 0)
    set_workers(wide, 2)
    with wide.transaction(), wide.cursor("some") as cursor:
        cursor.execute(QUERIES["score"], {"ids": IDS})
        assert cursor.fetchmany(5) + cursor.fetchall() == expected


def test_within_workers(wide):
    """A batch over rows, whose workers read alone and whose leader does not."""
    wide.execute("CREATE TABLE prompts (id int, ids int[]) PARTITION BY LIST (id)")
    for i in range(4):
        wide.execute(f"CREATE TABLE prompts_{i} PARTITION OF prompts FOR VALUES IN ({i})")
        wide.execute("INSERT INTO prompts VALUES (%s, %s)", (i, IDS[i:]))
    query = """SELECT id, gpt2_generate(input_ids => ids, max_tokens => 2),
                      (SELECT sum(logprob) FROM gpt2_score(input_ids => ids))
               FROM prompts"""
    batch = "SELECT id, gpt2_perplexity(input_ids => ids) FROM prompts"
    for of in (query, batch):
        expected = sorted(rows(wide, of, 0))
        set_workers(wide, 2)
        plan = "\n".join(line for (line,) in wide.execute(f"EXPLAIN {of}"))
        assert ("Gather" in plan) == (of is batch), plan
        assert sorted(rows(wide, of, 2)) == expected
    wide.execute("DROP TABLE prompts")


def test_arguments_out_of_line_in_a_temporary_table(wide):
    """No worker may read it."""
    wide.execute("""
        CREATE TEMP TABLE asked (ids int[], prefix gpt2.prefix, steer gpt2.steering[]);
        ALTER TABLE asked SET (toast_tuple_target = 128);
        ALTER TABLE asked ALTER ids SET STORAGE EXTERNAL, ALTER prefix SET STORAGE EXTERNAL,
            ALTER steer SET STORAGE EXTERNAL""")
    wide.execute(
        """INSERT INTO asked SELECT %(ids)s, gpt2_prefix(input_ids => (%(ids)s::int[])[:21]), ARRAY[
               (0, NULL, array_fill(0.5, ARRAY[512])::vector, NULL)]::gpt2.steering[]""",
        {"ids": IDS},
    )
    query = """SELECT 1, n.*::text FROM asked, gpt2_next_token(input_ids => ids) AS n
               UNION ALL
               SELECT 2, n.*::text FROM asked, gpt2_next_token(input_ids => ids, prefix => prefix) AS n
               UNION ALL
               SELECT 3, n.*::text FROM asked, gpt2_next_token(input_ids => ids, steer => steer) AS n
               UNION ALL
               SELECT 4, s.*::text FROM asked, gpt2_score(input_ids => ids, prefix => prefix) AS s"""
    expected = rows(wide, query, 0)
    assert rows(wide, query, 2) == expected


@pytest.mark.parametrize("table", ["layer_norm", "bias", "matrix_page", "wpe"])
def test_an_incomplete_model_computes_nothing(wide, table):
    set_workers(wide, 2)
    with wide.transaction(force_rollback=True):
        where = "position = 3" if table == "wpe" else "block = 1"
        wide.execute(f"DELETE FROM gpt2.{table} WHERE {where}")
        with pytest.raises(psycopg.DataError):
            wide.execute(QUERIES["generate"], {"ids": IDS})


def ends(admin: psycopg.Connection, pid: int) -> None:
    """Waits until a connection has no worker any more."""
    until = time.monotonic() + 30
    while workers_of(admin, pid):
        assert time.monotonic() < until, "workers go on"
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["generate", "score"])
def test_cancel_ends_the_workers(wide_dsn, wide, name):
    set_workers(wide, 4)
    pid = wide.info.backend_pid
    with psycopg.connect(wide_dsn, autocommit=True) as admin:

        def cancel() -> None:
            with psycopg.connect(wide_dsn, autocommit=True) as other:
                while not workers_of(other, pid):
                    time.sleep(0.002)
                other.execute("SELECT pg_cancel_backend(%s)", (pid,))

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(errors.QueryCanceled):
            for _ in range(50):
                wide.execute(QUERIES[name], {"ids": IDS})
        thread.join()
        ends(admin, pid)
        assert rows(wide, QUERIES[name], 4) == rows(wide, QUERIES[name], 0)


def test_statement_timeout_ends_the_workers(wide_dsn, wide):
    set_workers(wide, 4)
    wide.execute("SET statement_timeout = 150")
    with pytest.raises(errors.QueryCanceled):
        for _ in range(50):
            wide.execute(
                "SELECT count(*) FROM generate_series(1, 50), "
                "LATERAL gpt2_score(input_ids => %(ids)s) AS s OFFSET 0",
                {"ids": IDS},
            )
    wide.execute("SET statement_timeout = 0")
    with psycopg.connect(wide_dsn, autocommit=True) as admin:
        ends(admin, wide.info.backend_pid)


def test_a_share_a_page(wide):
    """A parallel scan hands out pages: two rows in one would be one worker's."""
    n, pages = wide.execute(
        "SELECT count(*), count(DISTINCT (ctid::text::point)[0]) FROM gpt2._share"
    ).fetchone()
    assert n == pages == one(wide, "SELECT gpt2._n_shares()")
    shares = "SELECT array_agg(share ORDER BY share) FROM gpt2._share"
    assert one(wide, shares) == list(range(1, n + 1))
    # as a subscription inserts what it copies
    with wide.transaction(force_rollback=True):
        wide.execute("SET LOCAL session_replication_role = replica")
        wide.execute("INSERT INTO gpt2._share SELECT * FROM gpt2._share")
        assert one(wide, shares) == list(range(1, n + 1))
