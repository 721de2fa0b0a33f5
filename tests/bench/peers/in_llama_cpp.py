"""llama.cpp, by its server in this process (the package xllamacpp):
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md

The package's code is compiled for every x86-64 with AVX2: llama.cpp that is compiled for a machine
with AVX-512 is faster there.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import xllamacpp

from bench.peers import gguf_file
from bench.peers.peer import Peer

TOLERANCES = {"f16": 5e-3, "q8_0": 0.1}
#: rows that are computed together; each has a context of its own
N_ROWS = 16


def request_for(prompt: list, n: int) -> dict:
    """What the server is asked for: n tokens after texts, or after the tokens of one."""
    greedy = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}
    return {"prompt": prompt, "n_predict": n, "max_tokens": n} | greedy


class LlamaCpp(Peer):
    def __init__(self, directory: Path, path: Path, kind: str):
        """The checkpoint of a directory, converted to `f16` or `q8_0` in a file unless that is
        there."""
        self.name, self.tolerance = f"llama.cpp, {kind}", TOLERANCES[kind]
        if not path.exists():
            gguf_file.write(directory, path, kind)
        config = json.loads((directory / "config.json").read_text())
        self.n_vocab = config["vocab_size"]
        self.letter = json.loads((directory / "vocab.json").read_text())["A"]
        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx = N_ROWS * config["n_positions"]
        options.n_parallel = N_ROWS
        options.n_gpu_layers = 0
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        options.verbosity = -1
        self.server = xllamacpp.Server(options)

    def log_probabilities(self, tokens: list[int]) -> np.ndarray:
        # the server leaves out the probabilities of a token that is no whole character, so that it
        # has to choose a letter: they are those of before the bias
        [choice] = self._ask(tokens, 1, n_probs=self.n_vocab, logit_bias=[[self.letter, 1000]])
        result = np.full(self.n_vocab, np.nan, dtype=np.float32)
        for token in choice["logprobs"]["content"][0]["top_logprobs"]:
            result[token["id"]] = token["logprob"]
        return result

    def generate(self, tokens: list[int], n: int) -> list[int]:
        # the call above gives texts; the ids are in the answer of this address alone
        request = Request(
            f"{self.server.listening_address}/completion",
            json.dumps(request_for(tokens, n) | {"return_tokens": True}).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request) as answer:
            return json.load(answer)["tokens"]

    def first_token(self, tokens: list[int]) -> None:
        self._ask(tokens, 1)

    def extend(self, tokens: list[int], n: int) -> None:
        self._ask(tokens, n, cache_prompt=True)

    def complete(self, texts: list[str], n: int) -> list[str]:
        return [choice["text"] for choice in self._ask(texts, n)]

    def _ask(self, prompt: list, n: int, **options) -> list[dict]:
        answer = self.server.handle_completions(request_for(prompt, n) | options)
        if "choices" not in answer:
            raise SystemExit(f"{self.name}: {answer}")
        return sorted(answer["choices"], key=lambda choice: choice["index"])

    def close(self) -> None:
        del self.server
