"""The lines about the model itself: tokens, prompts, logits, buffers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from bench import database
from bench.ours import SPAN, Ours
from bench.reference import Reference
from bench.report import figure
from bench.samples import Line, interleave, progress

TRANSFORMERS = "transformers, float32"

#: texts of one token, for what takes a text
WORD, OTHER_WORD = " table", " index"

#: positions -> rounds; a sample takes longer the longer the context
CONTEXTS = {16: 5, 128: 5, 512: 3, 1000: 3}
PROMPTS = {16: 5, 128: 3, 512: 2}
QUICK_CONTEXTS = {"float32": {16: 2, 128: 1}, "float16": {16: 2}}
QUICK_PROMPTS = {16: 2}


@dataclass
class Run:
    """What all lines share, and the lines that there are so far."""

    dsn: str
    quick: bool
    tokens: list[int] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def add(
        self,
        name: str,
        unit: str,
        ours: list[float],
        reference: list[float] | None = None,
        reference_name: str = "",
        **details,
    ) -> Line:
        """A new line: samples of ours and, where there is one, of the reference."""
        line = Line(name, unit, ours, reference or [], reference_name, details)
        self.lines.append(line)
        medians = [m for m in (line.ours_median, line.reference_median) if m is not None]
        progress(f"  {name}: {' and '.join(map(figure, medians)) or 'n/a'} {unit}")
        return line

    def rounds(self, full: int, quick: int) -> int:
        """How many samples a line has, in this form of the benchmark."""
        return quick if self.quick else full


def random_tokens(n: int) -> list[int]:
    """A text that is the same in each run: with random weights its content is of no matter."""
    rng = random.Random(0)
    return [rng.randrange(50256) for _ in range(n)]


def ms(samples: list[float]) -> list[float]:
    """Seconds in milliseconds."""
    return [1000 * sample for sample in samples]


def around(tokens: list[int], context: int) -> list[int]:
    """The prompt after which SPAN tokens have a mean context of about so many positions."""
    return tokens[: max(1, context - SPAN // 2)]


def model_lines(run: Run) -> None:
    """Every line of a model, for each dtype."""
    reference = Reference(database.CHECKPOINT)
    run.tokens = random_tokens(1024)
    for dtype in database.DTYPES:
        ours = Ours(run.dsn, f"bench_{dtype}")
        tokens = token_lines(run, ours, reference, dtype)
        prompts = prompt_lines(run, ours, reference, dtype)
        logits = logits_line(run, ours, reference, dtype)
        derived_lines(run, dtype, tokens, prompts, logits)
        context = 16 if run.quick else 128
        trace_lines(run, ours, dtype)
        prefix_lines(run, ours, dtype)
        progress(f"buffers touched a token, {dtype}")
        run.add(
            f"buffers touched a token, context {context}, {dtype}",
            "8 kB",
            [ours.blocks(around(run.tokens, context))],
        )
        ours.conn.close()


def token_lines(run: Run, ours: Ours, reference: Reference, dtype: str) -> dict[int, Line]:
    """Milliseconds a generated token, after contexts of several lengths."""
    lines = {}
    contexts = QUICK_CONTEXTS[dtype] if run.quick else CONTEXTS
    for context, rounds in contexts.items():
        progress(f"generated token, context {context}, {dtype}")
        prompt = around(run.tokens, context)
        ours.generate(prompt, 1)  # the warm-up: caches and plans
        reference.token(prompt)
        samples = interleave(lambda: ours.token(prompt), lambda: reference.token(prompt), rounds)
        lines[context] = run.add(
            f"generated token, context {context:,}, {dtype}",
            "ms",
            *map(ms, samples),
            TRANSFORMERS,
        )
    return lines


def prompt_lines(run: Run, ours: Ours, reference: Reference, dtype: str) -> dict[int, Line]:
    """Milliseconds a position of a prompt that is read in one go."""
    lines = {}
    for n, rounds in (QUICK_PROMPTS if run.quick else PROMPTS).items():
        progress(f"prompt of {n}, {dtype}")
        prompt = run.tokens[:n]
        ours.read(prompt[:16])
        reference.read(prompt)
        samples = interleave(
            lambda: ours.read(prompt) / n, lambda: reference.read(prompt) / n, rounds
        )
        lines[n] = run.add(
            f"prompt of {n}, per position, {dtype}", "ms", *map(ms, samples), TRANSFORMERS
        )
    return lines


def trace_lines(run: Run, ours: Ours, dtype: str) -> None:
    """Milliseconds a position of a trace, beside the forward pass that gives the last of all only:
    the reference here is our own."""
    n = 16 if run.quick else 128
    tokens = run.tokens[:n]
    ours.trace(tokens[:16], None)
    for name, hooks in (("one hook", ["attn.hook_pattern"]), ("all hooks", None)):
        progress(f"trace of {n}, {name}, {dtype}")
        samples = interleave(
            lambda: ours.trace(tokens, hooks) / n,
            lambda: ours.trace(tokens, ["ln_final.hook_out"]) / n,
            run.rounds(3, 2),
        )
        run.add(
            f"trace of {n}, {name}, per position, {dtype}",
            "ms",
            *map(ms, samples),
            "the forward pass, gpt2_forward",
        )


def prefix_lines(run: Run, ours: Ours, dtype: str) -> None:
    """Milliseconds until a prompt's first token where all but the last 8 tokens lie in a stored
    prefix, beside the same without; and of a streamed token after it, beside one of
    gpt2_generate, which hands none over."""
    n = 32 if run.quick else 128
    progress(f"prefix of {n}, {dtype}")
    stored = WORD * (n - SPAN // 2)
    ours.keep_prefix(stored)
    prompt = stored + OTHER_WORD * (SPAN // 2)
    samples = interleave(
        lambda: ours.first_token(prompt, True),
        lambda: ours.first_token(prompt, False),
        run.rounds(3, 1),
    )
    run.add(
        f"first token of a prompt of {n}, with a prefix, {dtype}",
        "ms",
        *map(ms, samples),
        "without the prefix",
    )
    samples = interleave(
        lambda: ours.public_token("gpt2_stream", stored),
        lambda: ours.public_token("gpt2_generate", stored),
        run.rounds(3, 1),
    )
    run.add(f"streamed token, context {n}, {dtype}", "ms", *map(ms, samples), "gpt2_generate")


def logits_line(run: Run, ours: Ours, reference: Reference, dtype: str) -> Line:
    """Milliseconds for the logits of one position: a scan of wte."""
    progress(f"logits, {dtype}")
    ours.keep_activation(run.tokens[:4])
    ours.logits()
    reference.logits()
    samples = interleave(ours.logits, reference.logits, run.rounds(9, 5))
    return run.add(f"logits of a position, {dtype}", "ms", *map(ms, samples), TRANSFORMERS)


def derived_lines(
    run: Run, dtype: str, tokens: dict[int, Line], prompts: dict[int, Line], logits: Line
) -> None:
    """Ratios of medians above: how time grows with the context, what reading in one go saves."""
    short, long = min(tokens), max(tokens)
    if long > short:
        run.add(
            f"growth: token at {long:,} / at {short}, {dtype}",
            "x",
            [tokens[long].ours_median / tokens[short].ours_median],
            [tokens[long].reference_median / tokens[short].reference_median],
            TRANSFORMERS,
        )
    n = 16 if run.quick else 128
    run.add(
        f"prompt position / token less its logits, at {n}, {dtype}",
        "x",
        [prompts[n].ours_median / (tokens[n].ours_median - logits.ours_median)],
        [prompts[n].reference_median / (tokens[n].reference_median - logits.reference_median)],
        TRANSFORMERS,
    )
