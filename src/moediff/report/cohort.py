"""Index page of many enhanced scans: small pictures, numbers that can be sorted, outliers, links.

Axes: X Y Z voxels (RAS+), H W picture rows and columns.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from moediff._version import RESEARCH_ONLY
from moediff.core.errors import InputMissing, printable
from moediff.inference.outputs import written_by_us
from moediff.io.missing import is_dangling, why_missing
from moediff.io.naming import sidecar_of
from moediff.io.nifti.writer import gzip_wanted
from moediff.io.scans import write_text
from moediff.report.data import ReportScans
from moediff.report.display import display
from moediff.report.layers import PLANES
from moediff.report.page import environment, policy
from moediff.report.sanitise import number, one_line
from moediff.report.slices import data_uri, grey_HW, png

LIMIT = 3.5  # Iglewicz & Hoaglin 1993
LEAST = 5  # scans; fewer say nothing about what is usual
MAD_TO_SD, MEAN_TO_SD = 1.4826, 1.2533  # of a normal distribution
THUMBNAIL = 84  # pixels, the side of each plane's square
COLUMNS = (
    ("gap", "disagreement with the input, %", "data_consistency", "rms_over_range", 100.0),
    ("noise", "noise of the input, %", "data_consistency", "noise_over_range", 100.0),
    ("unsure", "mean uncertainty, %", "uncertainty", "mean_over_range", 100.0),
)


@dataclass(frozen=True)
class Entry:
    """One scan of the list.

    Args:
        name: file name of the input.
        page: its own page.
        thumbnail: three planes as a data URI.
        numbers: column key -> value; None where the sidecar lacks it.
        warnings: what the sidecar warns of.
    """

    name: str
    page: Path
    thumbnail: str
    numbers: dict[str, float | None]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One number of a row: its column, its value, and how many robust deviations it lies from the median."""

    key: str
    value: float | None
    z: float | None

    @property
    def out(self) -> bool:
        """Whether it stands out."""
        return self.z is not None and abs(self.z) > LIMIT


@dataclass(frozen=True)
class Row:
    """A scan as the table shows it.

    Args:
        name: what it is called.
        href: link to its page.
        thumbnail: address of its small picture; empty without any.
        warnings: what its sidecar warns of.
        cells: its numbers, by column.
    """

    name: str
    href: str
    thumbnail: str
    warnings: Sequence[str]
    cells: tuple[Cell, ...]

    @property
    def flags(self) -> int:
        """How many numbers stand out."""
        return sum(cell.out for cell in self.cells)


def robust_z(values: Sequence[float | None]) -> list[float | None]:
    """(value - median) over the cohort's robust standard deviation; None for absent values and too small cohorts.

    The deviation is 1.4826 x the median absolute one. Where more than half of all values are equal it is 0, and the
    mean absolute deviation x 1.2533 takes its place (Iglewicz & Hoaglin 1993).
    """
    known = [v for v in values if v is not None]
    if len(known) < LEAST:
        return [None] * len(values)
    middle = statistics.median(known)
    away = [abs(v - middle) for v in known]
    spread = MAD_TO_SD * statistics.median(away) or MEAN_TO_SD * statistics.fmean(away)
    if not spread:
        return [None if v is None else 0.0 for v in values]
    return [None if v is None else (v - middle) / spread for v in values]


def results_of(paths: Iterable[Path]) -> list[Path]:
    """Files as given; a folder stands for every scan in it (and below) that has a sidecar of this program.

    Raises:
        InputMissing: a folder holds none, or there is no such file.
    """
    results = []
    for path in paths:
        if not path.exists():
            raise InputMissing(f"{printable(path)}: {why_missing(path, 'file or folder')}")
        if not path.is_dir():
            results.append(path)
            continue
        inside = [p for p in sorted(path.rglob("*")) if gzip_wanted(p) is not None and (p.is_file() or is_dangling(p))]
        inside = [p for p in inside if written_by_us(sidecar_of(p))]
        if not inside:
            raise InputMissing(f"{printable(path)}: no enhanced scan with its JSON sidecar in this folder")
        results.extend(inside)
    return results


