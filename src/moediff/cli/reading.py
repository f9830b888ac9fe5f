"""Options that say how a scan is read, shared by the commands that take scans from scanners."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.cli.options import Option, option

if TYPE_CHECKING:
    from moediff.io.scans import LoadedScan

TRUST_INTENSITIES = option(
    "--trust-intensities",
    action="store_true",
    help="accept what looks like labels, a mask or a probability map",
)


def scan_path(text: str) -> Path:
    """A path as it was typed; nothing at all is no name of the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty, expected that of a scan: is a shell variable unset?")
    return Path(text)


def reading_options(of: str = "") -> tuple[Option, ...]:
    """Rows of a table; `of` says which scan they are about where there are several."""
    return (
        option("--trust", choices=("sform", "qform"), help=f"{of}which affine to use where the two contradict"),
        option("--volume", type=int, metavar="N", help=f"{of}which volume of a 4-D file, counted from 0"),
        option("--series", metavar="N", help=f"{of}which DICOM series, by number or UID (see `moediff dicom list`)"),
    )


def read(path: Path, args: argparse.Namespace, series: str | None = None) -> LoadedScan:
    """The scan as these options want it; `series` is one of several that --series names."""
    from moediff.io.scans import load

    return load(path, trust=args.trust, index=args.volume, series=series or args.series)
