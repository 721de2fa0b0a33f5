"""Releases of the extensions, and the scripts that lead from one to the next: CONTRIBUTING.md.

python -m release check     whether what is released is as it was: `make lint`
python -m release upgrade   writes the scripts from the last release to the sources: `make upgrade`
python -m release freeze    writes the scripts of this version for ever: `make release`
"""

from __future__ import annotations

import os
import sys

from release.catalog import Refused
from release.releases import EXTENSIONS, Tree
from release.versions import upgrades


def check(tree: Tree) -> None:
    if faults := list(tree.faults()):
        raise SystemExit("\n".join(faults))


def upgrade(tree: Tree) -> None:
    if not tree.released():
        raise SystemExit("nothing is released yet from which an upgrade could lead")
    before = tree.released()[-1]
    if before == tree.version:
        raise SystemExit(f"{before} is released: raise the version in META.json")
    by_hand = {e: tree.by_hand(e).read_text() for e in EXTENSIONS if tree.by_hand(e).exists()}
    try:
        made = upgrades(
            os.environ["GPT2_TEST_DSN"],
            before,
            {e: tree.frozen(e, before) for e in EXTENSIONS},
            {e: tree.built(e) for e in EXTENSIONS},
            by_hand,
        )
    except Refused as refused:
        files = " or ".join(str(tree.by_hand(e).relative_to(tree.root)) for e in EXTENSIONS)
        raise SystemExit(f"{refused}\nSay what is to be done in {files}: CONTRIBUTING.md") from None
    for extension, text in made.items():
        tree.upgrade(extension).write_text(text)
        print(tree.upgrade(extension).relative_to(tree.root))


def freeze(tree: Tree) -> None:
    if reasons := list(tree.unready()):
        raise SystemExit("\n".join(reasons))
    files = [str(file.relative_to(tree.root)) for file in tree.freeze()]
    version = tree.version
    print(
        f"git add {' '.join(files)}",
        f"git commit -m 'Release {version}'",
        f"git tag v{version}",
        sep="\n",
    )


if __name__ == "__main__":
    {"check": check, "upgrade": upgrade, "freeze": freeze}[sys.argv[1]](Tree())
