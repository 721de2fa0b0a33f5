"""The calls that are planned for: gpt2_generate of a prompt of so many tokens, continued by so many."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import psycopg

#: a completion, and the seconds that the server had the call
QUERY = """SELECT gpt2_generate(input_ids => %(ids)s, max_tokens => %(n)s, ignore_eos => true,
                                model => %(model)s),
                  extract(epoch FROM clock_timestamp() - statement_timestamp())::float8"""


@dataclass(frozen=True)
class Call:
    """prompt, tokens: how many tokens a prompt has, and how many are made; model: None is the default."""

    prompt: int
    tokens: int
    model: str | None = None

    def parameters(self, seed: int, n_vocab: int) -> dict:
        """A prompt of random tokens: what a call takes depends on their number alone."""
        ids = random.Random(seed).choices(range(n_vocab), k=self.prompt)
        return {"ids": ids, "n": self.tokens, "model": self.model}


class Answer(NamedTuple):
    """Seconds: when a call came, how long its answer took, and how long of that the server had it."""

    moment: float
    response: float
    service: float


class Callers:
    """Clients of a database, each with a connection of its own while it asks."""

    def __init__(self, dsn: str, call: Call):
        self.dsn = dsn
        self.call = call
        self.idle: list[psycopg.Connection] = []
        self.opened: list[psycopg.Connection] = []
        with psycopg.connect(dsn) as conn:
            [self.n_vocab] = conn.execute(
                "SELECT n_vocab FROM gpt2._chosen_model(%s)", [call.model]
            ).fetchone()

    def ask(self, seed: int) -> float:
        """One call, which is answered when this comes back; the seconds that the server had it, which
        are less where it has waited for a server."""
        try:
            conn = self.idle.pop()
        except IndexError:
            conn = psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None)
            self.opened.append(conn)
        row = conn.execute(QUERY, self.call.parameters(seed, self.n_vocab)).fetchone()
        self.idle.append(conn)
        return row[1]

    def in_turn(self, clients: int, each: int) -> tuple[list[float], float]:
        """Seconds of each call where so many clients ask without a pause, and calls a second."""
        start = threading.Barrier(clients)

        def client(number: int) -> list[float]:
            self.ask(number)  # a session's first call plans its queries
            start.wait()
            times = []
            for i in range(each):
                began = time.perf_counter()
                self.ask(number + clients * i)
                times.append(time.perf_counter() - began)
            return times

        with ThreadPoolExecutor(clients) as pool:
            of_each = list(pool.map(client, range(clients)))
        # each client's own: they do not end at the same time
        throughput = sum(len(times) / sum(times) for times in of_each)
        return [time for times in of_each for time in times], throughput

    def at_random(self, rate: float, n: int, seed: int = 1) -> list[Answer]:
        """n calls, which come at random: so many a second."""
        rng = random.Random(seed)
        moments = []
        moment = 0.0
        for _ in range(n):
            moment += rng.expovariate(rate)
            moments.append(moment)

        with ThreadPoolExecutor(n) as pool:
            began = time.perf_counter()

            def answer(i: int) -> Answer:
                service = self.ask(i)
                return Answer(moments[i], time.perf_counter() - began - moments[i], service)

            futures = []
            for i, moment in enumerate(moments):
                time.sleep(max(0.0, began + moment - time.perf_counter()))
                futures.append(pool.submit(answer, i))
            return [future.result() for future in futures]

    def close(self) -> None:
        for conn in self.opened:
            conn.close()
