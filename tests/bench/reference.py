"""What is timed on the other side: transformers' GPT2LMHeadModel, float32, with its cache."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import transformers

from bench.ours import SPAN
from bench.samples import seconds


class Reference:
    """The checkpoint in PyTorch, one thread, with the attention that transformers chooses."""

    def __init__(self, directory: Path):
        torch.set_num_threads(1)
        # past_key_values has a new name from transformers 5 on; the old one serves 4 too
        warnings.filterwarnings("ignore", category=FutureWarning)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.model = transformers.GPT2LMHeadModel.from_pretrained(
            directory, dtype=torch.float32
        ).eval()
        self.contexts: dict[int, tuple] = {}

    @torch.inference_mode()
    def read(self, tokens: list[int]) -> float:
        """Seconds of a forward pass over a prompt, which leaves a cache and makes no logits."""
        ids = torch.tensor([tokens])
        return seconds(lambda: self.model.transformer(ids, use_cache=True))

    def _step(self, token: torch.Tensor, past) -> torch.Tensor:
        """One position: [1, 1] -> [1, 1], the likeliest token after it; the cache grows."""
        out = self.model(token, past_key_values=past, use_cache=True)
        return out.logits[:, -1].argmax(dim=-1, keepdim=True)

    @torch.inference_mode()
    def token(self, tokens: list[int]) -> float:
        """Seconds a generated token: the same SPAN of them as ours, after the same prompt."""
        n = len(tokens)
        if n not in self.contexts:
            out = self.model(torch.tensor([tokens]), use_cache=True, logits_to_keep=1)
            self.contexts[n] = out.logits[:, -1].argmax(dim=-1, keepdim=True), out.past_key_values
        first, past = self.contexts[n]

        def generate() -> None:
            token = first
            for _ in range(SPAN):
                token = self._step(token, past)

        time = seconds(generate)
        past.crop(-SPAN)
        assert past.get_seq_length() == n
        return time / SPAN

    @torch.inference_mode()
    def logits(self) -> float:
        """Seconds for all logits of one position, [n_embd] -> [n_vocab], and the largest."""
        y = torch.ones(1, self.model.config.n_embd)
        return seconds(lambda: self.model.lm_head(y).argmax())
