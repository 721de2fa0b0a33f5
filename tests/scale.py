"""Seconds of a batch of prompts by one plain statement over 1, 2 and 3 servers.

    make scale                24 prompts, the bundled model
    make scale PROMPTS=6      in short

The servers are clusters on this machine, which share its cores: what is measured is how the work is
divided, not what three machines would give. The statements are those of docs/scale-out.md.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from pages import blocks

from clusters import Cluster
from databases import BUNDLED, load_model

PAGE = "docs/scale-out.md"
NAMES = "abc"


def block(beginning: str) -> str:
    """The one block of SQL of the page that begins so."""
    [found] = [block for block in blocks(PAGE, "sql") if block.startswith(beginning)]
    return found


def of_servers(text: str, servers: dict[str, Cluster]) -> str:
    """What the page says, with the servers' sockets in the place of their hosts."""
    return re.sub(r"\bhost( '|=)([abc])\b", lambda m: f"host{m[1]}{servers[m[2]].host}", text)


def of_server(text: str, name: str, servers: dict[str, Cluster]) -> str:
    """What the page says of server a, of one of these servers."""
    text = re.sub(r"(_|\bSERVER |')a\b", rf"\1{name}", text)
    text = text.replace("REMAINDER 0", f"REMAINDER {list(servers).index(name)}")
    return of_servers(text.replace("MODULUS 3", f"MODULUS {len(servers)}"), servers)


def has(server: Cluster, extension: str) -> bool:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        query = "SELECT FROM pg_available_extensions WHERE name = %s"
        return conn.execute(query, [extension]).fetchone() is not None


def create_database(name: str, server: Cluster) -> str:
    """The database in which a server computes, without a model, and the role that asks it."""
    uri = server.database(f"texts_{name}", "gpt2")
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(of_server(block("CREATE TABLE prompt_a"), name, {name: server}))
    return uri


def of_prompts(query: str, n: int) -> str:
    """The page's query with its numbers, of so many prompts."""
    [twelve] = re.findall(r"generate_series\(1, \d+\)", query)
    return query.replace(twelve, f"generate_series(1, {n})")


def use_postgres_fdw(hub: str, servers: dict[str, Cluster]) -> None:
    """Makes a database one that asks these servers."""
    with psycopg.connect(hub, autocommit=True) as conn:
        conn.execute(block("CREATE EXTENSION postgres_fdw"))
        for name in servers:
            conn.execute(of_server(block("CREATE SERVER a FOREIGN DATA"), name, servers))


def use_plproxy(hub: str, servers: dict[str, Cluster]) -> None:
    """The same with PL/Proxy."""
    statements = block("CREATE EXTENSION plproxy")
    for name in set(NAMES) - set(servers):
        statements = re.sub(rf",\s+p\d 'host={name} [^']*'", "", statements)
    with psycopg.connect(hub, autocommit=True) as conn:
        conn.execute(of_servers(statements, servers))


@contextmanager
def three_servers() -> Iterator[dict[str, Cluster]]:
    made = {name: Cluster({"shared_buffers": "256MB"}) for name in NAMES}
    try:
        for name, server in made.items():
            server.start()
            load_model(create_database(name, server), BUNDLED, "demo")
        yield made
    finally:
        for server in made.values():
            server.remove()


def seconds(conn: psycopg.Connection, query: str) -> float:
    conn.execute(query)  # the connections are made, the weights are in memory
    began = time.perf_counter()
    conn.execute(query)
    return time.perf_counter() - began


def measure(servers: dict[str, Cluster], n: int, n_prompts: int) -> list[float]:
    """Seconds over the first n of the servers: by postgres_fdw, and by PL/Proxy where it is; and
    the share of the prompts that the fullest partition has, which postgres_fdw waits for."""
    chosen = {name: servers[name] for name in NAMES[:n]}
    hub = servers["a"].database(f"hub_{n}")
    use_postgres_fdw(hub, chosen)
    with psycopg.connect(hub, autocommit=True) as conn:
        conn.execute("DELETE FROM prompt")
        conn.execute(of_prompts(block("INSERT INTO prompt"), n_prompts))
        counts = conn.execute("SELECT count(*) FROM prompt GROUP BY tableoid").fetchall()
        result = [max(counts)[0] / n_prompts, seconds(conn, block("SELECT id, completion"))]
        if has(servers["a"], "plproxy"):
            use_plproxy(hub, chosen)
            result.append(seconds(conn, of_prompts(block("WITH batch"), n_prompts)))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=24)
    n_prompts = parser.parse_args().prompts
    with three_servers() as servers:
        rows = [measure(servers, n, n_prompts) for n in (1, 2, 3)]
    print(f"{n_prompts} prompts of 3 or 4 tokens, 16 tokens more each; {os.cpu_count()} cores\n")
    print("| servers | postgres_fdw | the fullest partition | PL/Proxy |")
    print("| --- | --- | --- | --- |")
    for n, (share, *measured) in enumerate(rows, 1):
        told = [
            f"{value:.1f} s, {first / value:.2f} times"
            for value, first in zip(measured, rows[0][1:], strict=True)
        ]
        told.insert(1, f"{share:.0%} of the prompts")
        print(f"| {n} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
