"""The lines of `make bench PEERS=1`: ours beside other programs, each in one thread.

A sample is seconds of CPU (Peer.clock); they are taken in turn, and of each program's the median
counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median

from oracle.checkpoints import SHAPE_124M
from tables import aligned

from bench import database, report, texts
from bench.lines import around, random_tokens
from bench.ours import SPAN
from bench.peers import same
from bench.peers.in_ctranslate2 import CTranslate2
from bench.peers.in_llama_cpp import LlamaCpp
from bench.peers.in_pytorch import Transformers
from bench.peers.in_sql import InSQL
from bench.peers.peer import Peer, Tokenized
from bench.samples import progress

#: name of a line -> name of a program -> samples
Samples = dict[str, dict[str, list[float]]]


def folder() -> Path:
    """Where the conversions of the checkpoint lie: kept as long as what made them is the same."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    made_from = database.digest([database.CHECKPOINT / "made_from", *sources])[:12]
    result = database.FOLDER / f"peers-{made_from}"
    result.mkdir(exist_ok=True)
    return result


def start(dsn: str, directory: Path, conversions: Path) -> list[Callable[[], Peer]]:
    """What makes each program; transformers, with which the others are compared, is the first."""
    return [
        lambda: Transformers(directory),
        *(lambda d=d: InSQL(dsn, f"bench_{d}", d) for d in database.DTYPES),
        *(
            lambda k=k: CTranslate2(directory, conversions / f"ctranslate2_{k}", k)
            for k in ("float32", "int8")
        ),
        *(lambda k=k: LlamaCpp(directory, conversions / f"{k}.gguf", k) for k in ("f16", "q8_0")),
    ]


def cpu(peer: Peer, work: Callable[[], object]) -> float:
    """Seconds of CPU that a program takes for what it is asked."""
    before = peer.clock()
    work()
    return peer.clock() - before


def token(peer: Peer, prompt: list[int]) -> float:
    """Milliseconds a generated token: SPAN more of them, divided."""
    times = [cpu(peer, lambda n=n: peer.extend(prompt, n)) for n in (1, 1 + SPAN)]
    return 1000 * (times[1] - times[0]) / SPAN


def lines(quick: bool, text: Tokenized) -> dict[str, tuple[int, Callable[[Peer], float]]]:
    """name -> (rounds, a sample)."""
    contexts, n_prompt, n_in, n_out, n_rows = (16, 128), 128, 200, 50, 100
    if quick:
        contexts, n_prompt, n_in, n_out, n_rows = (16,), 32, 20, 8, 4
    random, english = random_tokens(1024), texts.english()
    [tokens] = text.encode([english[: 20 * n_in]])
    [request] = text.decode([tokens[:n_in]])
    words = english.split()  # a row has two to six of them, as a title has
    rows = [" ".join(words[10 * i : 10 * i + 2 + i % 5]) for i in range(n_rows)]
    rounds = 1 if quick else 3
    result = {
        f"token at {context}, ms": (rounds, lambda peer: token(peer, around(random, context)))
        for context in contexts
    }
    result[f"prompt of {n_prompt}, ms a position"] = (
        rounds,
        lambda peer: 1000 * cpu(peer, lambda: peer.first_token(random[:n_prompt])) / n_prompt,
    )
    result[f"{n_in} in, {n_out} out, s"] = (
        rounds,
        lambda peer: cpu(peer, lambda: peer.complete([request], n_out)),
    )
    result[f"{n_rows} rows, s"] = (1, lambda peer: cpu(peer, lambda: peer.complete(rows, 8)))
    return result


def compare(dsn: str, quick: bool) -> None:
    """Checks every program, times them in turn, prints the tables."""
    about = report.machine(dsn) | {name: version(name) for name in ("ctranslate2", "xllamacpp")}
    path = database.FOLDER / "peers.json"
    with ExitStack() as stack:
        peers = []
        for make in start(dsn, database.CHECKPOINT, folder()):
            peers.append(make())
            stack.callback(peers[-1].close)
            if len(peers) > 1:
                progress(f"{peers[-1].name}: is it the same computation?")
                same.check(peers[-1], peers[0], SHAPE_124M["vocab_size"])
        samples: Samples = {}
        try:
            for name, (rounds, sample) in lines(quick, peers[0].text).items():
                progress(name)
                samples[name] = take_turns(peers, rounds, sample)
        finally:  # what was measured is told even where the rest failed or was interrupted
            path.write_text(json.dumps({"machine": about, "samples": samples}, indent=2) + "\n")
            print(", ".join(f"{name} {value}" for name, value in about.items()))
            print(table(samples))
            print(f"\nas a multiple of {peers[0].name}'s\n{table(samples, peers[0].name)}")
            print(f"seconds of CPU, medians of samples taken in turn, one thread each; all: {path}")


def take_turns(
    peers: list[Peer], rounds: int, sample: Callable[[Peer], float]
) -> dict[str, list[float]]:
    """Samples of each, after a warm-up where there are several."""
    result: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for i in range(rounds + (rounds > 1)):
        for peer in peers:
            value = sample(peer)
            if i > 0 or rounds == 1:
                result[peer.name].append(value)
    return result


def table(samples: Samples, unit: str | None = None) -> str:
    """A row a program, a column a line: medians, or what multiple they are of a program's."""
    names = list(next(iter(samples.values()), {}))
    rows = [("program", *samples)]
    for name in names:
        cells = [
            median(line[name]) / (median(line[unit]) if unit else 1) for line in samples.values()
        ]
        rows.append((name, *map(report.figure, cells)))
    return aligned(rows, right=tuple(range(1, len(samples) + 1)))
