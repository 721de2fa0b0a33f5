"""CTranslate2: https://opennmt.net/CTranslate2/guides/transformers.html#gpt-2"""

from __future__ import annotations

from pathlib import Path

import ctranslate2
import numpy as np

from bench.peers.peer import Peer, Tokenized

TOLERANCES = {"float32": 1e-4, "int8": 0.3}


class CTranslate2(Peer):
    def __init__(self, directory: Path, folder: Path, kind: str):
        """The checkpoint of a directory, converted to `float32` or `int8` in a folder of its own
        unless that is there."""
        self.name, self.tolerance = f"CTranslate2, {kind}", TOLERANCES[kind]
        if not folder.exists():
            converter = ctranslate2.converters.TransformersConverter(str(directory))
            converter.convert(str(folder), quantization=kind)
        self.generator = ctranslate2.Generator(
            str(folder), compute_type=kind, inter_threads=1, intra_threads=1
        )
        self.text = Tokenized(directory)
        ids = self.text.tokenizer.get_vocab()
        self.tokens = sorted(ids, key=ids.get)

    def log_probabilities(self, tokens: list[int]) -> np.ndarray:
        return np.array(self.generator.forward_batch([tokens], return_log_probs=True))[0, -1]

    def generate(self, tokens: list[int], n: int) -> list[int]:
        return self._generate([tokens], n)[0]

    def first_token(self, tokens: list[int]) -> None:
        self._generate([tokens], 1)

    def extend(self, tokens: list[int], n: int) -> None:
        kept = [self.tokens[token] for token in tokens[:-1]]
        self._generate([tokens[-1:]], n, static_prompt=kept)

    def complete(self, texts: list[str], n: int) -> list[str]:
        return self.text.decode(self._generate(self.text.encode(texts), n))

    def _generate(self, prompts: list[list[int]], n: int, **options) -> list[list[int]]:
        results = self.generator.generate_batch(
            [[self.tokens[token] for token in prompt] for prompt in prompts],
            max_length=n,
            min_length=n,
            include_prompt_in_result=False,
            **options,
        )
        return [result.sequences_ids[0] for result in results]

    def close(self) -> None:
        self.generator.unload_model()
