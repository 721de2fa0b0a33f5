"""Writes tests/oracle/sampling.npz: what transformers makes of logits, and llama.cpp of penalties.

Usage: build/venv/bin/python tests/oracle/make_sampling_fixtures.py   (needs the group `sampling`)

logits       [n_sets, N_VOCAB]: float32
cases        a JSON list: which logits, the tokens so far and how many of them are the prompt, and
             the options, named as gpt2._sampling's arguments; `sequence_bias` is logit_bias with
             sequences of tokens for keys, `among` what a caller's constraint allows
change       [n_cases, N_VOCAB]: logits after all processors minus before, float64
probability  [n_cases, N_VOCAB]: softmax after all warpers, 0 where a token is not kept

The first cases have one option each and are computed by its class alone; in the others, options at
random, the classes and their order are those of transformers' own _get_logits_processor().
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation import logits_process as p

N_VOCAB, EOS, N_TEXT, N_RANDOM = 256, 255, 48, 200
FOLDER = Path(__file__).parent


# ---- llama.cpp's penalties


class TokenData(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float)]


class TokenDataArray(ctypes.Structure):
    _fields_ = [("data", ctypes.POINTER(TokenData)), ("size", ctypes.c_size_t),
                ("selected", ctypes.c_int64), ("sorted", ctypes.c_bool)]


def llama() -> ctypes.CDLL:
    """The C interface of llama.cpp, in the compiled module of xllamacpp."""
    origin = importlib.util.find_spec("xllamacpp").origin
    library = ctypes.CDLL(str(next(Path(origin).parent.glob("*.so"))))
    library.llama_sampler_init_penalties.restype = ctypes.c_void_p
    library.llama_sampler_init_penalties.argtypes = (
        [ctypes.c_int32] * 2 + [ctypes.c_float] * 3)  # n_vocab, last_n, repeat, frequency, presence
    library.llama_sampler_accept.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.llama_sampler_apply.argtypes = [ctypes.c_void_p, ctypes.POINTER(TokenDataArray)]
    library.llama_sampler_free.argtypes = [ctypes.c_void_p]
    return library


class Penalties(p.LogitsProcessor):
    """Frequency and presence penalty of llama.cpp, which transformers does not have."""

    library = llama()

    def __init__(self, frequency: float, presence: float):
        self.penalties = (frequency, presence)

    def __call__(self, input_ids, scores):
        tokens = input_ids[0].tolist()
        sampler = self.library.llama_sampler_init_penalties(
            N_VOCAB, len(tokens), 1.0, *self.penalties)
        for token in tokens:
            self.library.llama_sampler_accept(sampler, token)
        data = (TokenData * N_VOCAB)(*(
            TokenData(i, score, 0) for i, score in enumerate(scores[0].tolist())))
        array = TokenDataArray(data, N_VOCAB, -1, False)
        self.library.llama_sampler_apply(sampler, ctypes.byref(array))
        self.library.llama_sampler_free(sampler)
        result = scores.clone()
        for entry in data:  # in its own precision, float32, where nothing is subtracted
            if entry.logit != np.float32(scores[0, entry.id].item()):
                result[0, entry.id] = entry.logit
        return result


# ---- transformers


def biases(options: dict) -> dict[tuple, float]:
    given = options.get("sequence_bias") or [
        [[int(key)], value] for key, value in options["logit_bias"].items()]
    return {tuple(tokens): -math.inf if value is False else float(value)
            for tokens, value in given}


def allowed(options: dict) -> list[int]:
    lists = [set(options[name]) for name in ("allowed_tokens", "among") if name in options]
    return sorted(set.intersection(*lists))


def one_class(options: dict, n_prompt: int) -> list:
    """The processor of the option that is there."""
    (name, value), = options.items()
    return [{
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
    }[name]()]


def all_classes(model: GPT2LMHeadModel, options: dict, n_prompt: int) -> list:
    """The processors and warpers of the options, as generate() makes them."""
    config = GenerationConfig(
        do_sample=True, num_beams=1, num_return_sequences=1, eos_token_id=EOS,
        temperature=float(options["temperature"]), top_k=options.get("top_k", 0),
        repetition_penalty=options.get("repetition_penalty"),
        no_repeat_ngram_size=options.get("no_repeat_ngram_size"),
        min_new_tokens=options.get("min_tokens"),
        **{name: options[name] for name in ("top_p", "min_p", "typical_p") if name in options})
    if "logit_bias" in options or "sequence_bias" in options:
        config.sequence_bias = biases(options)
    banned = options.get("banned_tokens", []) + [EOS] * options.get("ignore_eos", False)
    config.suppress_tokens = banned or None
    config._eos_token_tensor = torch.tensor([EOS])
    own = [Penalties(options.get("frequency_penalty", 0), options.get("presence_penalty", 0))]
    return model._get_logits_processor(
        config, n_prompt, logits_processor=p.LogitsProcessorList(own), device="cpu",
        prefix_allowed_tokens_fn=(lambda *_: allowed(options))
        if "allowed_tokens" in options or "among" in options else None)


def run(classes: list, tokens: list[int], logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits before the warpers, which only sampling has, and probabilities after them."""
    ids = torch.tensor([tokens])
    scores = torch.tensor(logits, dtype=torch.float64)[None]
    for step in (step for step in classes if not type(step).__name__.endswith("Warper")):
        scores = step(ids, scores)
    processed = scores[0].numpy().copy()
    for step in (step for step in classes if type(step).__name__.endswith("Warper")):
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
    return [{name: value} for name, values in {
        "logit_bias": [{"7": 5}, {"3": -2.5, "200": False, str(EOS): 100}],
        "sequence_bias": [
            [[[before, last, 9], 4.5], [[last, 9], 2], [[9], -1], [[last + 1, 9], 50]],
            [[[last, 11], False], [[before + 1, last, 12], False], [[13], 0.25]],
            [[tokens + [0], 3], [[1] + tokens + [1], 3], [tokens[1:] + [2], -3]]],
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
    }.items() for value in values]


