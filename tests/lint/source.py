"""The SQL source as the manifests order it: files, their statements, and what these make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lint.tokens import Token, name_at, own_names, statements

MANIFESTS = ("extension/gpt2.manifest", "extension/gpt2_plpython3u.manifest")
KINDS = ("FUNCTION", "AGGREGATE", "TYPE", "TABLE", "VIEW", "TRIGGER")


class Place(NamedTuple):
    path: str
    line: int


@dataclass
class Statement:
    source: Source
    tokens: list[Token]

    @property
    def verb(self) -> str:
        return self.tokens[0].key

    @property
    def place(self) -> Place:
        return self.source.places[self.tokens[0].line - 1]

    @cached_property
    def made(self) -> list[tuple[str, str]]:
        """What it creates: (kind, name), of a trigger "name on table"."""
        found = []
        keys = [token.key for token in self.tokens]
        for start in (i for i, key in enumerate(keys) if key == "CREATE"):
            # OR REPLACE, UNLOGGED or the like may stand between
            for at, key in enumerate(keys[start : start + 4], start):
                if key in KINDS:
                    name = name_at(self.tokens, at + 1)
                    if key == "TRIGGER":
                        name += f" on {name_at(self.tokens, keys.index('ON', at) + 1)}"
                    found.append((key.lower(), name))
                    break
        return found

    def names(self) -> Iterator[tuple[str, Place]]:
        """Names of this extension's objects in it, but for those that it makes."""
        made = {name for _, name in self.made}
        for name, line in own_names(self.tokens):
            if name not in made:
                yield name, self.source.places[line - 1]


class Source:
    """A file that a manifest lists, with what it includes."""

    def __init__(self, root: Path, path: str, listed: Place, rank: int) -> None:
        self.path, self.folder = path, path.rpartition("/")[0]
        self.listed = listed  # where the manifest does
        self.rank = rank  # in the order of the manifests
        lines = list(expanded(root, path))
        self.places = [place for place, _ in lines]
        self.statements = [
            Statement(self, found) for found in statements("\n".join(text for _, text in lines))
        ]


def expanded(root: Path, path: str) -> Iterator[tuple[Place, str]]:
    """A file's lines; for --@include FILE those of that file, if it is SQL, as extension/build."""
    for n, text in enumerate((root / path).read_text(encoding="utf-8").splitlines(), 1):
        words = text.split()
        if words[:1] == ["--@include"] and words[1].endswith(".sql"):
            yield from expanded(root, (Path(path).parent / words[1]).as_posix())
        else:
            yield Place(path, n), text


def read_sources(root: Path) -> list[Source]:
    """The files of the manifests, in order."""
    listed = [
        (line.partition("#")[0].strip(), Place(manifest, n))
        for manifest in MANIFESTS
        if (root / manifest).exists()
        for n, line in enumerate((root / manifest).read_text().splitlines(), 1)
    ]
    return [
        Source(root, path, place, rank)
        for rank, (path, place) in enumerate(entry for entry in listed if entry[0])
    ]
