"""How many cores and servers a rate of calls needs: `make plan RATE=... IN=... OUT=... P95=...`.

What a call takes is measured on the private server, with all its cores busy, or told by --service. Cores are
the servers of one queue (queueing.py), as PgBouncer makes of them (docs/scale-out.md).
"""

from __future__ import annotations

import argparse
import math
import os
from statistics import fmean

import psycopg
from tables import aligned

from plan.calls import Call, Callers
from plan.queueing import Queue, least_servers

Q = 0.95


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def whole(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def table(queues: list[Queue], cores: int) -> str:
    heads = ("cores", f"servers of {cores}", "busy", "calls that wait", "p50, s", "p95, s")
    rows = [
        (
            str(queue.servers),
            str(math.ceil(queue.servers / cores)),
            f"{queue.utilization:.0%}",
            f"{queue.probability_of_waiting:.0%}",
            f"{queue.quantile(0.5):.2f}",
            f"{queue.quantile(Q):.2f}",
        )
        for queue in queues
    ]
    return aligned([heads, *rows], right=tuple(range(len(heads))))


def plan(rate: float, times: list[float], seconds: float | None, cores: int) -> str:
    """The table, and below it what holds the rate."""
    first = math.floor(rate * fmean(times)) + 1
    found = None if seconds is None else least_servers(rate, times, Q, seconds)
    last = max(found.servers + 1 if found else 0, first + 4)
    text = table([Queue(c, rate, times) for c in range(first, last + 1)][-8:], cores)
    if found:
        servers = math.ceil(found.servers / cores)
        text += (
            f"\n{found.servers} cores, {servers} servers of {cores}: {rate:g} calls a second, "
            f"95 % of them within {seconds:g} s"
        )
    elif seconds is not None:
        text += (
            f"\nno number of servers: the call itself takes longer than {seconds:g} s\n"
            "What makes it shorter: fewer tokens, float16, a prompt's prefix, a smaller model"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="plan", description="Cores and servers for a rate.")
    parser.add_argument("--rate", type=positive, required=True, help="calls a second")
    parser.add_argument("--prompt", type=whole, default=64, help="tokens of a prompt")
    parser.add_argument("--tokens", type=whole, default=32, help="tokens that are made")
    parser.add_argument("--p95", type=positive, help="seconds within which 95 %% are to be there")
    parser.add_argument("--model", help="by default the default one")
    parser.add_argument("--cores", type=whole, default=os.cpu_count(), help="cores of a server")
    parser.add_argument("--calls", type=whole, default=5, help="calls to measure, for each core")
    parser.add_argument(
        "--service", type=positive, nargs="+", help="seconds of a call: not measured"
    )
    options = parser.parse_args()
    times = options.service
    if times is None:
        call = Call(options.prompt, options.tokens, options.model)
        here = os.cpu_count()
        try:
            callers = Callers("", call)  # libpq's variables name the private server's database
            times, _ = callers.in_turn(here, options.calls)
            callers.close()
        except psycopg.Error as error:
            raise SystemExit(f"error: {error}") from None
        print(
            f"a call of {call.prompt} tokens in and {call.tokens} out: {fmean(times):.2f} s, "
            f"by {len(times)} calls, {here} at a time on {here} cores"
        )
    print(plan(options.rate, times, options.p95, options.cores))


if __name__ == "__main__":
    main()