def random_options(random: np.random.RandomState, tokens: list[int]) -> dict:
    last = tokens[-1]
    ids = lambda n: random.choice(N_VOCAB, n, replace=False).tolist()  # noqa: E731
    eighths = lambda: random.randint(-40, 41) / 8  # noqa: E731  exact in float32
    options = {
        "logit_bias": {str(i): eighths() for i in ids(5)},
        "sequence_bias": [[[last, ids(1)[0]], eighths()], [ids(1), eighths()],
                          [[ids(1)[0], ids(1)[0]], eighths()], [[*tokens[-2:], EOS], False]],
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


def main() -> None:
    random = np.random.RandomState(1)
    logits = np.stack([random.normal(0, scale, N_VOCAB) for scale in (0.3, 1, 2, 3, 6)]).astype(
        np.float32)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=N_VOCAB, n_embd=8, n_layer=1, n_head=1,
                                       bos_token_id=EOS, eos_token_id=EOS))
    tokens = text(random)
    plan = [(options, tokens, True) for options in single_options(tokens)]
    while len(plan) < len(single_options(tokens)) + N_RANDOM:
        tokens = text(random)
        plan.append((random_options(random, tokens), tokens, False))
    cases, changes, probabilities = [], [], []
    for i, (options, tokens, single) in enumerate(plan):
        case = {"logits": i % len(logits), "tokens": tokens,
                "n_prompt": int(random.randint(1, N_TEXT)), "options": options}
        before = logits[case["logits"]].astype(np.float64)
        classes = (one_class(options, case["n_prompt"]) if single
                   else all_classes(model, options, case["n_prompt"]))
        lists = [name for name in ("allowed_tokens", "among") if name in options]
        if not single and lists:
            # where none is left transformers allows what is not possible; we say that none is
            if not allowed(options):
                continue
            rest, _ = run([step for step in classes
                           if not isinstance(step, p.PrefixConstrainedLogitsProcessor)],
                          tokens, before)
            if np.isneginf(rest[allowed(options)]).all():
                continue
        after, probability = run(classes, tokens, before)
        cases.append(case)
        changes.append(after - before)
        probabilities.append(probability)
    np.savez_compressed(FOLDER / "sampling.npz", logits=logits, cases=json.dumps(cases),
                        change=np.stack(changes), probability=np.stack(probabilities))
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
