"""The rules, a function each: it takes the tree and gives its findings.

A finding ends with its rule's name in brackets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

from lint.catalog import Object, Use, read_catalog
from lint.source import Place, Source, Statement, read_sources
from lint.tokens import Token, name_at, nesting

WIDTH = 100  # columns
DEEPEST = 3  # so deep a query may be nested
DEEP, N_DEEP = 2, 10  # deeper than the one, so many functions may be
ORDER = ("LANGUAGE", "volatility", "STRICT", "SECURITY", "PARALLEL", "COST", "ROWS", "SET")
VOLATILITIES = ("IMMUTABLE", "STABLE", "VOLATILE")


class Finding(NamedTuple):
    place: Place
    message: str


class Tree:
    """The files and, with a connection, the catalog of a database in which they were run."""

    def __init__(self, root: Path, connection: psycopg.Connection | None = None) -> None:
        self.root = root
        self.sources: list[Source] = read_sources(root)
        self.statements: list[Statement] = [
            statement for source in self.sources for statement in source.statements
        ]
        self.objects: list[Object] = []
        self.uses: list[Use] = []
        if connection:
            self.objects, self.uses = read_catalog(connection, self.sources)

    def making(self, *kinds: str) -> Iterator[tuple[str, Statement]]:
        """Statements that make one thing of these kinds, and its name."""
        for statement in self.statements:
            for kind, name in statement.made[:1]:
                if kind in kinds and statement.verb == "CREATE":
                    yield name, statement


def text(tree: Tree) -> Iterator[Finding]:
    """A line of SQL has at most 100 columns, no tab, and no white space at its end."""
    for path in sorted(
        path
        for folder, pattern in (("sql", "**/*.sql"), ("plpython", "*.sql"), ("extension", "*.sql"))
        for path in (tree.root / folder).glob(pattern)
    ):
        for n, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            place = Place(path.relative_to(tree.root).as_posix(), n)
            if len(line) > WIDTH:
                yield Finding(place, f"{len(line)} columns; at most {WIDTH}")
            if "\t" in line:
                yield Finding(place, "a tab")
            if line != line.rstrip():
                yield Finding(place, "white space at the end of the line")


def folders(tree: Tree) -> Iterator[Finding]:
    """The files of a folder, a layer, stand together in the manifest."""
    seen: list[str] = []
    for source in tree.sources:
        if source.folder in seen[:-1]:
            yield Finding(
                source.listed, f"{source.path} stands after {seen[-1]}, apart from its folder"
            )
        elif source.folder not in seen:
            seen.append(source.folder)


def layers(tree: Tree) -> Iterator[Finding]:
    """A file uses only what it makes itself and what files above it in the manifest make."""
    for use in tree.uses:
        makers = [item.statement.source for item in use.used if item.statement]
        first = min(makers, key=lambda source: source.rank, default=use.source)
        if first.rank > use.source.rank:
            yield Finding(
                use.place,
                f"{use.user.name if use.user else use.source.path} uses "
                f"{use.used[0].name} of {first.path}, a file below",
            )


def commented(tree: Tree) -> Iterator[Finding]:
    """Every function, aggregate, type, table and view has a comment."""
    for item in tree.objects:
        if item.kind != "trigger" and not item.comment:
            yield Finding(item.place, f"the {item.kind} {item.name} has no COMMENT")


def called(tree: Tree) -> Iterator[Finding]:
    """A private object is used by another one, by a statement, or by the Python code."""
    used = {item for use in tree.uses for item in use.used if item is not use.user}
    python = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("loader", "plpython")
        for path in (tree.root / folder).rglob("*.py")
    )
    for item in tree.objects:
        if (
            item.name.startswith("gpt2._")
            and item not in used
            and not re.search(rf"\b{re.escape(item.name)}\b", python)
        ):
            yield Finding(item.place, f"nothing uses the {item.kind} {item.name}")


def nested(tree: Tree) -> Iterator[Finding]:
    """No query is nested deeper than three, and only ten functions' are deeper than two."""
    depths = [
        (*nesting(statement.tokens), name, statement.source)
        for name, statement in tree.making("function", "view")
    ]
    n_deep = sum(depth > DEEP for depth, *_ in depths)
    for depth, line, name, source in depths:
        if depth > DEEPEST:
            yield Finding(
                source.places[line - 1], f"{name} is nested {depth} deep; at most {DEEPEST}"
            )
        elif depth > DEEP and n_deep > N_DEEP:
            yield Finding(
                source.places[line - 1],
                f"{name} is nested {depth} deep; {n_deep} are deeper than {DEEP}, at most {N_DEEP}",
            )


def short_comments(tree: Tree) -> Iterator[Finding]:
    """A comment lists the arguments of a private function only where its name is overloaded."""
    made = Counter(
        name
        for statement in tree.statements
        for kind, name in set(statement.made)
        if kind in ("function", "aggregate")
    )
    for statement in tree.statements:
        if [token.key for token in statement.tokens[:3]] == ["COMMENT", "ON", "FUNCTION"]:
            name = name_at(statement.tokens, 3)
            if name.startswith("gpt2._") and statement.tokens[6].text == "(" and made[name] == 1:
                yield Finding(
                    statement.place, f"{name} is one function: COMMENT ON FUNCTION {name} IS"
                )


def attributes(tree: Tree) -> Iterator[Finding]:
    """LANGUAGE sql STABLE PARALLEL SAFE [COST n] [ROWS n], in this order, then SET.

    VOLATILE is said too, but of a trigger's function; what is not volatile says that it is
    parallel safe, or it would not be.
    """
    for name, statement in tree.making("function"):
        found = header(statement.tokens)
        kinds = ["volatility" if key in VOLATILITIES else key for key in found]
        if kinds != sorted(kinds, key=ORDER.index):
            yield Finding(
                statement.place, f"{name} has {', '.join(found)}; the order is {', '.join(ORDER)}"
            )
        if "volatility" not in kinds and "TRIGGER" not in {t.key for t in statement.tokens}:
            yield Finding(statement.place, f"{name} does not say whether it is volatile")
        if "PARALLEL" not in found and not {"IMMUTABLE", "STABLE"}.isdisjoint(found):
            yield Finding(statement.place, f"{name} does not say whether it is parallel safe")


def header(statement: list[Token]) -> list[str]:
    """The attributes of a CREATE FUNCTION, which stand before its body."""
    found, depth = [], 0
    for token in statement:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.key in ("AS", "BEGIN", "RETURN"):
            break
        if depth == 0 and token.key in (*ORDER, *VOLATILITIES):
            found.append(token.key)
    return found


RULES = (text, folders, layers, commented, called, nested, short_comments, attributes)
