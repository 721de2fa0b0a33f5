"""Texts for the tokenizer, the same at each call: no file to fetch, none to keep.

English is Python's own manual, as pydoc carries it (pydoc_data.topics, in every Python; about
0.7 MB, then from the start again). The other text is made of words in many scripts: its letters
are drawn, so few merges apply and no cache of words helps. Both have 1 MB. A long word is all
merges that depend on one another.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import string

SIZE = 1_000_000  # bytes of UTF-8

#: alphabets: first and last code point
SCRIPTS = {
    "Latin": (0x61, 0x7A),
    "Latin with accents": (0xE0, 0xF6),
    "Greek": (0x3B1, 0x3C9),
    "Cyrillic": (0x430, 0x44F),
    "Armenian": (0x561, 0x586),
    "Hebrew": (0x5D0, 0x5EA),
    "Arabic": (0x627, 0x64A),
    "Devanagari": (0x905, 0x939),
    "Thai": (0xE01, 0xE2E),
    "Georgian": (0x10D0, 0x10F0),
    "Hiragana": (0x3041, 0x3096),
    "Katakana": (0x30A1, 0x30FA),
    "Han": (0x4E00, 0x9FA5),
    "Hangul": (0xAC00, 0xD7A3),
    "emoji": (0x1F600, 0x1F64F),
    "digits": (0x30, 0x39),
    "Arabic digits": (0x660, 0x669),
}
BETWEEN = [" "] * 12 + [", ", ". ", "; ", "? ", " (", ") ", "-", "\n", "\n\n", "  ", "\u3000", "。"]


def cut(text: str) -> str:
    """Text of exactly SIZE bytes: its beginning, and full stops for half a character."""
    whole = text.encode()[:SIZE].decode(errors="ignore")
    return whole + "." * (SIZE - len(whole.encode()))


def english() -> str:
    """1 MB of English prose with some code in it."""
    topics = "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    return cut(topics * (SIZE // len(topics) + 1))


def mixed() -> str:
    """1 MB of words of 1 to 10 letters of one script each, with punctuation between them."""
    rng = random.Random(0)
    scripts = list(SCRIPTS.values())
    pieces: list[str] = []
    size = 0
    while size < SIZE:
        first, last = rng.choice(scripts)
        word = "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 10)))
        pieces += [word, rng.choice(BETWEEN)]
        size += len(word.encode()) + 1
    return cut("".join(pieces))


def word() -> str:
    """100,000 random letters, no space between them."""
    return "".join(random.Random(0).choices(string.ascii_lowercase, k=100_000))
