"""A headless browser: what it computes of a page, and how the page looks."""

from __future__ import annotations

import html
import json
import re
import subprocess
import tempfile
from pathlib import Path

from conftest import ROOT
from PIL import Image

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--virtual-time-budget=60000",
]


def path() -> str:
    """The browser that the set-up finds; an error says what to do where there is none."""
    found = subprocess.run(
        [ROOT / "extension/setup/browser", "find"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def _run(file: Path, dark: bool, *flags: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [
                path(),
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                *flags,
                file.as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout


def evaluate(page: str, script: str, folder: Path, dark: bool = False) -> object:
    """What a function body returns, run in the page once it is loaded."""
    file = folder / "evaluate.html"
    file.write_text(
        f"""{page}<script>addEventListener("load", () => {{
        const result = (() => {{ {script} }})();
        document.documentElement.textContent = "RESULT" + JSON.stringify(result) + "RESULT";
    }})</script>""",
        encoding="utf-8",
    )
    dump = _run(file, dark, "--dump-dom")
    return json.loads(html.unescape(re.search("RESULT(.*)RESULT", dump, re.DOTALL)[1]))


def screenshot(file: Path, width: int, height: int, dark: bool = False) -> Image.Image:
    image = file.with_suffix(".png")
    _run(file, dark, f"--screenshot={image}", f"--window-size={width},{height}")
    with Image.open(image) as opened:
        return opened.convert("RGB")
