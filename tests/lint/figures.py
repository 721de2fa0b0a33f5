"""What can be counted in the SQL: none of it is wrong, but it should not grow unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from lint.rules import DEEP, DEEPEST, Tree
from lint.tokens import Token, code, nesting

LONG = 60  # lines of a function


def figures(tree: Tree) -> Iterator[tuple[str, object]]:
    """Names and values."""
    depths = sorted(
        (
            (nesting(statement.tokens)[0], name)
            for name, statement in tree.making("function", "view")
        ),
        reverse=True,
    )
    yield "deepest nesting", "{}, {}".format(*depths[0])
    for limit in (DEEP, DEEPEST):
        yield f"nested deeper than {limit}", sum(depth > limit for depth, _ in depths)

    keys = [token.key for statement in tree.statements for token in statement.tokens]
    pairs = list(pairwise(keys))
    yield "OFFSET 0", pairs.count(("OFFSET", "0"))
    yield "MATERIALIZED", pairs.count(("AS", "MATERIALIZED"))

    functions = list(tree.making("function"))
    lengths = sorted(
        (
            (statement.tokens[-1].line - statement.tokens[0].line + 1, name)
            for name, statement in functions
        ),
        reverse=True,
    )
    yield (
        f"functions above {LONG} lines",
        ", ".join(f"{name} {length}" for length, name in lengths if length > LONG) or "none",
    )
    yield (
        "most arguments of a private function",
        "{}, {}".format(
            *max(
                (n_arguments(statement.tokens), name)
                for name, statement in functions
                if name.startswith("gpt2._")
            )
        ),
    )

    texts = [path.read_text(encoding="utf-8") for path in (tree.root / "sql").rglob("*.sql")]
    yield "lines of sql/", sum(len(text.splitlines()) for text in texts)
    yield "without blank lines and comments", sum(len(lines(code(text))) for text in texts)


def n_arguments(statement: list[Token]) -> int:
    """How many arguments the first parentheses list."""
    depth = count = 0
    for token in statement:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == ")" and depth == 0:
            break
        if depth == 1:
            count = max(count, int(token.text != "(")) + (token.text == ",")
    return count


def lines(tokens: list[Token]) -> set[int]:
    """The lines that tokens lie on."""
    return {
        line
        for token in tokens
        for line in range(token.line, token.line + token.text.count("\n") + 1)
    }
