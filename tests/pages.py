"""The shell lines of README.md and docs/, as a reader types them: from the top, in one shell.

    python3 tests/pages.py README.md [OLD NEW]...    prints them as a script

Blocks marked `sh` are typed; those marked `shell` are shown only, as what they do takes hours.
Each NEW takes the place of an OLD: what stands for something of the reader's own, such as the
path of a model, or what cannot be done where the script is run. Needs the standard library only,
as tests/bare/run calls it on a machine where nothing is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def blocks(page: str, language: str = "sh") -> list[str]:
    """The page's blocks of code in a language, in their order."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$",
        (ROOT / page).read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )


def script(page: str, instead: dict[str, str]) -> str:
    """The page's shell blocks as one script; every text that is to be replaced must be there."""
    text = "".join(blocks(page))
    for old, new in instead.items():
        if old not in text:
            raise LookupError(f"{page} has no {old!r}")
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    page, *pairs = sys.argv[1:]
    print(script(page, dict(zip(pairs[::2], pairs[1::2], strict=True))), end="")
