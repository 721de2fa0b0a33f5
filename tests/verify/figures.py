"""Figures as they are printed, and ours beside them.

A figure is compared digit by printed digit: ours is rounded to as many decimals as its group was
printed with. JSON drops zeros at the end, so a group that was rounded has the decimals of its
longest number; one that holds float32 numbers in full has those of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

Printed = Decimal | int | str


@dataclass
class Row:
    """What was published under a name, and what this database computes."""

    name: str
    published: list[Printed]
    ours: list[Printed]

    @property
    def equal(self) -> list[bool]:
        """Which of the figures are the same in every printed digit."""
        return [a == b for a, b in zip(self.published, self.ours, strict=False)] + [False] * abs(
            len(self.published) - len(self.ours)
        )


def read(path: Path) -> dict:
    """A file of figures; numbers with a point keep the digits in which they are written."""
    return json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)


def decimals(value: Printed) -> int:
    """How many digits stand behind the point, an exponent counted in."""
    return max(0, -value.as_tuple().exponent) if isinstance(value, Decimal) else 0


def rounded(
    name: str, published: list[Decimal], ours: list[float], places: int | None = None
) -> Row:
    """Ours to so many decimals; None: to as many as each figure has."""
    fitted = []
    for i, value in enumerate(ours):
        n = places if places is not None else decimals(published[i])
        fitted.append(Decimal(repr(value)).quantize(Decimal(1).scaleb(-n), ROUND_HALF_UP))
    if places is not None:
        published = [value.quantize(Decimal(1).scaleb(-places)) for value in published]
    return Row(name, published, fitted)


def places(group: list[list[Decimal]]) -> int:
    """The decimals of a group that was rounded: those of its longest number."""
    return max(decimals(value) for row in group for value in row)


def text(row: Row) -> str:
    """Two lines, one under the other, where they differ; one where they do not. A figure that
    differs has an asterisk."""
    equal = row.equal
    wide = [
        max(len(_shown(a)), len(_shown(b))) for a, b in zip(row.published, row.ours, strict=False)
    ]

    def line(label: str, values: list[Printed], marks: bool) -> str:
        cells = (
            f"{_shown(value).rjust(width)}{'*' if marks and not same else ' '}"
            for value, width, same in zip(values, wide, equal, strict=False)
        )
        return f"  {label:10}{' '.join(cells).rstrip()}"

    head = f"{row.name}: {'equal' if all(equal) else 'NOT EQUAL'}"
    if all(equal):
        return f"{head}\n{line('both', row.published, False)}"
    lines = [line("published", row.published, False), line("ours", row.ours, True)]
    return "\n".join([head, *lines])


def _shown(value: Printed) -> str:
    if isinstance(value, Decimal) and abs(value) < Decimal("0.0001") and value:
        return f"{value:e}"
    return f"{value:f}" if isinstance(value, Decimal) else repr(value)
