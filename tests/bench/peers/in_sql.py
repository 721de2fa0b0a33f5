"""Ours, beside the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from oracle import compare

from bench.ours import Ours
from bench.peers.peer import Peer

TOLERANCES = {"float32": 1e-4, "float16": 5e-3}


class InSQL(Peer):
    def __init__(self, dsn: str, model: str, dtype: str):
        self.name, self.tolerance = f"ours, {dtype}", TOLERANCES[dtype]
        self.ours = Ours(dsn, model)
        self.conn, self.model = self.ours.conn, model
        self.stat = Path(f"/proc/{self.conn.info.backend_pid}/schedstat")

    def clock(self) -> float:
        return int(self.stat.read_text().split()[0]) / 1e9

    def log_probabilities(self, tokens: list[int]) -> np.ndarray:
        logits = compare.logits(self.conn, tokens, self.model).astype(np.float64)
        return logits - np.logaddexp.reduce(logits)

    def generate(self, tokens: list[int], n: int) -> list[int]:
        return compare.greedy(self.conn, tokens, n, self.model)

    def first_token(self, tokens: list[int]) -> None:
        compare.greedy(self.conn, tokens, 1, self.model)

    def extend(self, tokens: list[int], n: int) -> None:
        self.ours.generate(tokens, n)

    def complete(self, texts: list[str], n: int) -> list[str]:
        rows = self.conn.execute(
            """SELECT gpt2_generate(t.text, %s, model => %s, echo => false)
               FROM unnest(%s::text[]) WITH ORDINALITY AS t (text, i) ORDER BY t.i""",
            [n, self.model, texts],
        ).fetchall()
        return [row[0] for row in rows]

    def close(self) -> None:
        self.conn.close()
