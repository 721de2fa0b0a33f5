"""transformers, float32: what all others are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.peers.peer import Peer, Tokenized
from bench.reference import Reference


class Transformers(Peer):
    name, tolerance = "transformers, float32", 0.0

    def __init__(self, directory: Path):
        self.model = Reference(directory).model
        self.end = self.model.config.eos_token_id
        self.text = Tokenized(directory)
        self.kept: dict[tuple[int, ...], tuple] = {}

    @torch.inference_mode()
    def every_log_probability(self, tokens: list[int]) -> np.ndarray:
        """[n_seq, n_vocab]: of each token after each."""
        logits = self.model(torch.tensor([tokens])).logits[0]
        return torch.log_softmax(logits, dim=-1).numpy()

    def log_probabilities(self, tokens: list[int]) -> np.ndarray:
        return self.every_log_probability(tokens)[-1]

    def generate(self, tokens: list[int], n: int) -> list[int]:
        return self._generate([tokens], n)[0]

    def first_token(self, tokens: list[int]) -> None:
        self._generate([tokens], 1)

    @torch.inference_mode()
    def extend(self, tokens: list[int], n: int) -> None:
        key = tuple(tokens)
        if key not in self.kept:
            past = self.model(torch.tensor([tokens[:-1]]), use_cache=True).past_key_values
            self.kept[key] = past, past.get_seq_length()
        past, n_past = self.kept[key]
        token = torch.tensor([tokens[-1:]])
        for _ in range(n):
            logits = self.model(token, past_key_values=past, use_cache=True).logits
            token = logits[:, -1].argmax(dim=-1, keepdim=True)
        past.crop(n_past - past.get_seq_length())

    def complete(self, texts: list[str], n: int) -> list[str]:
        return self.text.decode(self._generate(self.text.encode(texts), n))

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], n: int) -> list[list[int]]:
        """All rows at once: shorter ones have padding before them, which the mask leaves out."""
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        made = self.model.generate(
            torch.tensor([[self.end] * p + t for p, t in zip(padding, prompts, strict=True)]),
            attention_mask=torch.tensor([[0] * p + [1] * (longest - p) for p in padding]),
            do_sample=False,
            max_new_tokens=n,
            min_new_tokens=n,
            pad_token_id=self.end,
        )
        return made[:, longest:].tolist()
