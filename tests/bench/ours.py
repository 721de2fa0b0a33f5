"""What is timed on our side: the functions that gpt2_generate calls, in one backend.

They are called with tokens, so that a context has exactly the length that a line says.
"""

from __future__ import annotations

import psycopg

from bench.samples import seconds

#: tokens that a sample of generation takes: a chunk, so that its upkeep of the cache is in
SPAN = 16

#: the text so far and a model, read once
MODEL = "(SELECT c AS m FROM gpt2._chosen_model(%(model)s) AS c OFFSET 0) AS m"

#: the context after tokens, of which there are n
READ = "gpt2._run(gpt2._begin(%(tokens)s::int[], m.m), m.m, %(n)s)"
GREEDY = "NULL::gpt2._sampler"


class Ours:
    """A model in a connection of its own, under the settings of gpt2_generate."""

    def __init__(self, dsn: str, model: str):
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.model = model
        settings = self.conn.execute("""
            SELECT set_config(split_part(s, '=', 1), split_part(s, '=', 2), false)
            FROM pg_proc, unnest(proconfig) AS s WHERE proname = '_generate'""").fetchall()
        assert settings, "gpt2._generate has no settings: where are they now?"
        self.conn.execute("SET max_parallel_workers_per_gather = 0")
        self.conn.execute("CREATE TEMP TABLE kept (n int PRIMARY KEY, context gpt2._context)")
        self.kept: set[int] = set()

    def value(self, sql: str, **parameters):
        """The one value that a query gives."""
        return self.conn.execute(sql, {"model": self.model, **parameters}).fetchone()[0]

    def read(self, tokens: list[int]) -> float:
        """Seconds to read a prompt: a forward pass over its positions, no logits."""
        return seconds(
            lambda: self.value(f"SELECT ({READ}).n_past FROM {MODEL}", tokens=tokens, n=len(tokens))
        )

    def keep(self, tokens: list[int]) -> int:
        """Keeps the context of the tokens but the last, whole chunks of it; its length.

        A sample then starts there, and need not read what is before it.
        """
        n = (len(tokens) - 1) // SPAN * SPAN
        if n > 0 and n not in self.kept:
            cached = self.value(
                f"""INSERT INTO kept SELECT %(n)s, {READ} FROM {MODEL}
                    RETURNING cardinality(((context).past[1]).k)""",
                n=n,
                tokens=tokens[:n],
            )
            assert cached == n, f"{cached} of {n} positions in the cache: is SPAN still a chunk?"
            self.kept.add(n)
        return n

    def continuation(self, kept: int) -> str:
        """Query: tokens there are after a prompt is continued up to n_stop."""
        start = (
            "ROW(%(tokens)s::int[], coalesce(k.n, 0), (k.context).past, NULL,"
            " (k.context).y, 0, '', '{}', NULL)::gpt2._context"
        )
        return (
            f"SELECT cardinality((gpt2._run({start}, m.m, %(n_stop)s, {GREEDY})).tokens)"
            f" FROM {MODEL} LEFT JOIN kept AS k ON k.n = {kept}"
        )

    def generate(self, tokens: list[int], n: int) -> float:
        """Seconds to continue the tokens by n more, from the kept context on."""
        sql = self.continuation(self.keep(tokens))
        n_stop = len(tokens) + n
        counts = []
        time = seconds(lambda: counts.append(self.value(sql, tokens=tokens, n_stop=n_stop)))
        assert counts == [n_stop], f"{counts} tokens, not {n_stop}: choose other tokens"
        return time

    def token(self, tokens: list[int]) -> float:
        """Seconds a generated token: SPAN more of them, divided."""
        return (self.generate(tokens, 1 + SPAN) - self.generate(tokens, 1)) / SPAN

    def trace(self, tokens: list[int], hooks: list[str] | None) -> float:
        """Seconds for a forward pass that gives these activations as rows; None: all of them."""
        return seconds(
            lambda: self.value(
                f"""SELECT sum(vector_dims(a.value))
                FROM (SELECT m.m, gpt2._wanted(%(hooks)s::text[], NULL, m.m) AS wanted
                      FROM {MODEL} OFFSET 0) AS i
                CROSS JOIN LATERAL gpt2._forward(%(tokens)s::int[], i.m, i.wanted) AS a""",
                tokens=tokens,
                hooks=hooks,
            )
        )

    def keep_prefix(self, prompt: str) -> None:
        """Keeps gpt2_prefix of a prompt, for first_token()."""
        self.conn.execute("DROP TABLE IF EXISTS stored")
        self.conn.execute("CREATE TEMP TABLE stored (prefix gpt2.prefix)")
        self.conn.execute("INSERT INTO stored SELECT gpt2_prefix(%s, %s)", [prompt, self.model])

    def first_token(self, prompt: str, stored: bool) -> float:
        """Seconds until a prompt's first token, with or without the stored prefix."""
        prefix = "(SELECT prefix FROM stored)" if stored else "NULL"
        return seconds(
            lambda: self.value(
                f"SELECT gpt2_generate(%(prompt)s, 1, model => %(model)s, prefix => {prefix})",
                prompt=prompt,
            )
        )

    def public_token(self, function: str, prompt: str) -> float:
        """Seconds a token that gpt2_generate or gpt2_stream makes, after the stored prefix: SPAN more
        of them, divided."""
        query = (
            f"SELECT count(*) FROM {function}(%(prompt)s, %(n)s, model => %(model)s,"
            " prefix => (SELECT prefix FROM stored))"
        )
        times = [seconds(lambda n=n: self.value(query, prompt=prompt, n=n)) for n in (1, 1 + SPAN)]
        return (times[1] - times[0]) / SPAN

    def keep_activation(self, tokens: list[int]) -> None:
        """Keeps the last activation of a short prompt, for logits()."""
        self.conn.execute(
            f"INSERT INTO kept SELECT -1, {READ} FROM {MODEL}",
            {"model": self.model, "tokens": tokens, "n": len(tokens)},
        )

    def logits(self) -> float:
        """Seconds for all logits of one position, [n_embd] -> [n_vocab], and the largest's token.

        By way of an array y is in memory: read from its table, where it is out of line, it was
        fetched once for every token, and the logits took 93 ms instead of 42.
        """
        return seconds(
            lambda: self.value(
                f"""SELECT t.token FROM {MODEL}
                CROSS JOIN (SELECT (ARRAY(SELECT (context).y[cardinality((context).y)]
                                          FROM kept WHERE n = -1))[1] AS y
                            OFFSET 0) AS k
                CROSS JOIN LATERAL gpt2._sample(k.y, m.m, {GREEDY}, NULL, 0, NULL) AS t"""
            )
        )

    def blocks(self, tokens: list[int]) -> float:
        """Shared buffers that a generated token touches, found in memory or read, in blocks."""
        sql = self.continuation(self.keep(tokens))

        def touched(n: int) -> int:
            plan = self.value(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}",
                tokens=tokens,
                n_stop=len(tokens) + n,
            )[0]["Plan"]
            return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

        return (touched(1 + SPAN) - touched(1)) / SPAN
