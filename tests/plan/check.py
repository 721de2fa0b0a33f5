"""The planner beside measured runs: `make plan-check`.

For each number of standby servers, of one core each, behind HAProxy and PgBouncer (fleet.py): calls a second
where as many clients as servers ask without a pause; then calls that come at random, at a share of that,
and how long their answers took. Beside it what a queue makes of the same calls, that is of the moments when they
came and the seconds that the servers had each; and what the planner says of that rate and those seconds.

By what these calls took themselves, as a machine that others use, too, is not as fast in one minute as in the next.
A few hundred calls at random are more or less crowded than most: in nine of ten cases the 95th percentile of 200
is 0.6 to 1.4 times that of many.
"""

from __future__ import annotations

import argparse
import os
from statistics import fmean, quantiles

from databases import BUNDLED, load_model
from fleet import fleet
from plan.__main__ import Q, positive, whole
from plan.calls import Call, Callers
from plan.queueing import Queue, responses

HEADS = (
    "servers",
    "calls/s at most",
    "a call, s",
    "calls/s",
    "a call, s",
    "busy",
    "p50, s",
    "queue",
    "planned",
    "p95, s",
    "queue",
    "planned",
)


def hundredths(values: list[float]) -> list[float]:
    """Their percentiles, from the first to the 99th."""
    return quantiles(values, n=100, method="inclusive")


def load(uri: str) -> None:
    load_model(uri, BUNDLED, "demo")


def measure(servers: int, call: Call, share: float, each: int, n: int) -> tuple[str, ...]:
    """A row of the table; each: calls a server without a pause; n: calls at random."""
    with fleet(servers, load, {"shared_buffers": "256MB"}) as made:
        made.catch_up()
        callers = Callers(made.pooled, call)
        try:
            times, throughput = callers.in_turn(servers, each)
            answers = callers.at_random(share * throughput, n)
        finally:
            callers.close()
    services = [answer.service for answer in answers]
    planned = Queue(servers, share * throughput, services)
    measured = hundredths([answer.response for answer in answers])
    queued = hundredths(responses(servers, [answer.moment for answer in answers], services))
    figures = [throughput, fmean(times), planned.rate, fmean(services)]
    for q in (0.5, Q):
        figures += [measured[round(100 * q) - 1], queued[round(100 * q) - 1], planned.quantile(q)]
    text = [f"{figure:.2f}" for figure in figures]
    return (str(servers), *text[:4], f"{planned.utilization:.0%}", *text[4:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="plan.check", description="Planned and measured.")
    parser.add_argument("--servers", type=whole, nargs="+", default=[1, 2, 3])
    parser.add_argument("--prompt", type=whole, default=16, help="tokens of a prompt")
    parser.add_argument("--tokens", type=whole, default=16, help="tokens that are made")
    parser.add_argument("--share", type=positive, default=0.7, help="of the calls/s at most")
    parser.add_argument("--each", type=whole, default=30, help="calls a server without a pause")
    parser.add_argument("--calls", type=whole, default=200, help="calls at random")
    options = parser.parse_args()
    call = Call(options.prompt, options.tokens)
    print(f"the bundled model, {call.prompt} tokens in, {call.tokens} out; {os.cpu_count()} cores")
    print("  ".join(HEADS), flush=True)
    for servers in options.servers:  # each takes minutes: a row comes when it is there
        row = measure(servers, call, options.share, options.each, options.calls)
        cells = [cell.rjust(len(head)) for cell, head in zip(row, HEADS, strict=True)]
        print("  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
