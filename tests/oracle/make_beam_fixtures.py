"""Writes tests/oracle/beam.npz: what transformers' beam search finds.

Usage: build/venv/bin/python tests/oracle/make_beam_fixtures.py  (needs the dependency group oracle)

A row a search: model, arguments [beams, max_tokens, length_penalty], options (the processors, JSON,
named as gpt2_beam_search's arguments; `sequence_bias` is logit_bias with sequences of tokens for
keys), prompt and tokens (-1 behind their end), score, steps (0 where there is one beam, as
transformers then searches greedily) and, of the first N_STEPS steps, cumulative
[N_STEPS, 2 * beams], NaN behind the end and where fewer tokens are possible.

The first rows have no options, the others some at random, by which they find another text.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import torch
from checkpoints import BEAM_MODELS, SHAPES, write_checkpoint
from make_fixtures import LEAST_GAP
from transformers import GPT2LMHeadModel, LogitsProcessorList, PrefixConstrainedLogitsProcessor
from transformers_reference import greedy

BEAMS = (1, 2, 4, 7)
LENGTH_PENALTIES = (0, 1, 2, -1)
MAX_TOKENS = (12, 40, 3, 25, 7, 1, 33)
N_STEPS = 4
#: of the searches with options; with one beam transformers' processors work on logits
PROCESSED = tuple(product((2, 4, 7), LENGTH_PENALTIES[:3]))

#: lengths of prompts; the searches reach the end of the short context
LENGTHS = {
    "narrow_mlp": (1, 5, 12),
    "odd_widths": (2, 16, 30),
    "untied": (3, 12, 17),
    "short_context": (12, 20, 31),
    "demo": (1, 4, 9),
}
DEMO = Path(__file__).parents[2] / "tests" / "models" / "manual"


def real(scores: torch.Tensor) -> torch.Tensor:
    """Without those that stand for none: -1e9 and what was added to it, and -inf."""
    return scores[scores > -1e8]


def gap(scores: torch.Tensor, n: int) -> float:
    """How much the n-th is better than the next."""
    return float(scores[n - 1] - scores[n]) if len(scores) > n else math.inf


def generate_arguments(options: dict, end: int) -> dict:
    """The options in the words of transformers' generate()."""
    result = {
        name: options[name]
        for name in ("repetition_penalty", "no_repeat_ngram_size")
        if name in options
    }
    if "min_tokens" in options:
        result["min_new_tokens"] = options["min_tokens"]
    biases = options.get("sequence_bias", []) + [
        [[int(key)], value] for key, value in options.get("logit_bias", {}).items()
    ]
    if biases:
        result["sequence_bias"] = {
            tuple(tokens): -math.inf if value is False else value for tokens, value in biases
        }
    banned = options.get("banned_tokens", []) + [end] * options.get("ignore_eos", False)
    if banned:
        result["suppress_tokens"] = banned
    if "allowed_tokens" in options:
        result["prefix_allowed_tokens_fn"] = lambda *_: options["allowed_tokens"]
    return result


class Constrained(PrefixConstrainedLogitsProcessor):
    """Notes whether no beam had a token left: transformers then allows what is not possible, where
    we say that none is."""

    forced = False

    def __call__(self, input_ids, scores):
        result = super().__call__(input_ids, scores)
        self.forced |= bool((result > scores).any())
        return result


