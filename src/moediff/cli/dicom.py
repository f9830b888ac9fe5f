"""`moediff dicom`: list the series of a DICOM export."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from moediff.cli.options import INPUT, OUTPUT, Command, add_actions, add_command, option

if TYPE_CHECKING:
    from collections.abc import Callable

    from moediff.cli import Commands
    from moediff.io.dicom.series import SeriesRow


def add(commands: Commands) -> None:
    """Declare the command."""
    actions = add_actions(commands, "dicom", "list the series of a DICOM export", "List the series of a DICOM export.")
    listing = Command(
        name="list",
        summary="list the series in a folder or zip; shows no personal data",
        description="List the series in a folder or zip, and whether each can be enhanced. Shows no personal data.",
        options={
            INPUT: (option("path", type=Path, metavar="DIR_OR_ZIP", help="folder, zip, or one multi-frame file"),),
            OUTPUT: (option("--json", action="store_true", help="print JSON instead of a table"),),
        },
        examples=(
            "moediff dicom list dicom_folder/",
            "moediff enhance dicom_folder/ --series 5 -o out.nii.gz     # the number that the list shows",
            "moediff enhance dicom_folder/ --series 3,5,7 -o out.nii.gz # several of one study become one",
        ),
        call=list_command,
    )
    add_command(actions, listing)


def list_command(args: argparse.Namespace) -> int:
    """Print what each series is and whether it can be enhanced."""
    from moediff.core.errors import prefix_errors, printable
    from moediff.io.dicom.reader import series_warnings
    from moediff.io.dicom.series import list_series

    with prefix_errors(printable(args.path)):
        notes: list[str] = []
        every = list_series(args.path, notes)
    rows = [series.row() for series in every]
    notes += [f"series {series.label}: {note}" for series in every for note in series_warnings(series)]
    for note in notes:
        print(f"moediff: warning: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    return 0


def _print_table(rows: list[SeriesRow]) -> None:
    """A line a series; the reason why one cannot be enhanced on a line of its own. Nothing is cut to fit a terminal."""
    columns = [name for name in COLUMNS if name != "study" or len({row.study for row in rows}) > 1]
    lines = [columns, *([COLUMNS[name](row) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line, row in zip(lines, (None, *rows), strict=True):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if row is not None and not row.usable:
            print(f"    not usable: {row.reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


COLUMNS: dict[str, Callable[[SeriesRow], str]] = {  # that of studies only where there are several
    "series": lambda row: row.series,
    "study": lambda row: f"{row.study}: {row.study_description or '-'}",
    "description": lambda row: row.description or "-",
    "plane": lambda row: row.plane or "-",
    "kind": lambda row: " ".join(filter(None, (row.modality, row.sequence))),
    "TR/TE ms": lambda row: f"{_number(row.tr_ms)}/{_number(row.te_ms)}",
    "matrix x slices": lambda row: " x ".join(str(n) for n in (*row.matrix, row.slices)),
    "voxel mm": lambda row: " x ".join(f"{mm:g}" for mm in row.spacing_mm) or "-",
    "slice mm": lambda row: _number(row.thickness_mm),
}
