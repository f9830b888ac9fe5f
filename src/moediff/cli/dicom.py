"""`moediff dicom`: list the series of a DICOM export."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moediff.cli import Commands
    from moediff.io.dicom.series import SeriesRow


def add(commands: Commands) -> None:
    """Declare the command."""
    dicom = commands.add_parser("dicom", help="list what a DICOM export holds").add_subparsers(
        required=True, metavar="ACTION"
    )
    listing = dicom.add_parser("list", help="list the series in a folder or zip; shows no personal data")
    listing.add_argument("path", type=Path, metavar="DIR_OR_ZIP")
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")
    listing.set_defaults(call=list_command)


def list_command(args: argparse.Namespace) -> int:
    """Print what each series is and whether it can be enhanced."""
    from moediff.core.errors import prefix_errors, printable
    from moediff.io.dicom.series import list_series

    with prefix_errors(printable(args.path)):
        rows = [series.row() for series in list_series(args.path)]
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    return 0


def _print_table(rows: list[SeriesRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(asdict(rows[0]))
    table = Table(*(name.replace("_", " ") for name in names), box=None)
    for row in rows:
        table.add_row(*(_cell(value) for value in asdict(row).values()))
    Console(markup=False).print(table)


def _cell(value: str | int | bool | tuple[float, ...]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " x ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
