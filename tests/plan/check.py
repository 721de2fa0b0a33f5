"""The planner beside measured runs: `make plan-check`.

For each number of standby servers, of one core each, behind HAProxy and PgBouncer (fleet.py): calls a second
where as many clients as servers ask without a pause; then calls that come at random, at a share of that,
and how long their answers took, beside what the planner says of the same rate.
"""

from __future__ import annotations

import argparse
import os
from statistics import quantiles

from databases import BUNDLED, load_model
from fleet import fleet
from plan.__main__ import Q, positive, whole
from plan.calls import Call, Callers
from plan.queueing import Queue

HEADS = (
    "servers",
    "calls/s at most",
    "a call, s",
    "calls/s",
    "busy",
    "p50, s",
    "planned",
    "p95, s",
    "planned",
)


def load(uri: str) -> None:
    load_model(uri, BUNDLED, "demo")


def measure(servers: int, call: Call, share: float, each: int, n: int) -> tuple[str, ...]:
    """A row of the table; each: calls a server without a pause; n: calls at random."""
    with fleet(servers, load, {"shared_buffers": "256MB"}) as made:
        made.catch_up()
        callers = Callers(made.pooled, call)
        try:
            times, throughput = callers.in_turn(servers, each)
            queue = Queue(servers, share * throughput, times)
            responses = quantiles(callers.at_random(queue.rate, n), n=100, method="inclusive")
        finally:
            callers.close()
    figures = [
        throughput,
        sum(times) / len(times),
        queue.rate,
        responses[49],
        queue.quantile(0.5),
        responses[94],
        queue.quantile(Q),
    ]
    text = [f"{figure:.2f}" for figure in figures]
    return (str(servers), *text[:3], f"{queue.utilization:.0%}", *text[3:])


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
