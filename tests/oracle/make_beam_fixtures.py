"""Writes tests/oracle/beam.npz: what transformers' beam search finds.

Usage: build/venv/bin/python tests/oracle/make_beam_fixtures.py  (needs the dependency group oracle)

A row a search: model, arguments [beams, max_tokens, length_penalty], prompt and tokens (-1 behind
their end), score, steps (0 where there is one beam, as transformers then searches greedily) and, of
the first N_STEPS steps, cumulative [N_STEPS, 2 * beams], NaN behind the end.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import torch
from checkpoints import BEAM_MODELS, SHAPES, write_checkpoint
from make_fixtures import LEAST_GAP
from transformers import GPT2LMHeadModel
from transformers_reference import greedy

BEAMS = (1, 2, 4, 7)
LENGTH_PENALTIES = (0, 1, 2, -1)
MAX_TOKENS = (12, 40, 3, 25, 7, 1, 33)
N_STEPS = 4

#: lengths of prompts; the searches reach the end of the short context
LENGTHS = {"narrow_mlp": (1, 5, 12), "odd_widths": (2, 16, 30), "untied": (3, 12, 17),
           "short_context": (12, 20, 31), "demo": (1, 4, 9)}
DEMO = Path(__file__).parents[2] / "loader" / "gpt2_loader" / "models" / "demo"


class Observed(GPT2LMHeadModel):
    """Its beam search notes how close it came to another result, and what it looked at."""

    def _get_top_k_continuations(self, **arguments):
        result = super()._get_top_k_continuations(**arguments)
        beams = arguments["num_beams"]
        best, index = arguments["accumulated_log_probs"][0].topk(3 * beams)
        ends = index % self.config.vocab_size == self.config.eos_token_id
        left = best[~ends]
        self.gaps += [float(best[beams - 1] - best[beams]), float(left[beams - 1] - left[beams])]
        self.cumulative.append(result[0][0].numpy())
        return result

    def _update_finished_beams(self, **arguments):
        result = super()._update_finished_beams(**arguments)
        scores = torch.cat([arguments["beam_scores"][0],
                            (arguments["topk_log_probs"][0]
                             / (arguments["cur_len"] + 1 - arguments["decoder_prompt_len"])
                             ** arguments["length_penalty"])
                            [arguments["next_token_hits_stopping_criteria"][0]
                             & arguments["top_num_beam_mask"]]])
        scores = scores[scores > -1e8].sort(descending=True).values
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
    def search(self, prompt: list[int], beams: int, max_tokens: int, length_penalty: float):
        """(tokens, score, cumulative of each step, the least gap on the way)."""
        self.gaps, self.cumulative, self.score_gaps = [], [], []
        n = min(max_tokens, self.config.n_positions - len(prompt))
        ids = torch.tensor([prompt])
        out = self.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=beams, do_sample=False,
            max_new_tokens=n, length_penalty=float(length_penalty), early_stopping=False,
            pad_token_id=self.config.eos_token_id, return_dict_in_generate=True,
            output_scores=True)
        text = out.sequences[0].tolist()
        tokens = text[len(prompt):]
        logprobs = torch.log_softmax(self(torch.tensor([text])).logits[0].double(), -1)
        score = sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(tokens))
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
    for to, row in zip(result, rows):
        for at, value in enumerate(row):
            to[at] = value
    return result


def main() -> None:
    rows: list[tuple] = []
    for number, (name, lengths) in enumerate(LENGTHS.items()):
        random = np.random.RandomState(number)
        with tempfile.TemporaryDirectory() as directory:
            source = DEMO if name == "demo" else write_checkpoint(
                Path(directory), SHAPES[name], *BEAM_MODELS[name])
            model = Observed.from_pretrained(source, dtype=torch.float32,
                                             attn_implementation="eager").eval()
        model.generation_config.bos_token_id = model.generation_config.eos_token_id = (
            model.config.eos_token_id)
        seen: Counter = Counter()
        for i, (beams, length_penalty) in enumerate(product(BEAMS, LENGTH_PENALTIES)):
            max_tokens = MAX_TOKENS[(i + number) % len(MAX_TOKENS)]
            for _ in range(100):
                prompt = random.randint(
                    0, model.config.eos_token_id, size=lengths[i % len(lengths)]).tolist()
                tokens, score, cumulative, gap = model.search(
                    prompt, beams, max_tokens, length_penalty)
                if gap > LEAST_GAP:
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
            rows.append((name, [beams, max_tokens, length_penalty], prompt, tokens, score, steps,
                         [padded([c], (14,), np.nan, np.float32)[0] for c in cumulative[:N_STEPS]]))
        print(f"{name:14}", dict(seen))
    names, arguments, prompts, tokens, scores, steps, cumulative = zip(*rows)
    np.savez_compressed(
        Path(__file__).with_name("beam.npz"), model=np.array(names),
        arguments=np.array(arguments, np.int32), prompt=padded(prompts, (31,), -1, np.int32),
        tokens=padded(tokens, (40,), -1, np.int32), score=np.array(scores),
        steps=np.array(steps, np.int32),
        cumulative=padded(cumulative, (N_STEPS, 14), np.nan, np.float32))


if __name__ == "__main__":
    main()
