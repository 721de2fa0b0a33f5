"""What this database computes of the figures of 'GPT in 500 lines of SQL', by its public functions.

The sections are those of article.json; each gives rows in the order of its figures.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from verify.figures import Row, places, rounded


class Ours:
    """A model in a database."""

    def __init__(self, conn: psycopg.Connection, model: str):
        self.conn, self.model = conn, model

    def rows(self, query: str, **parameters) -> list[tuple]:
        """What a query gives."""
        return self.conn.execute(query, {"model": self.model, **parameters}).fetchall()

    def value(self, query: str, **parameters):
        """The one value that it gives."""
        return self.rows(query, **parameters)[0][0]

    def activations(self, prompt: str, hook: str, block: int | None, n: int) -> list[list[float]]:
        """The first n numbers at each position; of a hook that has heads, of the first."""
        return [
            row[0]
            for row in self.rows(
                """SELECT (value::real[])[:%(n)s]
                   FROM gpt2_trace(%(prompt)s, ARRAY[%(hook)s], model => %(model)s)
                   WHERE block IS NOT DISTINCT FROM %(block)s AND coalesce(head, 0) = 0
                   ORDER BY "position" """,
                prompt=prompt,
                hook=hook,
                block=block,
                n=n,
            )
        ]


def compare(figures: dict, ours: Ours) -> Iterator[Row]:
    """Every figure beside ours."""
    yield from tokenization(figures, ours)
    yield from forward_pass(figures, ours)
    yield from next_token(figures, ours)
    yield from distribution(figures, ours)
    yield generation(figures, ours)


def tokenization(figures: dict, ours: Ours) -> Iterator[Row]:
    bpe, prompt = figures["bpe"], figures["prompt"]
    steps = ours.rows(
        "SELECT token, pieces FROM gpt2_bpe(%(word)s, %(model)s) ORDER BY step", word=bpe["word"]
    )
    yield Row(f"merges of {bpe['word']}", bpe["tokens"], [token for token, _ in steps])
    yield Row("its pieces after the last", bpe["pieces"], steps[-1][1])
    tokens = ours.value("SELECT gpt2_tokenize(%(prompt)s, %(model)s)", prompt=prompt)
    yield Row(f"tokens of {prompt}", figures["tokens"], tokens)


def forward_pass(figures: dict, ours: Ours) -> Iterator[Row]:
    prompt = figures["prompt"]
    published = figures["embeddings"]["values"]
    found = ours.activations(prompt, "hook_embed", None, len(published[0]))
    positions = ours.activations(prompt, "hook_pos_embed", None, len(published[0]))
    for i, values in enumerate(published):
        # float32 numbers, as they are stored: their sum is one too
        total = ours.value(
            "SELECT array_agg(a + b ORDER BY n) FROM unnest(%(a)s::real[], %(b)s::real[])"
            " WITH ORDINALITY AS u (a, b, n)",
            a=found[i],
            b=positions[i],
        )
        yield rounded(f"embedding, position {i}", values, total)
    head = figures["block0_head0"]
    for name in ("q", "k", "v", "pattern", "z"):
        found = ours.activations(prompt, f"attn.hook_{name}", 0, max(map(len, head[name])))
        for i, values in enumerate(head[name]):
            yield rounded(
                f"blocks.0.attn.hook_{name}, head 0, position {i}",
                values,
                found[i][: len(values)],
                places(head[name]),
            )
    for section, hook, block in (
        ("block0_attn_out", "hook_attn_out", 0),
        ("block0_resid_post", "hook_resid_post", 0),
        ("ln_final", "ln_final.hook_out", None),
    ):
        published = figures[section]["values"]
        found = ours.activations(prompt, hook, block, len(published[0]))
        for i, values in enumerate(published):
            name = hook if block is None else f"blocks.{block}.{hook}"
            yield rounded(f"{name}, position {i}", values, found[i], places(published))


def next_token(figures: dict, ours: Ours) -> Iterator[Row]:
    published = figures["next_token"]["rows"]
    found = [
        ours.rows(
            """SELECT token, piece, logit, probability
               FROM gpt2_next_token(%(prompt)s, %(n)s, %(temperature)s, model => %(model)s)""",
            prompt=figures["prompt"],
            n=len(published),
            temperature=temperature,
        )
        for temperature in (0.5, 1, 2)
    ]
    digits = places([row[3:] for row in published])
    for i, (token, piece, logit, *probabilities) in enumerate(published):
        yield Row(f"next token, rank {i}", [token, piece], list(found[0][i][:2]))
        yield rounded("  logit", [logit], [found[0][i][2]], places([row[2:3] for row in published]))
        yield rounded(
            "  probability at temperature 0.5, 1, 2",
            probabilities,
            [rows[i][3] for rows in found],
            digits,
        )


def distribution(figures: dict, ours: Ours) -> Iterator[Row]:
    section = figures["distribution"]
    found = ours.rows(
        """SELECT piece, probability
           FROM gpt2_next_token(%(prompt)s, NULL, model => %(model)s)""",
        prompt=section["prompt"],
    )
    ends = {
        "likeliest": found[: len(section["likeliest"])],
        "least likely": found[-len(section["least"]) :],
    }
    for (end, rows), name in zip(ends.items(), ("likeliest", "least"), strict=True):
        for i, ((piece, published), (our_piece, probability)) in enumerate(
            zip(section[name], rows, strict=True)
        ):
            yield Row(f"{end}, {i}", [piece], [our_piece])
            yield rounded("  probability", [published], [probability])


def generation(figures: dict, ours: Ours) -> Row:
    section = figures["generation"]
    text = ours.value(
        "SELECT gpt2_generate(%(prompt)s, 10, model => %(model)s)", prompt=section["prompt"]
    )
    return Row("ten tokens, the likeliest each", [section["text"]], [text])
