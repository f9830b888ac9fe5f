"""Small BIDS datasets of phantoms for tests."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def make_study(folder: Path, participants: int) -> Path:
    """The dataset of the tutorial with voxels four times as coarse; two scans a visit, participant 3 came twice."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from phantom_study import make_study as make
    finally:
        sys.path.remove(str(EXAMPLES))
    make(folder, coarseness=4.0, participants=participants)
    return folder


def every_file(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder, links not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        found[str(path.relative_to(folder))] = (state.st_size, state.st_mtime_ns)
    return found
