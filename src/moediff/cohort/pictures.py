"""Pictures of a result for the pages of a cohort: drawn while the scan is in memory, kept as one small JSON file.

Input, interpolated, enhanced and what was changed, in three planes, and a thumbnail; pages are put together from these
files and sidecars alone, so that a new participant costs one page.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from moediff.core.errors import MoeDiffError
from moediff.core.schema import record_from
from moediff.inference.result import Enhanced
from moediff.io.atomic import write_file, write_text
from moediff.io.naming import stem_of
from moediff.report.cohort import cohort_entry
from moediff.report.data import ReportFiles, ReportScans, from_files, source_beside
from moediff.report.display import display
from moediff.report.slices import Picture, pictures

SUFFIX, THUMBNAIL = "_pictures.json", "_thumbnail.png"


@dataclass(frozen=True)
class Pictures:
    """What pages show of a result: of each plane, one picture of every scan and map."""

    planes: tuple[tuple[Picture, ...], ...]


def pictures_path(folder: Path, scan: Path) -> Path:
    """Where the pictures of a result lie."""
    return folder / f"{stem_of(scan)}{SUFFIX}"


def thumbnail_path(folder: Path, scan: Path) -> Path:
    """Where the small picture of a result lies, a PNG: the index links it, so that it stays small itself."""
    return folder / f"{stem_of(scan)}{THUMBNAIL}"


def draw_pictures(result: Enhanced, folder: Path, scan: Path) -> Pictures:
    """Draw and write the pictures of a result that was just computed.

    Raises:
        DataError: the result is constant.
        CannotCreate, OutputFailed: they cannot be written.
    """
    scans = ReportScans(
        enhanced=result.volume,
        name=scan.name,
        source=result.source.volume,
        interpolated=result.interpolated,
        residual=result.residual,
    )
    return _draw(scans, folder, scan)


def pictures_of(scan: Path, folder: Path) -> Pictures:
    """The pictures of a result, drawn again from its files where they are not there or older than it.

    Raises:
        MoeDiffError: the result cannot be read.
    """
    path = pictures_path(folder, scan)
    try:
        if path.stat().st_mtime_ns >= scan.stat().st_mtime_ns and thumbnail_path(folder, scan).exists():
            return record_from(Pictures, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, MoeDiffError):
        pass  # absent, or of an earlier version
    return _draw(from_files(ReportFiles(scan=scan, source=source_beside(scan))), folder, scan)


def _draw(scans: ReportScans, folder: Path, scan: Path) -> Pictures:
    """Draw and write; the thumbnail first, so that whoever sees the pictures has it too."""
    drawn = Pictures(tuple(tuple(row) for row in pictures(display(scans))))
    folder.mkdir(parents=True, exist_ok=True)
    thumbnail = base64.b64decode(cohort_entry(scans, scan).thumbnail.partition(",")[2])
    write_file(thumbnail_path(folder, scan), lambda file: file.write(thumbnail), overwrite=True)
    write_text(json.dumps(asdict(drawn)), pictures_path(folder, scan), overwrite=True)
    return drawn
