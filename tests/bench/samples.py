"""A line of the benchmark: samples of ours and of the reference, taken in turn.

Machines are noisy, and noise comes in spells: what is compared is measured alternately in one run,
and of each the median counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median

Measure = Callable[[], float]


@dataclass
class Line:
    """A row of the table. Samples are in `unit`; what could not be measured, or has no reference,
    has none of them."""

    name: str
    unit: str
    ours: list[float]
    reference: list[float] = field(default_factory=list)
    reference_name: str = ""
    details: dict = field(default_factory=dict)

    @property
    def ours_median(self) -> float | None:
        return median(self.ours) if self.ours else None

    @property
    def reference_median(self) -> float | None:
        return median(self.reference) if self.reference else None

    @property
    def ratio(self) -> float | None:
        """Ours as a multiple of the reference's."""
        if self.ours_median is None or not self.reference_median:
            return None
        return self.ours_median / self.reference_median

    def as_dict(self) -> dict:
        """For JSON: the samples as they were taken, the medians and their ratio."""
        return asdict(self) | {
            "ours_median": self.ours_median,
            "ratio": self.ratio,
            "reference_median": self.reference_median,
        }


def interleave(ours: Measure, reference: Measure, rounds: int) -> tuple[list[float], list[float]]:
    """`rounds` samples of each: ours, the reference's, ours, the reference's, ..."""
    pairs = [(ours(), reference()) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes, by the wall clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def progress(text: str) -> None:
    """What is being done, on standard error."""
    print(f"==> bench: {text}", file=sys.stderr, flush=True)
