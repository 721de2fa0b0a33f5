"""The lines about what surrounds the model: connections, texts, imports, batches, memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
from gpt2_loader import copy_binary
from oracle.tokenizer import tokenizer

from bench import database, texts
from bench.lines import Run, ms
from bench.memory import watch
from bench.samples import interleave, progress, seconds

MODEL = "bench_float32"
ROW = 3072  # bytes: a float32 neuron of 768 inputs
CHUNK = 2000 * ROW


def server_lines(run: Run) -> None:
    """Every line; the import last, as it drives the models out of the buffers."""
    first_token(run)
    tokenizing(run)
    batch(run)
    if not run.quick:
        backend_memory(run)
        importing(run)


def first_token(run: Run) -> None:
    """A first call plans every query of a model; the second on the connection has the plans."""
    progress("first token of a new connection")
    first, second = [], []
    for _ in range(1 + run.rounds(7, 3)):
        with psycopg.connect(run.dsn, autocommit=True) as conn:
            for samples in (first, second):
                samples.append(
                    seconds(
                        lambda: conn.execute(
                            "SELECT gpt2_generate('Happy New Year!', 1, model => %s)", [MODEL]
                        ).fetchone()
                    )
                )
    del first[0], second[0]  # the warm-up
    run.add("first token of a new connection", "ms", ms(first), ms(second), "its second call")
    run.add(
        "first token of a new connection, less the second",
        "ms",
        ms([a - b for a, b in zip(first, second, strict=False)]),
    )


def tokenizing(run: Run) -> None:
    """Seconds for a text; the tokens are the same, or there is no line."""
    theirs = tokenizer()
    with psycopg.connect(run.dsn, autocommit=True) as conn:
        for name, text in (
            ("1 MB, English", texts.english()),
            ("1 MB, mixed scripts", texts.mixed()),
            ("one word of 100,000 letters", texts.word()),
        ):
            progress(f"tokenizing {name}")
            tokens = conn.execute("SELECT gpt2_tokenize(%s)", [text]).fetchone()[0]
            assert tokens == theirs.encode(text).ids, f"{name}: the tokens differ"
            samples = interleave(
                lambda: seconds(
                    lambda: conn.execute("SELECT cardinality(gpt2_tokenize(%s))", [text]).fetchone()
                ),
                lambda: seconds(lambda: theirs.encode(text)),
                run.rounds(5, 1),
            )
            run.add(f"tokenizing {name}", "s", *samples, "tokenizers", tokens=len(tokens))


def prepare_prompts(conn: psycopg.Connection) -> None:
    """The table `prompts` of a batch: 16 short prompts.

    In partitions, as docs/tuning.md has it: workers take turns by partitions, and by pages, of
    which 16 short prompts fill one.
    """
    conn.execute("DROP TABLE IF EXISTS prompts")
    conn.execute(
        "CREATE TABLE prompts (id int PRIMARY KEY, prompt text NOT NULL) PARTITION BY HASH (id)"
    )
    for i in range(16):
        conn.execute(
            f"CREATE TABLE prompts_{i} PARTITION OF prompts"
            f" FOR VALUES WITH (MODULUS 16, REMAINDER {i})"
        )
    conn.execute(
        "INSERT INTO prompts SELECT i, 'Question ' || i || ':' FROM generate_series(1, 16) AS i"
    )
    conn.execute("ANALYZE prompts")


def workers_launched(plan: dict) -> int:
    """Parallel workers of a plan, as EXPLAIN (ANALYZE, FORMAT JSON) tells it."""
    return plan.get("Workers Launched", 0) + sum(map(workers_launched, plan.get("Plans", [])))


def batch(run: Run) -> None:
    """Seconds for a continuation of 16 rows, with two parallel workers and with none.

    The short form takes the tests' small model: the planner's choice is the same.
    """
    model = MODEL
    if run.quick:
        model = "bench_small"
        database.load(run.dsn, model, "float32", database.ROOT / "tests/models/manual")
    progress(f"batch of 16 rows, {model}")
    sql = f"SELECT id, gpt2_generate(prompt, 8, model => '{model}') FROM prompts"
    with psycopg.connect(run.dsn, autocommit=True) as conn:
        prepare_prompts(conn)

        def generate(workers: int) -> float:
            conn.execute(f"SET max_parallel_workers_per_gather = {workers}")
            return seconds(lambda: conn.execute(sql).fetchall())

        conn.execute("SET max_parallel_workers_per_gather = 2")
        plan = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").fetchone()[0][0]["Plan"]
        launched = workers_launched(plan)
        samples = interleave(lambda: generate(2), lambda: generate(0), run.rounds(3, 3))
    run.add(
        f"batch of 16 rows, 2 workers ({launched} launched), {model}",
        "s",
        *samples,
        "no workers",
        workers_launched=launched,
        plan=plan,
    )


def backend_memory(run: Run) -> None:
    """What a fresh backend has taken once it has read 1,000 positions, by gpt2_generate."""
    progress("memory at 1,000 positions")
    with psycopg.connect(run.dsn, autocommit=True) as conn:
        prompt = conn.execute(
            "SELECT gpt2_detokenize((gpt2_tokenize(left(%s, 10000)))[:1000])", [texts.english()]
        ).fetchone()[0]
        positions = conn.execute("SELECT count(*) FROM gpt2_tokens(%s)", [prompt]).fetchone()[0]
    with psycopg.connect(run.dsn, autocommit=True) as conn, watch(conn.info.backend_pid) as peaks:
        plan = conn.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT gpt2_generate(%s, 1, model => %s)",
            [prompt, MODEL],
        ).fetchone()[0][0]["Plan"]
    for name, value in (
        ("its own", peaks["private"]),
        ("with shared buffers", peaks["resident"]),
        ("temporary files written", plan["Temp Written Blocks"] * 8192 / 1e6),
    ):
        run.add(
            f"backend at {positions:,} positions: {name}", "MB", [] if value is None else [value]
        )


def blob_rows(path: Path):
    """A file as rows of one bytea in COPY's binary format, in chunks; the last row may be short."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            whole = len(chunk) // ROW * ROW
            for data, width in ((chunk[:whole], ROW), (chunk[whole:], len(chunk) - whole)):
                if data:
                    rows = np.zeros(
                        len(data) // width,
                        dtype=[("n_columns", ">i2"), ("length", ">i4"), ("value", "u1", (width,))],
                    )
                    rows["n_columns"], rows["length"] = 1, width
                    rows["value"] = np.frombuffer(data, dtype="u1").reshape(-1, width)
                    yield rows.tobytes()


