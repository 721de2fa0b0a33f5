"""What a backend takes, from Linux's /proc: the server is on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERVAL = 0.05  # seconds between two looks


def status(pid: int, field: str) -> float | None:
    """A field of /proc/PID/status, in MB; None where it cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(found[0]) * 1024 / 1e6 if found else None  # /proc's kB are 1,024 bytes


@contextmanager
def watch(pid: int) -> Iterator[dict[str, float | None]]:
    """Peaks of a process while the block runs, in MB, filled in at its end.

    private: its own memory (RssAnon, looked at every 50 ms); resident: with the shared buffers it
    has touched (VmHWM, since the process began).
    """
    peaks: dict[str, float | None] = {"private": None, "resident": None}
    done = threading.Event()

    def look() -> None:
        seen = [status(pid, "RssAnon")]
        while not done.wait(INTERVAL):
            seen.append(status(pid, "RssAnon"))
        peaks["private"] = max((value for value in seen if value is not None), default=None)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
        peaks["resident"] = status(pid, "VmHWM")
