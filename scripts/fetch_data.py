"""Fetch the training data of a manifest and verify every checksum.

    python scripts/fetch_data.py [--manifest data/manifest.csv] [--to ../shared/data] [--from DIR]

Files that are there already are verified and left alone. Rows whose source is no direct link are listed with where to
get them. --from copies from a folder with the same paths instead of downloading.
"""

from __future__ import annotations

import argparse
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moediff.core.errors import DataError, MoeDiffError
from moediff.io.atomic import whole_file
from moediff.model.bundle import sha256_of
from moediff.training.manifest import ManifestRow, read_manifest_table

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60


@dataclass(frozen=True)
class Fetched:
    """What became of one row: "there", "copied", "fetched", "by hand" (no direct url) or "failed", and why."""

    row: ManifestRow
    outcome: str
    reason: str = ""


def fetch(row: ManifestRow, data: Path, mirror: Path | None = None) -> Fetched:
    """Bring one file into the data folder and verify it.

    Args:
        mirror: a folder that holds the files already; nothing is downloaded then.
    """
    target = data / row.path
    if target.is_file():
        right = sha256_of(target) == row.sha256
        return Fetched(row, "there") if right else Fetched(row, "failed", "another file of this name is there")
    if mirror is None and not row.url:
        return Fetched(row, "by hand", row.source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target, overwrite=False) as hidden:
            if mirror is not None:
                shutil.copyfile(mirror / row.path, hidden)
            else:
                with urllib.request.urlopen(row.url, timeout=TIMEOUT_S) as answer, hidden.open("wb") as file:
                    shutil.copyfileobj(answer, file)
            if (digest := sha256_of(hidden)) != row.sha256:
                raise DataError(f"its checksum is {digest[:12]}..., not {row.sha256[:12]}...")
    except (OSError, MoeDiffError) as error:
        return Fetched(row, "failed", str(error))
    return Fetched(row, "copied" if mirror is not None else "fetched")


def main(words: Sequence[str] | None = None) -> int:
    """Fetch all; returns 1 where a file is still missing or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=ROOT / "data" / "manifest.csv")
    parser.add_argument("--to", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR")
    parser.add_argument("--from", type=Path, dest="mirror", metavar="DIR", help="copy from here, without a network")
    args = parser.parse_args(words)
    complete = True
    for row in read_manifest_table(args.manifest):
        result = fetch(row, args.to, args.mirror)
        complete &= result.outcome in ("there", "copied", "fetched")
        print(f"{result.outcome:8} {row.path}" + (f": {result.reason}" if result.reason else ""), flush=True)
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