def importing(run: Run) -> None:
    """Seconds to import the checkpoint, and to COPY its bytes into a table of one column."""
    progress("importing the checkpoint")
    file = database.CHECKPOINT / "model.safetensors"

    def copy() -> None:
        with psycopg.connect(run.dsn) as conn:  # one transaction
            conn.execute("CREATE TABLE blob (bytes bytea)")
            conn.execute("ALTER TABLE blob ALTER bytes SET STORAGE PLAIN")
            with conn.cursor().copy("COPY blob FROM STDIN (FORMAT BINARY)") as target:
                target.write(copy_binary.HEADER)
                for chunk in blob_rows(file):
                    target.write(chunk)
                target.write(copy_binary.TRAILER)

    def ours() -> float:
        return seconds(lambda: database.load(run.dsn, "bench_import", "float32"))

    def theirs() -> float:
        time = seconds(copy)
        with psycopg.connect(run.dsn, autocommit=True) as conn:
            conn.execute("DROP TABLE blob")
        return time

    ours(), theirs()  # the warm-up
    samples = interleave(ours, theirs, run.rounds(3, 1))
    with psycopg.connect(run.dsn, autocommit=True) as conn:
        conn.execute("SELECT gpt2_drop_model('bench_import')")
    run.add(
        "importing the 124M checkpoint",
        "s",
        *samples,
        "COPY of its bytes",
        n_bytes=file.stat().st_size,
    )
