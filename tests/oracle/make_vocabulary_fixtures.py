"""Writes tests/oracle/vocabularies.json: what transformers makes of each layout of vocabularies.py.

Usage: PYTHONPATH=tests build/venv/bin/python tests/oracle/make_vocabulary_fixtures.py
(needs the group `oracle`)

<layout>: {"eos": ids at which generate() stops, "bos": id or null,
           "texts": [[ids with special tokens as text, ids with them read], ...] of TEXTS}
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from oracle.vocabularies import ASKED, LAYOUTS, TEXTS
from transformers import AutoTokenizer, GPT2LMHeadModel


def read(directory: Path) -> dict:
    model = GPT2LMHeadModel.from_pretrained(directory)
    settings = model.generation_config
    eos = settings.eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(directory)

    def ids(text: str, as_text: bool) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"]

    return {
        "eos": eos if isinstance(eos, list) else [] if eos is None else [eos],
        "bos": settings.bos_token_id,
        "texts": [[ids(text, True), ids(text, False)] for text in TEXTS],
    }


def main() -> None:
    result = {}
    for name, write in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            ASKED.get(name, write)(Path(folder))
            result[name] = read(Path(folder))
    path = Path(__file__).parent / "vocabularies.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
