"""The report: what machine it was, and the lines as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import psycopg
from tables import aligned

from bench.samples import Line

HEADER = ("line", "unit", "ours", "reference", "ratio", "reference is")


def machine(dsn: str) -> dict[str, str]:
    """What the figures depend on."""
    cpus = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    with psycopg.connect(dsn) as conn:
        server = conn.execute("SHOW server_version").fetchone()[0]
        pgvector = conn.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()[0]
    return {
        "CPU": cpus[0] if cpus else platform.machine(),
        "cores": str(os.cpu_count()),
        "PostgreSQL": server.split()[0],
        "pgvector": pgvector,
        "Python": platform.python_version(),
    } | {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def figure(value: float | None) -> str:
    """Three significant digits, thousands set apart; nothing for what there is not."""
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def table(lines: list[Line]) -> str:
    """Aligned columns, a line each: medians and their ratio."""
    rows = [HEADER] + [
        (
            line.name,
            line.unit,
            figure(line.ours_median) if line.ours else "n/a",
            figure(line.reference_median),
            figure(line.ratio),
            line.reference_name,
        )
        for line in lines
    ]
    return aligned(rows, right=(2, 3, 4))


def write(path: Path, about: dict[str, str], quick: bool, lines: list[Line]) -> None:
    """All samples, for whoever compares two runs."""
    report = {"machine": about, "quick": quick, "lines": [line.as_dict() for line in lines]}
    path.write_text(json.dumps(report, indent=2) + "\n")
