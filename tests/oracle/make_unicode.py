"""Writes sql/tokenizer/unicode.sql: the code points that GPT-2's pre-tokenizer sees as letters,
numbers and white space.

The reference decides, not this Python's Unicode tables: every code point is put to the
`tokenizers` package, whose regular expression is the one GPT-2's tokens come from.

Usage: build/venv/bin/python tests/oracle/make_unicode.py > sql/tokenizer/unicode.sql
"""

from __future__ import annotations

import sys
from textwrap import fill

from tokenizers.pre_tokenizers import ByteLevel

HEADER = """\
-- GPT-2's pre-tokenizer: a text is split into words, and no merge crosses from one to the next.
-- Written by tests/oracle/make_unicode.py, do not edit.
-- Source: openai/gpt-2, src/encoder.py, whose pattern is
--     's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
--
-- PostgreSQL has no \\p{L} and its own classes depend on the collation, so letters (L), numbers (N)
-- and white space (S) are ranges of code points. Its regular expressions prefer the longest match,
-- not the first: the last alternative is a single space here, or it would always win over the
-- one before it, which leaves the last space of a run to the word behind.
"""


def code_points() -> list[int]:
    """Every code point that PostgreSQL's text can hold: no NUL, no surrogates."""
    return [c for c in range(1, 0x110000) if not 0xD800 <= c <= 0xDFFF]


def classify(c: int, split: ByteLevel) -> str:
    """'L', 'N', 'S' or '' (none) for the code point, by how the reference splits around it."""

    def words(text: str) -> int:
        return len(split.pre_tokenize_str(text))

    if words("a" + chr(c)) == 1:
        return "L"
    if words("1" + chr(c)) == 1:
        return "N"
    return "" if words("!" + chr(c)) == 1 else "S"


def ranges(points: list[int]) -> list[tuple[int, int]]:
    """Ascending code points as closed ranges."""
    result: list[tuple[int, int]] = []
    for c in points:
        if result and result[-1][1] == c - 1:
            result[-1] = (result[-1][0], c)
        else:
            result.append((c, c))
    return result


def escape(c: int) -> str:
    """A code point as PostgreSQL's regular expressions write it."""
    return f"\\u{c:04X}" if c < 0x10000 else f"\\U{c:08X}"


def main() -> None:
    split = ByteLevel(add_prefix_space=False, use_regex=True)
    classes: dict[str, list[int]] = {"L": [], "N": [], "S": [], "": []}
    for c in code_points():
        classes[classify(c, split)].append(c)

    print(HEADER)
    print("\nCREATE FUNCTION gpt2._split_pattern()\nRETURNS text")
    print("LANGUAGE sql IMMUTABLE PARALLEL SAFE\nBEGIN ATOMIC")
    print("    SELECT '''(?:[stmd]|re|ve|ll)'")
    print("        || '| ?[' || c.l || ']+'")
    print("        || '| ?[' || c.n || ']+'")
    print("        || '| ?[^' || c.s || c.l || c.n || ']+'")
    print("        || '|[' || c.s || ']+(?![^' || c.s || '])'")
    print("        || '|[' || c.s || ']'")
    print("    FROM (VALUES (")
    for i, name in enumerate("LNS"):
        spans = ranges(classes[name])
        text = " ".join(escape(a) if a == b else f"{escape(a)}-{escape(b)}" for a, b in spans)
        lines = fill(text, 96, break_on_hyphens=False).split("\n")
        print(f"-- {name}: {len(spans)} ranges, {len(classes[name])} code points")
        print("\n".join(f"'{line.replace(' ', '')}'" for line in lines) + ("," if i < 2 else ""))
    print("    )) AS c (l, n, s);\nEND;")
    print("COMMENT ON FUNCTION gpt2._split_pattern() IS")
    print("    'regular expression that splits a text into words as GPT-2 does';")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
