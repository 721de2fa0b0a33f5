"""Writes tests/oracle/sampling.npz: what transformers makes of logits, and llama.cpp of the options
that transformers does not have: two penalties, top_n_sigma and xtc.

Usage: build/venv/bin/python tests/oracle/make_sampling_fixtures.py   (needs the group `sampling`)

logits       [n_sets, N_VOCAB]: float32
cases        a JSON list: which logits, the tokens so far and how many of them are the prompt, and
             the options, named as gpt2._sampling's arguments; `sequence_bias` is logit_bias with
             sequences of tokens for keys, `among` what a caller's constraint allows
change       [n_cases, N_VOCAB]: logits after all processors minus before, float64
probability  [n_cases, N_VOCAB]: softmax after all warpers, 0 where a token is not kept

There are two parts: the options of transformers and the penalties, then those with top_n_sigma and
xtc. The first cases of a part have one option each, or the few that belong together, and are
computed by their classes alone; in the others, options at random, the classes and their order are
those of transformers' own _get_logits_processor(), with llama.cpp's top_n_sigma before top_k and
its xtc at the end. xtc_probability is 1 or 0 there, so that no chance plays a part.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as p

N_VOCAB, EOS, N_TEXT = 256, 255, 48
#: random cases of the two parts
N_RANDOM, N_RANDOM_LLAMA = 200, 80
FOLDER = Path(__file__).parent


# ---- llama.cpp


class TokenData(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float)]


class TokenDataArray(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.POINTER(TokenData)),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    ]


def llama() -> ctypes.CDLL:
    """The C interface of llama.cpp, in the compiled module of xllamacpp."""
    origin = importlib.util.find_spec("xllamacpp").origin
    library = ctypes.CDLL(str(next(Path(origin).parent.glob("*.so"))))
    for name, arguments in {
        # n_vocab, last_n, repeat, frequency, presence
        "penalties": [ctypes.c_int32] * 2 + [ctypes.c_float] * 3,
        "top_n_sigma": [ctypes.c_float],
        # probability, threshold, min_keep, seed
        "xtc": [ctypes.c_float] * 2 + [ctypes.c_size_t, ctypes.c_uint32],
    }.items():
        init = getattr(library, f"llama_sampler_init_{name}")
        init.restype, init.argtypes = ctypes.c_void_p, arguments
    library.llama_sampler_accept.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.llama_sampler_apply.argtypes = [ctypes.c_void_p, ctypes.POINTER(TokenDataArray)]
    library.llama_sampler_free.argtypes = [ctypes.c_void_p]
    return library


LIBRARY = llama()


def apply(sampler: int, logits: dict[int, float]) -> dict[int, float]:
    """Tokens and logits that a sampler leaves, in its own precision, float32; frees it."""
    data = (TokenData * len(logits))(*(TokenData(i, logit, 0) for i, logit in logits.items()))
    array = TokenDataArray(data, len(logits), -1, False)
    LIBRARY.llama_sampler_apply(sampler, ctypes.byref(array))
    LIBRARY.llama_sampler_free(sampler)
    return {entry.id: entry.logit for entry in array.data[: array.size]}


class Penalties(p.LogitsProcessor):
    """Frequency and presence penalty of llama.cpp."""

    def __init__(self, frequency: float, presence: float):
        self.penalties = (frequency, presence)

    def __call__(self, input_ids, scores):
        tokens = input_ids[0].tolist()
        sampler = LIBRARY.llama_sampler_init_penalties(N_VOCAB, len(tokens), 1.0, *self.penalties)
        for token in tokens:
            LIBRARY.llama_sampler_accept(sampler, token)
        result = scores.clone()
        for token, logit in apply(sampler, dict(enumerate(scores[0].tolist()))).items():
            if logit != np.float32(scores[0, token].item()):  # where something is subtracted
                result[0, token] = logit
        return result


class LlamaWarper(p.LogitsProcessor):
    """A filter of llama.cpp; it sees the tokens that are possible and no others, as after its own
    filters, which take the others away."""

    def __init__(self, name: str, *arguments: float):
        self.init = lambda: getattr(LIBRARY, f"llama_sampler_init_{name}")(*arguments)

    def kept(self, scores) -> list[int]:
        possible = {
            token: score for token, score in enumerate(scores[0].tolist()) if score > -math.inf
        }
        return sorted(
            token for token, logit in apply(self.init(), possible).items() if logit > -math.inf
        )

    def __call__(self, input_ids, scores):
        result = torch.full_like(scores, -math.inf)
        kept = self.kept(scores)
        result[0, kept] = scores[0, kept]
        return result


class TopNSigmaWarper(LlamaWarper):
    def __init__(self, n: float):
        super().__init__("top_n_sigma", n)

    def __call__(self, input_ids, scores):
        # a standard deviation scales as the logits do: the temperature changes nothing
        for temperature in (0.5, 2, 3):
            assert self.kept(scores / temperature) == self.kept(scores)
        return super().__call__(input_ids, scores)


class XtcWarper(LlamaWarper):
    def __init__(self, options: dict):
        # 0.1 is its default in llama.cpp's programs, and ours
        super().__init__(
            "xtc", options.get("xtc_probability", 0), options.get("xtc_threshold", 0.1), 1, 0
        )


# ---- transformers


def biases(options: dict) -> dict[tuple, float]:
    given = options.get("sequence_bias") or [
        [[int(key)], value] for key, value in options["logit_bias"].items()
    ]
    return {tuple(tokens): -math.inf if value is False else float(value) for tokens, value in given}


def allowed(options: dict) -> list[int]:
    lists = [set(options[name]) for name in ("allowed_tokens", "among") if name in options]
    return sorted(set.intersection(*lists))


def own_classes(options: dict, n_prompt: int) -> list:
    """The processors of the options that are there, in their order."""
    return [
        one_class(name, value, options, n_prompt)
        for name, value in options.items()
        if name != "xtc_probability" or "xtc_threshold" not in options
    ]


def one_class(name: str, value: object, options: dict, n_prompt: int) -> p.LogitsProcessor:
    return {
        "logit_bias": lambda: p.SequenceBiasLogitsProcessor(biases(options)),
        "sequence_bias": lambda: p.SequenceBiasLogitsProcessor(biases(options)),
        "repetition_penalty": lambda: p.RepetitionPenaltyLogitsProcessor(float(value)),
        "frequency_penalty": lambda: Penalties(value, 0),
        "presence_penalty": lambda: Penalties(0, value),
        "no_repeat_ngram_size": lambda: p.NoRepeatNGramLogitsProcessor(value),
        "min_tokens": lambda: p.MinNewTokensLengthLogitsProcessor(n_prompt, value, EOS),
        "ignore_eos": lambda: p.SuppressTokensLogitsProcessor([EOS]),
        "banned_tokens": lambda: p.SuppressTokensLogitsProcessor(value),
        "allowed_tokens": lambda: p.PrefixConstrainedLogitsProcessor(lambda *_: value, 1),
        "among": lambda: p.PrefixConstrainedLogitsProcessor(lambda *_: value, 1),
        "temperature": lambda: p.TemperatureLogitsWarper(float(value)),
        "top_k": lambda: p.TopKLogitsWarper(value),
        "top_p": lambda: p.TopPLogitsWarper(value),
        "min_p": lambda: p.MinPLogitsWarper(value),
        "typical_p": lambda: p.TypicalLogitsWarper(value),
        "top_n_sigma": lambda: TopNSigmaWarper(value),
        "xtc_probability": lambda: XtcWarper(options),
        "xtc_threshold": lambda: XtcWarper(options),
    }[name]()


def all_classes(model: GPT2LMHeadModel, options: dict, n_prompt: int) -> list:
    """The processors and warpers of the options, as generate() makes them, and llama.cpp's."""
    config = GenerationConfig(
        do_sample=True,
        num_beams=1,
        num_return_sequences=1,
        eos_token_id=EOS,
        temperature=float(options["temperature"]),
        top_k=options.get("top_k", 0),
        repetition_penalty=options.get("repetition_penalty"),
        no_repeat_ngram_size=options.get("no_repeat_ngram_size"),
        min_new_tokens=options.get("min_tokens"),
        **{name: options[name] for name in ("top_p", "min_p", "typical_p") if name in options},
    )
    if "logit_bias" in options or "sequence_bias" in options:
        config.sequence_bias = biases(options)
    banned = options.get("banned_tokens", []) + [EOS] * options.get("ignore_eos", False)
    config.suppress_tokens = banned or None
    config._eos_token_tensor = torch.tensor([EOS])
    own = [Penalties(options.get("frequency_penalty", 0), options.get("presence_penalty", 0))]
    classes = list(
        model._get_logits_processor(
            config,
            n_prompt,
            logits_processor=p.LogitsProcessorList(own),
            device="cpu",
            prefix_allowed_tokens_fn=(lambda *_: allowed(options))
            if "allowed_tokens" in options or "among" in options
            else None,
        )
    )
    if "top_n_sigma" in options:
        before = sum(
            not is_warper(step) or isinstance(step, p.TemperatureLogitsWarper) for step in classes
        )
        classes.insert(before, TopNSigmaWarper(options["top_n_sigma"]))
    return classes + [XtcWarper(options)]


