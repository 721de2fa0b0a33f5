"""Usage: python -m soak MINUTES

All public functions at once, for a long time: pgbench, 16 sessions, with statements that are
cancelled and that time out, on a server of its own with the tests' model. Shows each function's
latencies; fails where sessions grow, where an error is another than that of a cancelled statement,
and where anything is left behind.

Whether they grow is asked in two ways. What PostgreSQL has given out in a session (its memory contexts)
stays as it is to 2 per cent, so that 2 minutes show a leak of 4 kB a call. What the process has, PL/Python's
memory and what malloc keeps included, goes up and down by a third: what malloc gives back is by chance, and what
it keeps at most is reached after some hundred calls. So of that the ninth tenth is compared, and needs longer.

pgbench ends a session at any error but a serialization failure, which it counts as failed. So a
function is called by soak(), which makes one of a cancel; what is cancelled outside of that ends
its session, and is counted.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, quantiles

import psutil
import psycopg
import typer
from oracle.checkpoints import SHAPES, write_checkpoint
from tables import aligned

from clusters import OWNER, Cluster
from databases import DEMO, create_demo, load_model
from leftovers import assert_nothing_left

CLIENTS = 16
#: seconds between samples of the memory; a statement is cancelled at each
INTERVAL = 2
#: what the last third of a session's samples may be of the first: what PostgreSQL has given out, and
#: what the process has, in a run of so many minutes or more and in a shorter one
GIVEN = 1.04
LONG = 10
PROCESS, PROCESS_SHORT = 1.1, 1.3
#: messages of the errors that are meant; autovacuum gives way to whoever locks gpt2.model
CANCELLED = re.compile(
    "canceling statement due to (user request|statement timeout)|canceling autovacuum task"
)

#: by public function: a call; :n is from 1 to 12, :client_id a session's number
SCRIPTS = {
    "gpt2_attention": "SELECT * FROM gpt2_attention(repeat(' table', :n), 1, 0)",
    "gpt2_attention_svg": "SELECT gpt2_attention_svg(repeat(' table', :n), 1, 0)",
    "gpt2_attention_text": "SELECT * FROM gpt2_attention_text(repeat(' table', :n), 1, 0)",
    "gpt2_average": """SELECT gpt2_average('new:client_id', 'demo', 'variant');
        SELECT gpt2_drop_model('new:client_id')""",
    "gpt2_beam": "SELECT * FROM gpt2_beam(repeat(' index', :n), 4)",
    "gpt2_beam_search": "SELECT gpt2_beam_search(repeat(' index', :n), 4)",
    "gpt2_block": "SELECT gpt2_block(gpt2_embeddings(array_fill(:n, '{5}')), 2)",
    "gpt2_bpe": "SELECT * FROM gpt2_bpe(repeat('Mississippi', :n))",
    "gpt2_choose": "SELECT * FROM gpt2_choose(repeat(' page', :n), '{\" bytes\",\" rows\"}')",
    "gpt2_classify": "SELECT gpt2_classify(repeat(' page', :n), '{\" bytes\",\" rows\"}')",
    "gpt2_complete": """SELECT * FROM gpt2_complete(
        repeat(' page', :n), 6, n => 2, temperature => 1, seed => :n)""",
    "gpt2_completions": """SELECT gpt2_completions(jsonb_build_object(
        'prompt', repeat(' page', :n), 'max_tokens', 4, 'n', 2, 'logprobs', 1, 'echo', true))""",
    "gpt2_create_variant": """SELECT gpt2_create_variant('new:client_id', 'demo');
        UPDATE gpt2.linear SET bias = bias + 1 FROM gpt2.model AS m
        WHERE m.model = linear.model AND m.name = 'new:client_id'
          AND block = 1 AND layer = 'mlp.c_fc' AND unit = :n;
        SELECT gpt2_generate(repeat(' page', :n), 4, model => 'new:client_id');
        SELECT gpt2_drop_model('new:client_id')""",
    "gpt2_default_model": "SELECT gpt2_default_model('demo')",
    "gpt2_detokenize": "SELECT gpt2_detokenize(array_fill(:n, '{20}'))",
    "gpt2_direct_logit_attribution": """SELECT *
        FROM gpt2_direct_logit_attribution(repeat(' role', :n))""",
    "gpt2_drop_model": """SELECT gpt2_create_variant('new:client_id', 'variant');
        SELECT gpt2_drop_model('new:client_id')""",
    "gpt2_embed": "SELECT gpt2_embed(repeat(' role', :n))",
    "gpt2_embeddings": "SELECT gpt2_embeddings(array_fill(:n, '{20}'))",
    "gpt2_fingerprint": "SELECT gpt2_fingerprint()",
    "gpt2_forward": "SELECT gpt2_forward(array_fill(:n, '{20}'))",
    "gpt2_generate": "SELECT gpt2_generate(repeat(' table', :n), 12, temperature => 1)",
    "gpt2_head_summary": "SELECT * FROM gpt2_head_summary(repeat(' table', :n))",
    "gpt2_heads_svg": "SELECT gpt2_heads_svg(repeat(' table', :n))",
    "gpt2_hooks": "SELECT * FROM gpt2_hooks()",
    "gpt2_lens_svg": "SELECT gpt2_lens_svg(repeat(' table', :n))",
    "gpt2_load_model": """SELECT gpt2_load_model('{model}', 'new:client_id');
        SELECT gpt2_drop_model('new:client_id')""",
    "gpt2_logit_lens": "SELECT * FROM gpt2_logit_lens(repeat(' table', :n))",
    "gpt2_model_diff": "SELECT * FROM gpt2_model_diff('demo', 'variant')",
    "gpt2_models": "SELECT * FROM gpt2_models()",
    "gpt2_neurons": "SELECT * FROM gpt2_neurons(repeat(' role', :n), 1)",
    "gpt2_next_token": "SELECT * FROM gpt2_next_token(repeat(' role', :n))",
    "gpt2_perplexity": "SELECT gpt2_perplexity(repeat(' role', 1 + :n))",
    "gpt2_prefix": """SELECT gpt2_choose(repeat(' role', :n) || ' is', '{\" a\",\" b\"}', prefix => p)
        FROM gpt2_prefix(repeat(' role', :n)) AS p""",
    "gpt2_prewarm": "SELECT gpt2_prewarm()",
    "gpt2_report": "SELECT gpt2_report(repeat(' role', :n))",
    "gpt2_score": "SELECT * FROM gpt2_score(repeat(' role', :n))",
    "gpt2_similarity": "SELECT gpt2_similarity(repeat(' role', :n), ' page')",
    "gpt2_stream": "SELECT * FROM gpt2_stream(repeat(' role', :n), 12, model => 'variant')",
    "gpt2_surprisal_svg": "SELECT gpt2_surprisal_svg(repeat(' page', :n))",
    "gpt2_surprisal_text": "SELECT * FROM gpt2_surprisal_text(repeat(' page', :n))",
    "gpt2_tokenize": "SELECT gpt2_tokenize(repeat(' Mississippi', 100 * :n))",
    "gpt2_tokens": "SELECT * FROM gpt2_tokens(repeat(' Mississippi', 100 * :n))",
    "gpt2_trace": "SELECT * FROM gpt2_trace(repeat(' page', :n))",
}
#: what takes long, for a session's first call
SHORT = {
    "gpt2_average": """SELECT gpt2_average('new:client_id', 'small', 'small');
        SELECT gpt2_drop_model('new:client_id')""",
    "gpt2_load_model": """SELECT gpt2_load_model('{small}', 'new:client_id', tokenizer => 'gpt2');
        SELECT gpt2_drop_model('new:client_id')""",
}
#: one call in ten has a timeout
SCRIPT = r"""
\set n random(1, 12)
\set milliseconds random(50, 500)
\set tenth random(1, 10)
\if :tenth = 1
SET statement_timeout = :milliseconds;
\else
SET statement_timeout = 0;
\endif
SELECT soak($statement${call}$statement$);
"""
#: A session's first call is followed by one of each function, in short, so that its caches are full
#: before its memory is looked at; its application_name then says so.
WARM = "soak, warm"
SOAK = f"""
CREATE TABLE warming (call text);
CREATE TABLE memory (n bigserial, session int, bytes bigint);
CREATE FUNCTION soak(statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    call text;
BEGIN
    EXECUTE statement;
    IF current_setting('application_name') <> '{WARM}' THEN
        -- what waits for others, and makes them wait until the end of this, comes last
        FOR call IN SELECT w.call FROM warming AS w
                    ORDER BY w.call ~ ':client_id|gpt2_default_model' LOOP
            EXECUTE replace(call, ':client_id', pg_backend_pid()::text);
        END LOOP;
        PERFORM set_config('application_name', '{WARM}', false);
    END IF;
    INSERT INTO memory (session, bytes)
    SELECT pg_backend_pid(), sum(used_bytes) FROM pg_backend_memory_contexts;
EXCEPTION WHEN query_canceled THEN
    RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = SQLERRM;
END;
$$"""
PUBLIC = """
SELECT proname FROM pg_proc
WHERE proname ~ '^gpt2_' AND pronamespace = 'public'::regnamespace"""
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = 'soak'"
WARM_SESSIONS = f"{SESSIONS} AND application_name = '{WARM}'"
#: a statement at work, by chance: those that wait for a lock would never get it
CANCEL = f"""
SELECT pg_cancel_backend(pid)
FROM (SELECT pid FROM pg_stat_activity
      WHERE application_name = '{WARM}' AND state = 'active' AND query LIKE 'SELECT soak%'
        AND wait_event_type IS DISTINCT FROM 'Lock' AND clock_timestamp() - query_start > '50 ms'
      ORDER BY random() LIMIT 1) AS chosen"""
IDLE = """
SELECT query FROM pg_stat_activity
WHERE state LIKE 'idle in transaction%' AND clock_timestamp() - state_change > '5 s'"""


@dataclass
class Latency:
    """Of a script: milliseconds of the calls that came to their end, and how many did not."""

    milliseconds: list[float] = field(default_factory=list)
    cancelled: int = 0


@contextmanager
def server() -> Iterator[tuple[Cluster, Path]]:
    """A cluster with the database soak, and the folder of temporary files, its and its clients'."""
    with tempfile.TemporaryDirectory(prefix="gpt2-test-", dir="/var/tmp") as folder:
        shutil.chown(folder, OWNER)
        os.environ["TMPDIR"] = folder
        cluster = Cluster({"shared_buffers": "256MB"})
        try:
            cluster.start()
            with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
                admin.execute("CREATE DATABASE soak")
            create_demo(cluster.dsn("soak"))
            small = write_checkpoint(cluster.folder / "small", SHAPES["one_block"], 1)
            load_model(cluster.dsn("soak"), small, "small")
            for file in [small, *small.iterdir()]:
                shutil.chown(file, OWNER)
            with psycopg.connect(cluster.dsn("soak"), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION gpt2_plpython3u CASCADE")
                connection.execute("SELECT gpt2_create_variant('variant', 'demo')")
                connection.execute(
                    """UPDATE gpt2.linear SET weight = weight + weight FROM gpt2.model AS m
                       WHERE m.model = linear.model AND m.name = 'variant' AND unit < 8"""
                )
                connection.execute(SOAK)
                for name, call in SCRIPTS.items():
                    short = SHORT.get(name, call).replace("{small}", str(small))
                    connection.execute(
                        "INSERT INTO warming VALUES (%s)", (re.sub(":n\\b", "1", short),)
                    )
                public = {name for (name,) in connection.execute(PUBLIC)}
            assert public == set(SCRIPTS), f"not the public functions: {public ^ set(SCRIPTS)}"
            yield cluster, Path(folder)
        finally:
            cluster.remove()


def start_pgbench(cluster: Cluster, folder: Path, minutes: float) -> subprocess.Popen:
    """pgbench with every script; its logs, and what it says, go to the folder."""
    model = cluster.folder / "model"  # where the server's user may read it
    shutil.copytree(DEMO, model)
    files = []
    for name, call in SCRIPTS.items():
        file = folder / f"{name}.sql"
        file.write_text(SCRIPT.replace("{call}", call.replace("{model}", str(model))))
        files.append(f"--file={file}")
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            ["pgbench", "--no-vacuum", f"--client={CLIENTS}", "--jobs=2", "--log"]
            + [f"--log-prefix={folder / 'log'}", f"--time={round(60 * minutes)}"]
            + [f"--random-seed={random.randrange(1 << 30)}", *files, cluster.dsn("soak")],
            env=os.environ | {"PGAPPNAME": "pgbench"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def disturb(cluster: Cluster, pgbench: subprocess.Popen) -> tuple[dict[int, list[float]], int]:
    """Until pgbench ends: cancels statements, and takes each warm session's memory of its own, MB."""
    memory: dict[int, list[float]] = defaultdict(list)
    cancels = 0
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        while pgbench.poll() is None:
            time.sleep(INTERVAL)
            cancels += len(admin.execute(CANCEL).fetchall())
            idle = admin.execute(IDLE).fetchall()
            assert not idle, f"idle in transaction: {idle}"
            for (pid,) in admin.execute(WARM_SESSIONS).fetchall():
                with suppress(psutil.NoSuchProcess):
                    info = psutil.Process(pid).memory_info()
                    memory[pid].append((info.rss - info.shared) / 2**20)
        assert not admin.execute(SESSIONS).fetchall()
    return memory, cancels


def latencies(folder: Path) -> dict[str, Latency]:
    """By script, from pgbench's logs: session, number, microseconds or 'failed', script, ..."""
    names = list(SCRIPTS)
    found = {name: Latency() for name in names}
    warm: set[str] = set()
    for log in folder.glob("log.*"):
        for line in log.read_text().splitlines():
            client, _, microseconds, script, *_ = line.split()
            if client not in warm:  # its first call, with one of each function after it
                if microseconds.isdigit():
                    warm.add(client)
                continue
            if microseconds.isdigit():
                found[names[int(script)]].milliseconds.append(int(microseconds) / 1000)
            else:
                found[names[int(script)]].cancelled += 1
    return found


def table(found: dict[str, Latency]) -> str:
    """A row a function, in milliseconds."""
    rows = [("function", "calls", "cancelled", "p50", "p95", "p99", "max")]
    for name, of in found.items():
        figures = [""] * 4
        if len(of.milliseconds) > 1:
            cut = quantiles(of.milliseconds, n=100, method="inclusive")
            figures = [f"{x:.0f}" for x in (cut[49], cut[94], cut[98], max(of.milliseconds))]
        rows.append((name, str(len(of.milliseconds)), str(of.cancelled), *figures))
    return aligned(rows, right=(1, 2, 3, 4, 5, 6))


def given_out(cluster: Cluster) -> dict[int, list[float]]:
    """MB that PostgreSQL had given out in each session after each of its calls."""
    memory: dict[int, list[float]] = defaultdict(list)
    with psycopg.connect(cluster.dsn("soak")) as connection:
        for session, used in connection.execute("SELECT session, bytes FROM memory ORDER BY n"):
            memory[session].append(used / 2**20)
    return memory


def most(samples: list[float]) -> float:
    """What all but a tenth of them stay below."""
    return quantiles(samples, n=10, method="inclusive")[-1]


def check_growth(
    what: str,
    memory: dict[int, list[float]],
    limit: float,
    of: Callable[[list[float]], float] = median,
) -> None:
    """Compares the sessions' means of the first and the last third of each one's samples, in MB."""
    long = [samples for samples in memory.values() if len(samples) >= 9]
    assert len(long) >= CLIENTS / 2, f"only {len(long)} sessions were looked at: take longer"
    first = mean(of(samples[: len(samples) // 3]) for samples in long)
    last = mean(of(samples[-(len(samples) // 3) :]) for samples in long)
    print(f"{what}: first third {first:.2f} MB, last third {last:.2f} MB")
    assert last <= limit * first, f"sessions grow by more than {limit - 1:.0%}: {what}"


def check(cluster: Cluster, temporary: Path, log: str, found: dict[str, Latency]) -> None:
    """Raises AssertionError where the server met an error that was not meant, a function never came
    to its end, or anything is left."""
    errors = [
        line
        for line in log.splitlines()
        if re.search(r" (ERROR|FATAL|PANIC): ", line) and not CANCELLED.search(line)
    ]
    assert not errors, "\n".join(errors[:20])
    silent = [name for name, of in found.items() if not of.milliseconds]
    assert not silent, f"never came to an end: {silent}"
    with psycopg.connect(cluster.dsn("soak"), autocommit=True) as connection:
        assert_nothing_left(connection, temporary, "soak")
        models = [name for (name,) in connection.execute("SELECT name FROM gpt2.model")]
    assert sorted(models) == ["demo", "small", "variant"], f"models: {models}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(minutes: float) -> None:
    """Disturbs a server for so many minutes, and says how it went."""
    with server() as (cluster, temporary), tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        folder, log = Path(scratch), Path(cluster.logfile)
        begun = log.stat().st_size
        pgbench = start_pgbench(cluster, folder, minutes)
        try:
            memory, cancels = disturb(cluster, pgbench)
        finally:
            pgbench.kill()
            pgbench.wait()
        output = (folder / "output").read_text()
        found = latencies(folder)
        ended = re.findall("client .* aborted.*", output)
        print(table(found))
        print(
            f"\n{minutes:g} minutes, {CLIENTS} sessions, "
            f"{sum(len(of.milliseconds) for of in found.values())} calls; {cancels} cancels and the "
            f"timeouts ended {sum(of.cancelled for of in found.values())} calls "
            f"and {len(ended)} sessions"
        )
        others = [line for line in ended if not CANCELLED.search(line)]
        assert not others, "\n".join(others)
        check(cluster, temporary, log.read_bytes()[begun:].decode(), found)
        check_growth("given out in a session", given_out(cluster), GIVEN)
        limit = PROCESS if minutes >= LONG else PROCESS_SHORT
        check_growth("most memory of a session", memory, limit, most)


if __name__ == "__main__":
    app()
