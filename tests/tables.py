"""Tables for a terminal."""

from __future__ import annotations


def aligned(rows: list[tuple[str, ...]], right: tuple[int, ...]) -> str:
    """Rows in columns, the first as their heads; those named are set to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    text = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])