def is_warper(step: p.LogitsProcessor) -> bool:
    return type(step).__name__.endswith("Warper")


def run(classes: list, tokens: list[int], logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits before the warpers, which only sampling has, and probabilities after them."""
    ids = torch.tensor([tokens])
    scores = torch.tensor(logits, dtype=torch.float64)[None]
    for step in (step for step in classes if not is_warper(step)):
        scores = step(ids, scores)
    processed = scores[0].numpy().copy()
    for step in filter(is_warper, classes):
        scores = step(ids, scores)
    return processed, torch.softmax(scores, -1)[0].numpy()


# ---- The cases


def text(random: np.random.RandomState) -> list[int]:
    """Tokens of which many repeat, also in sequences."""
    few = random.randint(0, N_VOCAB - 1, 9)
    tokens = random.choice(few, N_TEXT).tolist()
    return tokens + tokens[5:8] + tokens[7:8] * random.randint(4)


def single_options(tokens: list[int]) -> list[dict]:
    last, before = tokens[-1], tokens[-2]
    return [
        {name: value}
        for name, values in {
            "logit_bias": [{"7": 5}, {"3": -2.5, "200": False, str(EOS): 100}],
            "sequence_bias": [
                [[[before, last, 9], 4.5], [[last, 9], 2], [[9], -1], [[last + 1, 9], 50]],
                [[[last, 11], False], [[before + 1, last, 12], False], [[13], 0.25]],
                [[tokens + [0], 3], [[1] + tokens + [1], 3], [tokens[1:] + [2], -3]],
            ],
            "repetition_penalty": [1.3, 0.6, 10.0],
            "frequency_penalty": [0.5, -1.25, 2],
            "presence_penalty": [0.75, -0.5],
            "no_repeat_ngram_size": [1, 2, 3, 4, len(tokens), len(tokens) + 1, 1000],
            "min_tokens": [1, len(tokens) // 2, 1000],
            "ignore_eos": [True],
            "banned_tokens": [[5], list(range(0, N_VOCAB, 2)), [EOS, 5, 5]],
            "allowed_tokens": [[5], [9, 3, 3, EOS], list(range(1, N_VOCAB, 2))],
            "among": [[5], [9, 3, 250]],
            "temperature": [0.1, 0.5, 2.0, 100.0],
            "top_k": [1, 2, 50, N_VOCAB, 100000],
            "top_p": [1e-9, 0.1, 0.5, 0.9, 0.99, 0.999999],
            "min_p": [1e-6, 0.01, 0.2, 0.9],
            "typical_p": [1e-9, 0.1, 0.5, 0.9, 0.99, 0.999999],
        }.items()
        for value in values
    ]


def single_options_llama(tokens: list[int]) -> list[dict]:
    sigmas, thresholds = (0, 0.5, 1, 3, 100), (0, 0.01, 0.1, 0.3, 0.5, 0.9)
    return [
        *({"top_n_sigma": n} for n in sigmas),
        *({"temperature": t, "top_n_sigma": n} for t in (0.2, 3.5) for n in sigmas),
        {"xtc_probability": 0},
        {"xtc_threshold": 0},
        # the logits are another set each time, flatter ones and steeper
        *[{"xtc_probability": 1}] * 5,
        *({"xtc_probability": 1, "xtc_threshold": t} for t in thresholds),
        *(
            {"temperature": t, "xtc_probability": 1, "xtc_threshold": threshold}
            for t in (0.1, 0.3, 0.7, 2.5)
            for threshold in thresholds
        ),
    ]


def random_options(random: np.random.RandomState, tokens: list[int]) -> dict:
    last = tokens[-1]
    ids = lambda n: random.choice(N_VOCAB, n, replace=False).tolist()  # noqa: E731
    eighths = lambda: random.randint(-40, 41) / 8  # noqa: E731  exact in float32
    options = {
        "logit_bias": {str(i): eighths() for i in ids(5)},
        "sequence_bias": [
            [[last, ids(1)[0]], eighths()],
            [ids(1), eighths()],
            [[ids(1)[0], ids(1)[0]], eighths()],
            [[*tokens[-2:], EOS], False],
        ],
        "repetition_penalty": round(random.uniform(0.5, 2), 2),
        "frequency_penalty": eighths() / 4,
        "presence_penalty": eighths() / 4,
        "no_repeat_ngram_size": int(random.randint(1, 5)),
        "min_tokens": int(random.randint(0, N_TEXT)),
        "ignore_eos": True,
        "banned_tokens": ids(random.randint(1, 60)),
        "allowed_tokens": ids(random.randint(1, 200)),
        "among": ids(random.randint(1, 200)),
        "temperature": round(random.uniform(0.3, 2), 2),
        "top_k": int(random.randint(1, N_VOCAB)),
        "top_p": round(random.uniform(0.05, 0.999), 3),
        "min_p": round(random.uniform(0, 0.2), 3),
        "typical_p": round(random.uniform(0.05, 0.99), 2),
    }
    chosen = {name: value for name, value in options.items() if random.rand() < 0.4}
    chosen.setdefault("temperature", 1)
    if "sequence_bias" in chosen:
        chosen.pop("logit_bias", None)
    return chosen


def random_options_llama(random: np.random.RandomState, tokens: list[int]) -> dict:
    chosen = random_options(random, tokens)
    options = {
        "top_n_sigma": round(random.uniform(0, 4), 2),
        "xtc_probability": int(random.rand() < 0.9),
        "xtc_threshold": round(10 ** random.uniform(-3, -0.3), 4),
    }
    return chosen | {name: value for name, value in options.items() if random.rand() < 0.75}


def make_plan(
    random: np.random.RandomState, singles: Callable, at_random: Callable, n_random: int
) -> list[dict]:
    tokens = text(random)
    plan = [{"tokens": tokens, "options": options, "single": True} for options in singles(tokens)]
    for _ in range(n_random):
        tokens = text(random)
        plan.append({"tokens": tokens, "options": at_random(random, tokens), "single": False})
    return [step | {"n_prompt": int(random.randint(1, N_TEXT))} for step in plan]


def main() -> None:
    random = np.random.RandomState(1)
    logits = np.stack([random.normal(0, scale, N_VOCAB) for scale in (0.3, 1, 2, 3, 6)]).astype(
        np.float32
    )
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=N_VOCAB, n_embd=8, n_layer=1, n_head=1, bos_token_id=EOS, eos_token_id=EOS
        )
    )
    # the parts have random numbers of their own, so that the cases of the first stay as they are
    plan = make_plan(random, single_options, random_options, N_RANDOM) + make_plan(
        np.random.RandomState(2), single_options_llama, random_options_llama, N_RANDOM_LLAMA
    )
    cases, changes, probabilities, in_effect = [], [], [], Counter()
    for i, step in enumerate(plan):
        tokens, options = step["tokens"], step["options"]
        single = step.pop("single")
        case = {"logits": i % len(logits), **step}
        before = logits[case["logits"]].astype(np.float64)
        classes = (
            own_classes(options, case["n_prompt"])
            if single
            else all_classes(model, options, case["n_prompt"])
        )
        lists = [name for name in ("allowed_tokens", "among") if name in options]
        if not single and lists:
            # where none is left transformers allows what is not possible; we say that none is
            if not allowed(options):
                continue
            rest, _ = run(
                [
                    step
                    for step in classes
                    if not isinstance(step, p.PrefixConstrainedLogitsProcessor)
                ],
                tokens,
                before,
            )
            if np.isneginf(rest[allowed(options)]).all():
                continue
        after, probability = run(classes, tokens, before)
        for warper in (TopNSigmaWarper, XtcWarper):
            without = [other for other in classes if not isinstance(other, warper)]
            in_effect[warper.__name__] += not single and bool(
                (run(without, tokens, before)[1] != probability).any()
            )
        cases.append(case)
        changes.append(after - before)
        probabilities.append(probability)
    np.savez_compressed(
        FOLDER / "sampling.npz",
        logits=logits,
        cases=json.dumps(cases),
        change=np.stack(changes),
        probability=np.stack(probabilities),
    )
    print(f"{len(cases)} cases; in company these have an effect: {dict(in_effect)}")


if __name__ == "__main__":
    main()