def _square(pixels_HW: np.ndarray) -> np.ndarray:
    """A plane as a black-padded square of THUMBNAIL pixels, uint8 [H, W]."""
    side = max(pixels_HW.shape)
    at = (np.arange(THUMBNAIL) * side / THUMBNAIL).astype(int)
    pad = [((side - n) // 2, side - n - (side - n) // 2) for n in pixels_HW.shape]
    return np.pad(pixels_HW, pad)[np.ix_(at, at)]


def cohort_entry(scans: ReportScans, page: Path) -> Entry:
    """What the list shows of a scan.

    Raises:
        DataError: the enhanced scan is constant.
    """
    layers = display(ReportScans(enhanced=scans.enhanced, name=scans.name))
    planes = [grey_HW(layers.enhanced, layers, plane, layers.centre[PLANES[plane][2]]) for plane in PLANES]
    recorded = scans.record.get("warnings")
    warnings = tuple(one_line(w) for w in recorded) if isinstance(recorded, list) else ()
    numbers = numbers_of(scans.record)
    thumbnail = data_uri(png(np.hstack([_square(plane_HW) for plane_HW in planes])), "image/png")
    return Entry(one_line(scans.name), page, thumbnail, numbers, warnings)


def numbers_of(record: dict[str, Any]) -> dict[str, float | None]:
    """Column key -> value of a sidecar; None where it lacks it."""
    numbers = {key: _field(record, part, field, scale) for key, _, part, field, scale in COLUMNS}
    timings, warnings = record.get("timings"), record.get("warnings")
    seconds = [number(s) or 0.0 for s in timings.values()] if isinstance(timings, dict) else []
    count = float(len(warnings)) if isinstance(warnings, list) else 0.0
    return {**numbers, "warnings": count, "time": sum(seconds) if seconds else None}


def _field(record: dict[str, Any], part: str, field: str, scale: float) -> float | None:
    section = record.get(part)
    value = number(section.get(field)) if isinstance(section, dict) else None
    return None if value is None else scale * value


def _columns(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Key and heading of every column that at least one scan fills."""
    every = [*((key, title) for key, title, *_ in COLUMNS), ("warnings", "warnings"), ("time", "time, s")]
    return [(key, title) for key, title in every if any(e.numbers[key] is not None for e in entries)]


def _rows(entries: Sequence[Entry], columns: Sequence[tuple[str, str]], folder: Path) -> list[Row]:
    """Rows as the template draws them, those that stand out first."""
    scores = {key: robust_z([entry.numbers[key] for entry in entries]) for key, _ in columns}
    rows = []
    for index, entry in enumerate(entries):
        cells = tuple(Cell(key, entry.numbers[key], scores[key][index]) for key, _ in columns)
        href = quote(os.fsencode(Path(_relative(entry.page, folder)).as_posix()))  # names need not be UTF-8
        rows.append(Row(entry.name, href, entry.thumbnail, entry.warnings, cells))
    return sorted(rows, key=lambda row: (-row.flags, row.name))


def _relative(page: Path, folder: Path) -> str:
    return os.path.relpath(page.resolve(), folder.resolve())


def render_index(entries: Sequence[Entry], folder: Path) -> str:
    """The list's text; links are relative to `folder`.

    Raises:
        ConfigError: jinja2 is not installed.
    """
    pages = environment()
    safe = pages.filters["safe"]
    read = files("moediff.report").joinpath
    script, style = (read("templates", f"index.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    columns = _columns(entries)
    rows = _rows(entries, columns, folder)
    return str(
        pages.get_template("index.html").render(
            policy=policy((script,)),
            notice=RESEARCH_ONLY,
            columns=columns,
            rows=rows,
            script=safe(script),
            style=safe(style),
            limit=LIMIT,
            least=LEAST,
            flagged=sum(bool(row.flags) for row in rows),
        )
    )


def write_index(entries: Sequence[Entry], path: Path, *, overwrite: bool = False) -> None:
    """Render and write in one step.

    Raises:
        CannotCreate, OutputFailed: the file exists or could not be written; nothing partial is left.
    """
    write_text(render_index(entries, path.parent), path, overwrite=overwrite)
