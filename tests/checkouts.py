"""Checkouts of a reader's own: a repository with this tree in it, committed as it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def git(*arguments: str, folder: Path) -> str:
    """What git prints, run in a folder, whoever owns that."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", "-c", "safe.directory=*", *identity, *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def repository(folder: Path) -> Path:
    """Makes a repository in a new folder, of the files that git knows or would add."""
    folder.mkdir()
    listed = git("ls-files", "-z", "-co", "--exclude-standard", folder=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git("init", "--quiet", folder=folder)
    git("add", "--all", folder=folder)
    git("commit", "--quiet", "--message", "as it is", folder=folder)
    return folder
