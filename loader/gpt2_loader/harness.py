"""A model in PostgreSQL as a backend of EleutherAI's lm-evaluation-harness, beside its `hf` one.

    python -m gpt2_loader.harness run --model gpt2_sql --tasks lambada_openai \
        --model_args dsn=postgresql:///mydb,model=gpt2

is the harness's own command line, with one more `--model`. In Python, gpt2_loader.harness.SqlLM is
an `lm_eval.api.model.LM`. It needs the package's extra `harness`.

Texts become tokens, and windows of them requests, as in lm_eval/models/huggingface.py, so that the
scores are those of the `hf` backend on the same weights. What is computed is gpt2_score,
gpt2_next_token and gpt2_generate.
"""

from __future__ import annotations

import json

import psycopg
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

#: what gpt2_generate calls the generation options of a task
OPTIONS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "seed")


@register_model("gpt2_sql")
class SqlLM(TemplateLM):
    """A model of a database.

    dsn: a connection URI or string, by default libpq's own variables. model: its name, by default
    the default model. batch_size: requests a statement. max_gen_toks: for tasks that do not say.
    """

    def __init__(
        self, dsn: str = "", model: str | None = None, batch_size=64, max_gen_toks=256, **_unused
    ):
        super().__init__()
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.batch_size = int(batch_size)
        self.max_gen_toks = int(max_gen_toks)
        row = self.connection.execute(
            "SELECT name, n_ctx, bos_token, eos_tokens[1] FROM gpt2.model"
            " WHERE CASE WHEN %(name)s::text IS NULL THEN is_default ELSE name = %(name)s END",
            {"name": model},
        ).fetchone()
        if row is None:
            raise ValueError(f'model "{model}" does not exist' if model else "no model is loaded")
        self.model, self.max_length, self._bos, self._eos = row

    @property
    def eot_token_id(self) -> int:
        return self._bos if self._eos is None else self._eos

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self._bos is None else self._bos

    def tok_encode(self, string: str, add_special_tokens=None, **_unused) -> list[int]:
        """Tokens of a text; <|endoftext|> in it is one, and none is added: as GPT-2's tokenizer."""
        return self._one("SELECT gpt2_tokenize(%s, %s, true)", string, self.model)

    def _one(self, query: str, *arguments):
        return self.connection.execute(query, arguments).fetchone()[0]

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **_unused):
        """(log probability of the continuation, whether it is the greedy one) of each (texts,
        context, continuation), the latter two as tokens; the context is cut from the left."""
        answers = []
        with tqdm(total=len(requests), disable=disable_tqdm, desc="log likelihoods") as bar:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                for (texts, *_), answer in zip(batch, self._score(batch), strict=True):
                    answers.append(answer)
                    if texts is not None:
                        self.cache_hook.add_partial("loglikelihood", texts, answer)
                bar.update(len(batch))
        return answers

    def _score(self, batch) -> list[tuple[float, bool]]:
        windows = []
        for _, context, continuation in batch:
            # the last token is not read: a window may have one more than the context
            ids = (context + continuation)[-(self.max_length + 1) :]
            windows.append({"ids": ids, "first": len(ids) - len(continuation)})
        rows = self.connection.execute(
            """SELECT sum(s.logprob), bool_and(s.rank = 1)
               FROM jsonb_array_elements(%(windows)s::jsonb) WITH ORDINALITY AS w (value, n)
               CROSS JOIN LATERAL (
                   SELECT ARRAY(SELECT jsonb_array_elements_text(w.value -> 'ids')::int) AS ids,
                          (w.value ->> 'first')::int AS first OFFSET 0) AS i
               CROSS JOIN LATERAL (
                   SELECT s.logprob, s.rank
                   FROM gpt2_score(input_ids => i.ids[:%(length)s], model => %(model)s) AS s
                   WHERE s."position" >= i.first
               UNION ALL
                   SELECT ln(t.probability), t.rank
                   FROM gpt2_next_token(input_ids => i.ids[:%(length)s], top_k => NULL,
                                        model => %(model)s) AS t
                   WHERE cardinality(i.ids) > %(length)s
                     AND t.token = i.ids[cardinality(i.ids)]
               ) AS s
               GROUP BY w.n ORDER BY w.n""",
            {"windows": json.dumps(windows), "length": self.max_length, "model": self.model},
        )
        return rows.fetchall()

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Log probabilities of whole texts, in disjoint windows of the context's length."""
        windows, counts = [], []
        for request in requests:
            [text] = request.args
            rolling = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
            parts = [(None, *make_disjoint_window(window)) for window in rolling]
            windows += parts
            counts.append(len(parts))
        scores = iter(self._loglikelihood_tokens(windows, disable_tqdm))
        totals = [sum(next(scores)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop, which is left out; the context is cut from the left."""
        texts = []
        for request in tqdm(requests, disable=disable_tqdm, desc="completions"):
            context, asked = request.args
            options = normalize_gen_kwargs(asked, self.max_gen_toks)
            until, max_tokens = options.pop("until"), options.pop("max_gen_toks")
            options.pop("do_sample", None)
            if unknown := options.keys() - set(OPTIONS):
                raise ValueError(f"gpt2_generate has no {', '.join(sorted(unknown))}")
            named = "".join(f", {name} => %({name})s" for name in options)
            texts.append(
                self.connection.execute(
                    "SELECT gpt2_generate(%(prompt)s, %(max_tokens)s, model => %(model)s,"
                    " stop => nullif(%(until)s::text[], '{}'), truncate => 'left',"
                    f" special_tokens => true, echo => false{named})",
                    options
                    | {"prompt": context, "max_tokens": max_tokens, "model": self.model}
                    | {"until": [stop for stop in until if stop]},
                ).fetchone()[0]
            )
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        return texts


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
