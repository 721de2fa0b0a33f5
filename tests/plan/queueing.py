"""How long a call takes that may have to wait for a core: a queue before c equal servers, M/G/c.

Calls come at random (Poisson), the first goes first, a call has a core for itself. That a call waits is
Erlang's C formula, exact where the service times are exponential (A. K. Erlang 1917; L. Kleinrock, Queueing
Systems I, 1975, 3.5). For others the mean wait is that times (1 + scv) / 2, where scv is their variance over
the square of their mean (A. O. Allen, Probability, Statistics, and Queueing Theory, 1990; J. F. C. Kingman 1961
for one server), and the wait of those that wait is taken for exponential.

Times are in seconds, rates in calls a second.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance


def erlang_b(servers: int, load: float) -> float:
    """Probability that all servers are busy where nobody waits; load in Erlang: rate times mean."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """Probability that a call waits; 1 where the servers cannot do it."""
    if load >= servers:
        return 1.0
    blocked = erlang_b(servers, load)
    return blocked / (1 - load / servers * (1 - blocked))


def responses(servers: int, moments: Sequence[float], times: Sequence[float]) -> list[float]:
    """Seconds from the moment of each call to its end, where these calls come to these servers."""
    free = [0.0] * servers  # a heap: when each server is next
    result = []
    for moment, time in zip(moments, times, strict=True):
        end = max(moment, heapq.heappop(free)) + time
        heapq.heappush(free, end)
        result.append(end - moment)
    return result


@dataclass(frozen=True)
class Queue:
    """servers: cores; rate: calls a second; times: samples of what a call takes on a core."""

    servers: int
    rate: float
    times: Sequence[float]

    @property
    def utilization(self) -> float:
        """The share of the cores' time that is used; from 1 on the queue grows for ever."""
        return self.rate * fmean(self.times) / self.servers

    @property
    def probability_of_waiting(self) -> float:
        return erlang_c(self.servers, self.rate * fmean(self.times))

    @property
    def mean_of_those_that_wait(self) -> float:
        """Seconds; of M/M/c, mean / (servers (1 - utilization)), times (1 + scv) / 2."""
        if self.utilization >= 1:
            return math.inf
        mean = fmean(self.times)
        scv = pvariance(self.times) / mean**2
        return mean / (self.servers * (1 - self.utilization)) * (1 + scv) / 2

    def slower(self, seconds: float) -> float:
        """Probability that a response takes longer: the wait and the call itself."""
        waiting, mean = self.probability_of_waiting, self.mean_of_those_that_wait
        return fmean(
            1.0 if seconds < time else waiting * math.exp((time - seconds) / mean)
            for time in self.times
        )

    def quantile(self, q: float) -> float:
        """Seconds within which a share q of the responses is there; infinite where the queue grows."""
        if self.utilization >= 1:
            return math.inf
        low, high = 0.0, max(self.times)
        while self.slower(high) > 1 - q:
            low, high = high, 2 * high
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.slower(middle) > 1 - q else (low, middle)
        return high


def least_servers(rate: float, times: Sequence[float], q: float, seconds: float) -> Queue | None:
    """The least servers with which a share q of the responses is there within these seconds; None
    where a call by itself takes longer, so that no number of servers helps."""
    # as many as may be late would be late without a wait: then no wait is short enough
    if sum(time > seconds for time in times) >= (1 - q) * len(times) * (1 - 1e-9):
        return None
    servers = math.floor(rate * fmean(times)) + 1
    while (queue := Queue(servers, rate, times)).quantile(q) > seconds:
        servers += 1
    return queue
