"""Releases: the scripts that are frozen in extension/releases.

A frozen script is the one that was built, but for the vocabulary in it: half of it, which OpenAI
published and which does not change, is included from where it lies.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
EXTENSIONS = ("gpt2", "gpt2_plpython3u")
RELEASES = "extension/releases"
VOCABULARY = "sql/install/vocab.bpe"
INCLUDE = f"--@include {VOCABULARY}\n"


class Tree:
    """A checkout: its version, and what was released from it."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.releases = root / RELEASES

    @property
    def version(self) -> str:
        """What META.json says, the same everywhere in it."""
        meta = json.loads((self.root / "META.json").read_text())
        [found] = {meta["version"], *(each["version"] for each in meta["provides"].values())}
        return found

    def released(self) -> list[str]:
        """The versions that are frozen, the first one first."""
        found = [path.stem.split("--")[1:] for path in self.releases.glob("gpt2--*.sql")]
        return sorted((each[0] for each in found if len(each) == 1), key=in_order)

    def built(self, extension: str) -> str:
        """The script of the sources as they are."""
        return (self.root / f"build/{extension}--{self.version}.sql").read_text()

    def frozen(self, extension: str, version: str) -> str:
        """The script of a release, as it was built."""
        text = (self.releases / f"{extension}--{version}.sql").read_text()
        return text.replace(INCLUDE, (self.root / VOCABULARY).read_text())

    def freeze(self) -> list[Path]:
        """Writes the scripts of this version; gives their paths."""
        files = []
        for extension in EXTENSIONS:
            text = self.built(extension).replace((self.root / VOCABULARY).read_text(), INCLUDE)
            files.append(self.releases / f"{extension}--{self.version}.sql")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_text(text)
            assert self.frozen(extension, self.version) == self.built(extension)
        return files

    def upgrade(self, extension: str) -> Path:
        """The script that leads to this version from the release before it."""
        return self.releases / f"{extension}--{self.released()[-1]}--{self.version}.sql"

    def by_hand(self, extension: str) -> Path:
        """What such a script begins with, where there is something."""
        return self.releases / "by_hand" / self.upgrade(extension).name

    # ---- What is wrong, a line each

    def faults(self) -> Iterator[str]:
        """Whatever state of the tree may not stay."""
        version, released = self.version, self.released()
        if version in released:
            for extension in EXTENSIONS:
                if self.frozen(extension, version) != self.built(extension):
                    yield (
                        f"{version} is released, and the script of {extension} has changed since: "
                        "raise the version in META.json and run `make upgrade`"
                    )
        elif released and in_order(version) < in_order(released[-1]):
            yield f"{released[-1]} is released, and META.json has {version}, which comes before it"
        steps = list(pairwise(released if version in released else [*released, version]))
        wanted = {f"{e}--{a}--{b}.sql" for a, b in steps for e in EXTENSIONS}
        there = {path.name for path in self.releases.glob("*--*--*.sql")}
        for name in sorted(wanted - there):
            yield f"{RELEASES}/{name} is missing: run `make upgrade`"
        for name in sorted(there - wanted):
            yield f"{RELEASES}/{name} leads from no release to the next"

    def unready(self) -> Iterator[str]:
        """Why this version cannot be released."""
        if self.version in self.released():
            yield f"{self.version} is released already: raise the version in META.json"
        heading = (self.root / "CHANGELOG.md").read_text().partition("\n")[0]
        found = re.fullmatch(r"## (\S+) \((\d{4}-\d\d-\d\d)\)", heading)
        if not found or found[1] != self.version:
            today = date.today().isoformat()
            yield f'CHANGELOG.md begins with "{heading}" and not with "## {self.version} ({today})"'
        command = ["git", "status", "--porcelain"]
        changed = subprocess.check_output(command, cwd=self.root, text=True)
        if changed:
            yield f"the tree has changes that are not committed:\n{changed.rstrip()}"
        yield from self.faults()


def in_order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
