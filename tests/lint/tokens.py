"""SQL as tokens, and what can be read of them without knowing its grammar.

Source: PostgreSQL's manual, 4.1 Lexical Structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PATTERN = re.compile(
    r"""
    (?P<space> \s+)
  | (?P<comment> --[^\n]*)
  | (?P<block> /\*)
  | (?P<string> [eE]'(?: [^'\\] | \\. | '' )*' | (?: [bBxXnN] | [uU]& )?'(?: [^'] | '' )*')
  | (?P<quoted> (?: [uU]& )?"(?: [^"] | "" )*")
  | (?P<dollar> \$(?P<tag> (?: [^\W\d]\w* )?)\$ .*? \$(?P=tag)\$)
  | (?P<word> [^\W\d][\w$]*)
  | (?P<number> \d[\w.]*)
  | (?P<sign> .)
""",
    re.VERBOSE | re.DOTALL,
)
BLOCK = re.compile(r"/\*|\*/")
OWN = re.compile(r"\b(gpt2\._\w+)")


class Token(NamedTuple):
    kind: str
    text: str
    line: int

    @property
    def key(self) -> str:
        """A word in upper case, any other token as it is: what a grammar compares."""
        return self.text.upper() if self.kind == "word" else self.text


def tokens(text: str, line: int = 1) -> Iterator[Token]:
    """All of a text; what is not closed is signs one by one."""
    start = 0
    while start < len(text):
        match = PATTERN.match(text, start)
        kind, end = match.lastgroup, match.end()
        if kind == "block":
            kind, end = "comment", end_of_comment(text, end)
        yield Token(kind, text[start:end], line)
        line += text.count("\n", start, end)
        start = end


def end_of_comment(text: str, start: int) -> int:
    """Where a block comment ends that begins before start: they nest."""
    depth = 1
    for match in BLOCK.finditer(text, start):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    return len(text)


def code(text: str, line: int = 1) -> list[Token]:
    """The tokens without space and comments."""
    return [token for token in tokens(text, line) if token.kind not in ("space", "comment")]


def with_bodies(statement: list[Token]) -> list[Token]:
    """In place of each body that is a string (AS $$...$$, DO $$...$$) its tokens."""
    found: list[Token] = []
    for token in statement:
        if token.kind == "dollar" and found and found[-1].key in ("AS", "DO"):
            tag = token.text.index("$", 1) + 1
            found += with_bodies(code(token.text[tag:-tag], token.line))
        else:
            found.append(token)
    return found


def statements(text: str) -> Iterator[list[Token]]:
    """The code of each statement, without its semicolon; BEGIN ATOMIC ... END is part of one."""
    statement: list[Token] = []
    depth = 0  # of BEGIN ATOMIC and CASE
    for token in code(text):
        if token.key == "ATOMIC" or (depth and token.key == "CASE"):
            depth += 1
        elif depth and token.key == "END":
            depth -= 1
        if token.key == ";" and not depth:
            yield with_bodies(statement)
            statement = []
        else:
            statement.append(token)
    if statement:
        yield with_bodies(statement)


def nesting(statement: list[Token]) -> tuple[int, int]:
    """How deep its queries are nested, and the line of the deepest.

    The outermost has depth 0, a query in parentheses one more than that around it. A CTE has a
    name, by which it is read on its own: it counts from 0 again.
    """
    depth, deepest, line = 0, 0, statement[0].line
    around: list[int] = []
    for i, token in enumerate(statement[:-1]):
        if token.text == "(":
            around.append(depth)
            if statement[i + 1].key in ("SELECT", "WITH"):
                named = i and statement[i - 1].key in ("AS", "MATERIALIZED")
                depth = 0 if named else depth + 1
                if depth > deepest:
                    deepest, line = depth, token.line
        elif token.text == ")" and around:
            depth = around.pop()
    return deepest, line


def name_at(statement: list[Token], i: int) -> str:
    """The name that begins there, with its schema if it has one."""
    parts = [token.text.strip('"') for token in statement[i : i + 3]]
    return "".join(parts) if parts[1:2] == ["."] else parts[0] if parts else ""


def own_names(statement: list[Token]) -> Iterator[tuple[str, int]]:
    """Names of this extension's objects (gpt2.x, gpt2._x, gpt2_x), and their lines.

    In strings only private ones: a message speaks of public ones, dynamic SQL uses others too.
    Python's strings are in double quotes.
    """
    for i, token in enumerate(statement):
        if token.kind == "string" or (token.kind == "quoted" and " " in token.text):
            for name in OWN.findall(token.text):
                yield name, token.line
        elif token.text == "gpt2" or token.text.startswith("gpt2_"):
            yield name_at(statement, i), token.line