class Observed(GPT2LMHeadModel):
    """Its beam search notes how close it came to another result, and what it looked at."""

    def _get_logits_processor(self, *arguments, **named):
        steps = super()._get_logits_processor(*arguments, **named)
        self.processors = LogitsProcessorList(
            Constrained(step._prefix_allowed_tokens_fn, step._num_beams)
            if isinstance(step, PrefixConstrainedLogitsProcessor)
            else step
            for step in steps
        )
        return self.processors

    def _get_top_k_continuations(self, **arguments):
        result = super()._get_top_k_continuations(**arguments)
        beams = arguments["num_beams"]
        best, index = arguments["accumulated_log_probs"][0].topk(3 * beams)
        ends = index % self.config.vocab_size == self.config.eos_token_id
        self.gaps += [gap(real(best), beams), gap(real(best[~ends]), beams)]
        seen = real(result[0][0]).numpy()
        if len(seen):
            self.cumulative.append(seen)
        return result

    def _update_finished_beams(self, **arguments):
        result = super()._update_finished_beams(**arguments)
        scores = torch.cat(
            [
                arguments["beam_scores"][0],
                (
                    arguments["topk_log_probs"][0]
                    / (arguments["cur_len"] + 1 - arguments["decoder_prompt_len"])
                    ** arguments["length_penalty"]
                )[
                    arguments["next_token_hits_stopping_criteria"][0]
                    & arguments["top_num_beam_mask"]
                ],
            ]
        )
        scores = real(scores).sort(descending=True).values
        self.score_gaps = (scores[:-1] - scores[1:]).tolist()
        beams = arguments["num_beams"]
        if len(scores) > beams:
            self.gaps.append(self.score_gaps[beams - 1])
        return result

    def _check_early_stop_heuristic(self, **arguments):
        if arguments["is_sent_finished"].all():
            length = arguments["cur_len"] - arguments["decoder_prompt_len"]
            best = arguments["running_beam_scores"][0, 0] / length ** arguments["length_penalty"]
            if best > -1e8:
                self.gaps.append(abs(float(best - arguments["beam_scores"].min())))
        return super()._check_early_stop_heuristic(**arguments)

    @torch.inference_mode()
    def search(
        self, prompt: list[int], beams: int, max_tokens: int, length_penalty: float, options: dict
    ):
        """(tokens, score, cumulative of each step, the least gap on the way); no tokens where none
        are possible up to an end."""
        self.gaps, self.cumulative, self.score_gaps = [], [], []
        n = min(max_tokens, self.config.n_positions - len(prompt))
        ids = torch.tensor([prompt])
        out = self.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=n,
            length_penalty=float(length_penalty),
            early_stopping=False,
            pad_token_id=self.config.eos_token_id,
            return_dict_in_generate=True,
            output_scores=True,
            **generate_arguments(options, self.config.eos_token_id),
        )
        forced = any(getattr(step, "forced", False) for step in self.processors)
        if forced or (beams > 1 and out.sequences_scores[0] < -1e8):
            return [], -math.inf, self.cumulative, math.inf
        text = out.sequences[0].tolist()
        tokens = text[len(prompt) :]
        logprobs = torch.log_softmax(self(torch.tensor([text])).logits[0].double(), -1)
        score = 0.0
        for i, token in enumerate(tokens, len(prompt)):
            # a row a beam, as the processors were made for that many
            score += float(
                self.processors(
                    torch.tensor([text[:i]] * beams), logprobs[i - 1 : i].repeat(beams, 1)
                )[0, token]
            )
        score /= len(tokens) ** length_penalty
        if beams == 1:
            self.gaps.append(greedy(self, prompt, n)[1])
        else:
            assert abs(score - float(out.sequences_scores[0])) < 1e-4 * max(1, abs(score))
            # the winner and the second
            self.gaps += self.score_gaps[:1]
        return tokens, score, self.cumulative, min(self.gaps)


def padded(rows: list, shape: tuple[int, ...], fill: float, dtype: type) -> np.ndarray:
    result = np.full((len(rows), *shape), fill, dtype)
    for to, row in zip(result, rows, strict=False):
        for at, value in enumerate(row):
            to[at] = value
    return result


def random_options(
    random: np.random.RandomState, found: list[int], max_tokens: int, end: int
) -> dict:
    """Processors, many of which speak of the tokens that are found without them."""
    some = lambda n: random.choice(found, n).tolist()  # noqa: E731
    ids = lambda n: random.choice(end, n, replace=False).tolist()  # noqa: E731
    eighths = lambda: random.randint(-40, 41) / 8  # noqa: E731  exact in float32
    at = random.randint(len(found))
    options = {
        "repetition_penalty": round(random.uniform(0.6, 2), 2),
        "no_repeat_ngram_size": int(random.randint(1, 4)),
        "logit_bias": {str(token): eighths() for token in some(2) + ids(3)}
        | {str(some(1)[0]): False},
        "sequence_bias": [
            [found[at : at + 2], eighths()],
            [found[at : at + 3], False],
            [ids(1), eighths()],
            [some(1) + ids(1), eighths()],
            [[end], eighths()],
        ],
        "banned_tokens": some(random.randint(1, 4)) + ids(3),
        # fewer than a search looks at, or more; some cannot end
        "allowed_tokens": [
            *{*some(2), *ids(random.choice([2, 6, 30, 150])), *[end][: random.randint(2)]}
        ],
        "min_tokens": int(random.randint(1, max_tokens + 1)),
        "ignore_eos": True,
    }
    chosen = {name: value for name, value in options.items() if random.rand() < 0.4}
    if "sequence_bias" in chosen:
        chosen.pop("logit_bias", None)
        # of equal sequences one would count
        chosen["sequence_bias"] = [
            [list(tokens), value]
            for tokens, value in {
                tuple(tokens): value for tokens, value in chosen["sequence_bias"]
            }.items()
        ]
    return chosen


