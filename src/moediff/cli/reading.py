"""Options that say how a scan is read, shared by the commands that take scans from scanners."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.cli.options import Gathered, Option, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moediff.io.scans import LoadedScan

TRUST_INTENSITIES = option(
    "--trust-intensities",
    action="store_true",
    help="accept what looks like labels, a mask or a probability map",
)

# What to do instead, in commands that read scans without these options.
INSTEAD = {
    "trust": "correct the header",
    "volume": "write that volume to a file of its own",
    "series": "name a folder that holds one series only",
    "trust_intensities": "name another file",
    "mem_mb": "close other programs",
}


def with_remedies_of(args: argparse.Namespace, sentence: str) -> str:
    """A message about a scan, and what to do where it names an option that the chosen command lacks."""
    lacking = [
        name for name in INSTEAD if not hasattr(args, name) and re.search(_option(name) + r"(?![-\w])", sentence)
    ]
    notes = [f"`moediff {args.command}` has no {_option(name)}: {INSTEAD[name]}" for name in lacking]
    return f"{sentence} ({'; '.join(notes)})" if notes else sentence


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def scan_path(text: str) -> Path:
    """A path as it was typed; nothing at all is no name of the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty, expected that of a scan: is a shell variable unset?")
    return Path(text)


def series_list(text: str) -> list[str]:
    """Series with commas between them."""
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty number, expected one or several as in 3,5,7")
    return names


def reading_options(of: str = "") -> tuple[Option, ...]:
    """Rows of a table; `of` says which scan they are about where there are several."""
    return (
        *_form_options(of),
        option("--series", metavar="N", help=f"{of}which DICOM series, by number or UID (see `moediff dicom list`)"),
    )


def reading_options_of_several() -> tuple[Option, ...]:
    """The same, where several series become one result."""
    return (
        *_form_options(""),
        option(
            "--series",
            type=series_list,
            action=Gathered,
            metavar="N,...",
            help="which DICOM series, by number or UID (see `moediff dicom list`); several of one study become one",
        ),
    )


def _form_options(of: str) -> tuple[Option, ...]:
    return (
        option("--trust", choices=("sform", "qform"), help=f"{of}which affine to use where the two contradict"),
        option("--volume", type=int, metavar="N", help=f"{of}which volume of a 4-D file, counted from 0"),
    )


def read(path: Path, args: argparse.Namespace) -> LoadedScan:
    """The scan as these options want it."""
    from moediff.io.scans import load

    return load(path, trust=args.trust, index=args.volume, series=args.series)


def read_every(paths: Sequence[Path], args: argparse.Namespace) -> list[LoadedScan]:
    """Scans of one head as the options of `reading_options_of_several` want them."""
    from moediff.io.scans import load, load_several

    names: list[str] = args.series or []
    if len(names) < 2:
        series = names[0] if names else None
        return [load(path, trust=args.trust, index=args.volume, series=series) for path in paths]
    every = (load_several(path, names, trust=args.trust, index=args.volume) for path in paths)
    return [scan for scans in every for scan in scans]
