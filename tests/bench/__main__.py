"""The benchmark: `make bench`, or `make bench QUICK=1` for the short form, or
`make bench AGAINST=COMMIT` beside an earlier version, or `make bench PEERS=1` with other programs,
PEERS=only with nothing else.

Prints a table of ours, the reference's and the ratio; all samples go to build/bench/bench.json.
"""

from __future__ import annotations

import argparse
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is fetched
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread each

from bench import against, database, report
from bench.lines import Run, model_lines
from bench.server_lines import server_lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Compares with the references.")
    parser.add_argument("--quick", action="store_true", help="the short form, under two minutes")
    parser.add_argument("--prepare", action="store_true", help="only make and load the model")
    parser.add_argument("--against", metavar="COMMIT", help="this version beside an earlier one")
    parser.add_argument("--peers", metavar="1|only", help="other programs, too or only")
    options = parser.parse_args()
    if options.against:
        (against.prepare if options.prepare else against.compare)(options.against)
        return
    dsn = database.prepare()
    if options.prepare:
        return
    database.prewarm(dsn)
    if options.peers != "only":
        whole(dsn, options.quick)
    if options.peers:
        from bench.peers import lines  # its packages are there only where they were asked for

        lines.compare(dsn, options.quick)


def whole(dsn: str, quick: bool) -> None:
    """Ours and the reference's, line by line."""
    run = Run(dsn, quick)
    about = report.machine(run.dsn)
    path = database.FOLDER / "bench.json"
    try:
        model_lines(run)
        server_lines(run)
    finally:  # what was measured is told even where the rest failed or was interrupted
        report.write(path, about, run.quick, run.lines)
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        print(report.table(run.lines))
        print(f"medians of samples taken in turn, one thread each; all of them: {path}")


if __name__ == "__main__":
    main()