def processed_rows(
    model: Observed, name: str, random: np.random.RandomState, lengths: tuple[int, ...]
) -> list[tuple]:
    rows, end, used = [], model.config.eos_token_id, Counter()
    for i, (beams, length_penalty) in enumerate(PROCESSED):
        max_tokens = MAX_TOKENS[i % len(MAX_TOKENS)]
        for _ in range(1000):
            prompt = random.randint(0, end, size=lengths[i % len(lengths)]).tolist()
            arguments = prompt, beams, max_tokens, length_penalty
            found, *_ = model.search(*arguments, {})
            options = random_options(random, found, max_tokens, end)
            tokens, score, cumulative, least = model.search(*arguments, options)
            if least > LEAST_GAP and tokens and tokens != found:
                break
        else:
            raise SystemExit(f"{name}: no prompt without near ties")
        used.update(list(options))
        rows.append(
            (
                name,
                [beams, max_tokens, length_penalty],
                json.dumps(options),
                prompt,
                tokens,
                score,
                len(cumulative),
                [padded([c], (14,), np.nan, np.float32)[0] for c in cumulative[:N_STEPS]],
            )
        )
    print(f"{name:14}", dict(used))
    return rows


def main() -> None:
    rows: list[tuple] = []
    processed: list[tuple] = []
    for number, (name, lengths) in enumerate(LENGTHS.items()):
        random = np.random.RandomState(number)
        with tempfile.TemporaryDirectory() as directory:
            source = (
                DEMO
                if name == "demo"
                else write_checkpoint(Path(directory), SHAPES[name], *BEAM_MODELS[name])
            )
            model = Observed.from_pretrained(
                source, dtype=torch.float32, attn_implementation="eager"
            ).eval()
        model.generation_config.bos_token_id = model.generation_config.eos_token_id = (
            model.config.eos_token_id
        )
        seen: Counter = Counter()
        for i, (beams, length_penalty) in enumerate(product(BEAMS, LENGTH_PENALTIES)):
            max_tokens = MAX_TOKENS[(i + number) % len(MAX_TOKENS)]
            for _ in range(100):
                prompt = random.randint(
                    0, model.config.eos_token_id, size=lengths[i % len(lengths)]
                ).tolist()
                tokens, score, cumulative, least = model.search(
                    prompt, beams, max_tokens, length_penalty, {}
                )
                if least > LEAST_GAP:
                    break
            else:
                raise SystemExit(f"{name}: no prompt without near ties")
            steps, n = len(cumulative), min(max_tokens, model.config.n_positions - len(prompt))
            ended = tokens[-1] == model.config.eos_token_id
            seen["stopped early"] += steps and steps < n
            seen["ended before the last step"] += ended and len(tokens) < max(steps, 2)
            seen["ended"] += ended
            seen["at max_tokens"] += len(tokens) == max_tokens
            seen["at the context's end"] += len(tokens) == n < max_tokens
            rows.append(
                (
                    name,
                    [beams, max_tokens, length_penalty],
                    "{}",
                    prompt,
                    tokens,
                    score,
                    steps,
                    [padded([c], (14,), np.nan, np.float32)[0] for c in cumulative[:N_STEPS]],
                )
            )
        print(f"{name:14}", dict(seen))
        processed += processed_rows(model, name, np.random.RandomState(100 + number), lengths)
    names, arguments, options, prompts, tokens, scores, steps, cumulative = zip(
        *rows, *processed, strict=False
    )
    np.savez_compressed(
        Path(__file__).with_name("beam.npz"),
        model=np.array(names),
        arguments=np.array(arguments, np.int32),
        options=np.array(options),
        prompt=padded(prompts, (31,), -1, np.int32),
        tokens=padded(tokens, (40,), -1, np.int32),
        score=np.array(scores),
        steps=np.array(steps, np.int32),
        cumulative=padded(cumulative, (N_STEPS, 14), np.nan, np.float32),
    )


if __name__ == "__main__":
    main()
