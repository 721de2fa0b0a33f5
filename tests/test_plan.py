"""The planner (`make plan`): its formulas beside printed tables and a simulated queue, and the command."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
from itertools import accumulate, pairwise
from statistics import fmean, quantiles

import ciw
import psycopg
import pytest
from conftest import ROOT, cases

from plan.calls import Call, Callers
from plan.queueing import Queue, erlang_b, erlang_c, least_servers, responses

#: service times: all alike, as calls of the same tokens nearly are; spread; and exponential ones, as quantiles
ALIKE = [1.0]
SPREAD = [0.5, 0.5, 0.5, 1.0, 2.5]
EXPONENTIAL = [-math.log(1 - (i + 0.5) / 2000) for i in range(2000)]


@pytest.mark.parametrize(
    ("servers", "load", "blocked"),
    # a usual table of Erlang's B formula: the load at which a share is blocked, in three digits
    [
        (1, "0.0101", 0.01),
        (2, "0.153", 0.01),
        (5, "1.36", 0.01),
        (10, "4.46", 0.01),
        (20, "12.0", 0.01),
    ]
    + [
        (1, "0.0526", 0.05),
        (2, "0.381", 0.05),
        (5, "2.22", 0.05),
        (10, "6.22", 0.05),
        (20, "15.2", 0.05),
    ],
)
def test_erlang_b(servers, load, blocked):
    rounded = 0.5 * 10 ** -len(load.split(".")[1])
    least, most = (erlang_b(servers, float(load) + by) for by in (-rounded, rounded))
    assert least <= blocked <= most


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_erlang_c(load):
    """Of one and two servers, by the formulas that textbooks print; and by the definition, a sum."""
    assert erlang_c(1, load) == pytest.approx(load)
    assert erlang_c(2, 2 * load) == pytest.approx(2 * load**2 / (1 + load))
    for servers in (3, 8, 30):
        a = servers * load
        last = a**servers / math.factorial(servers) / (1 - load)
        states = math.fsum(a**n / math.factorial(n) for n in range(servers))
        assert erlang_c(servers, a) == pytest.approx(last / (states + last))


def test_responses():
    """By ciw, given the same calls; and by hand: the third waits for the first, the fourth for the second."""
    assert responses(2, [0, 0, 1, 1, 9], [2, 4, 1, 1, 1]) == [2, 4, 2, 3, 1]
    rng = random.Random(1)
    moments = list(accumulate(rng.expovariate(2) for _ in range(300)))
    times = [rng.uniform(0.2, 2) for _ in moments]
    network = ciw.create_network(
        arrival_distributions=[
            ciw.dists.Sequential([b - a for a, b in pairwise([0, *moments])] + [math.inf])
        ],
        service_distributions=[ciw.dists.Sequential(times)],
        number_of_servers=[3],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(moments[-1] + 1000)
    records = sorted(simulation.get_all_records(), key=lambda record: record.arrival_date)
    expected = [record.exit_date - record.arrival_date for record in records]
    assert responses(3, moments, times) == pytest.approx(expected)


def test_a_queue_that_grows_for_ever():
    queue = Queue(2, 2.0, ALIKE)
    assert queue.probability_of_waiting == queue.utilization == 1
    assert queue.mean_of_those_that_wait == queue.quantile(0.5) == math.inf


def simulated(queue: Queue, calls: int = 10_000) -> tuple[list[float], list[float]]:
    """Waits and responses of a queue that ciw simulates, once it has come to rest."""
    ciw.seed(1)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(rate=queue.rate)],
        service_distributions=[ciw.dists.Empirical(observations=list(queue.times))],
        number_of_servers=[queue.servers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(calls)
    records = [r for r in simulation.get_all_records() if r.arrival_date > 100]
    return (
        [r.waiting_time for r in records],
        [r.exit_date - r.arrival_date for r in records],
    )


SOME = [(ALIKE, 2, 0.6), (SPREAD, 3, 0.7), (EXPONENTIAL, 2, 0.5)]
MORE = [
    (times, servers, utilization)
    for times in (ALIKE, SPREAD, EXPONENTIAL)
    for servers, utilization in [(1, 0.7), (3, 0.8), (8, 0.8)]
]


@pytest.mark.parametrize(("times", "servers", "utilization"), cases([*SOME, *MORE], SOME))
def test_beside_a_simulation(times, servers, utilization):
    """What of the formulas is an approximation errs by less than the tolerances, and mostly upwards."""
    queue = Queue(servers, utilization * servers / fmean(times), times)
    waits, responses = simulated(queue)
    percentiles = quantiles(responses, n=100)
    waiting = sum(wait > 1e-9 for wait in waits) / len(waits)
    assert queue.probability_of_waiting == pytest.approx(waiting, abs=0.05)
    mean = queue.probability_of_waiting * queue.mean_of_those_that_wait
    assert mean == pytest.approx(fmean(waits), rel=0.2)
    assert queue.quantile(0.95) == pytest.approx(percentiles[94], rel=0.1)
    assert queue.quantile(0.5) == pytest.approx(percentiles[49], rel=0.15)


@pytest.mark.parametrize("seconds", [1.01, 1.5, 3.0])
@pytest.mark.parametrize("rate", [0.2, 1.0, 7.3])
def test_the_least_servers(rate, seconds):
    found = least_servers(rate, ALIKE, 0.95, seconds)
    assert found.quantile(0.95) <= seconds
    fewer = Queue(found.servers - 1, rate, ALIKE)
    assert found.servers == 1 or fewer.quantile(0.95) > seconds


def test_a_call_that_takes_too_long_by_itself():
    assert least_servers(1.0, ALIKE, 0.95, 0.9) is None
    # less than one in twenty may
    assert least_servers(0.001, [*ALIKE * 19, 5.0], 0.95, 1.5) is None
    assert least_servers(0.001, [*ALIKE * 20, 5.0], 0.95, 1.5).servers == 1


def plan(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "plan", *arguments],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
    )


def test_the_page():
    """What docs/scale-out.md shows is what the command prints."""
    page = (ROOT / "docs/scale-out.md").read_text(encoding="utf-8")
    [(words, shown)] = re.findall(r"```sh\nmake plan (.*)\n```\n```text\n([^`]*)```", page)
    arguments = [part for word in words.split() for part in f"--{word.lower()}".split("=")]
    printed = plan(*arguments)
    assert printed.stdout == shown, printed.stderr


def test_no_number_of_servers():
    printed = plan("--rate", "3", "--service", "1", "--p95", "0.5")
    assert "no number of servers: the call itself takes longer than 0.5 s" in printed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0"], "0 is not a positive number"),
        (["--rate", "1", "--p95", "inf"], "inf is not a positive number"),
        (["--rate", "1", "--prompt", "0"], "0 is less than 1"),
        (["--rate", "1", "--model", "none"], 'model "none" does not exist'),
        (["--rate", "1", "--prompt", "5000"], "5000 tokens"),
    ],
)
def test_bad_arguments(bundled_dsn, monkeypatch, arguments, message):
    for name, value in psycopg.conninfo.conninfo_to_dict(bundled_dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    printed = plan(*arguments)
    assert printed.returncode != 0
    assert message in printed.stderr


def test_callers(demo_dsn):
    """As many tokens as are asked for, whoever asks; no call is lost."""
    callers = Callers(demo_dsn, Call(prompt=5, tokens=3))
    times, throughput = callers.in_turn(clients=2, each=3)
    assert len(times) == 6 and min(times) > 0 and throughput > 0
    answers = callers.at_random(rate=50.0, n=10)
    assert len(answers) == 10
    assert all(0 < answer.service < answer.response for answer in answers)
    callers.close()
    parameters = callers.call.parameters(7, callers.n_vocab)
    assert len(parameters["ids"]) == 5
    assert parameters["ids"] == callers.call.parameters(7, callers.n_vocab)["ids"]
