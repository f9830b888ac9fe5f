"""Programs that tests start: whether they still run."""

from __future__ import annotations

from pathlib import Path


def is_running(pid: int) -> bool:
    """Not gone, and no zombie that nobody has collected; on Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # also where it ends between opening and reading
        return False
