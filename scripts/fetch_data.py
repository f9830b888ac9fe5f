"""Fetch the training data of a manifest and verify every checksum.

    python scripts/fetch_data.py [--manifest data/manifest.csv] [--to ../shared/data] [--from DIR]

Files that are there already are verified and left alone. Rows whose source is no direct link are listed with where to
get them. --from copies from a folder with the same paths instead of downloading.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from moediff.training.manifest import fetch, read_manifest_table

ROOT = Path(__file__).resolve().parent.parent


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
