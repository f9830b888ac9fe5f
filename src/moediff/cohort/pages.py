"""Pages of a cohort: one a participant, and an index with pictures, outliers and failures that links to them.

A page holds a checksum of what it shows, so only pages whose results changed are drawn again; the index always is.
"""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moediff._version import RESEARCH_ONLY, __version__
from moediff.cohort.bids_names import BidsName
from moediff.cohort.pictures import Pictures, pictures_of, thumbnail_path
from moediff.cohort.results import FailedScan, Result
from moediff.core.errors import MoeDiffError
from moediff.core.extras import require_modules
from moediff.io.atomic import write_text
from moediff.report.cohort import COLUMNS, LEAST, LIMIT, Cell, Row, numbers_of, robust_z
from moediff.report.page import environment, policy
from moediff.report.sanitise import number, one_line

INDEX = "index.html"
LEAST_SHARE = (
    0.1  # of the median that a value must be away from it: where all are nearly equal, any is many deviations off
)
HEAD_BYTES = 4096  # of a page, which hold its checksum
TITLES = (*((key, title) for key, title, *_ in COLUMNS), ("warnings", "warnings"), ("time", "time, s"))


@dataclass(frozen=True)
class Written:
    """What was written: the index, how many scans and pages it lists, and how many pages were drawn anew."""

    index: Path
    scans: int
    pages: int
    renewed: int


@dataclass(frozen=True)
class _Listed:
    """One scan as pages show it."""

    result: Result
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return self.result.sidecar.stem

    @property
    def contrast(self) -> str:
        """Suffix of a BIDS name; empty for others, which are then all compared with each other."""
        name = BidsName.parse(self.result.sidecar.name)
        return "" if name is None else name.suffix

    @property
    def warnings(self) -> list[str]:
        recorded = self.record.get("warnings")
        return [one_line(text) for text in recorded] if isinstance(recorded, list) else []


def write_pages(out: Path, results: Iterable[Result], failures: Sequence[FailedScan]) -> Written:
    """Draw the pages whose results changed, and the index.

    Args:
        out: folder of the index.
        results: in the order of their groups.
        failures: scans that have no result.

    Raises:
        ConfigError: jinja2 is not installed.
        CannotCreate, OutputFailed: a page cannot be written.
    """
    require_modules("jinja2")
    listed, pages, renewed = list[_Listed](), 0, 0
    for _, group in groupby(results, key=lambda result: result.page):
        scans = [_Listed(result, result.record()) for result in group]
        renewed += _renew_page(scans, _failures_of(scans, failures), out / INDEX)
        pages += 1
        listed += scans
    write_text(_index(out, listed, failures), out / INDEX, overwrite=True)
    return Written(out / INDEX, len(listed), pages, renewed)


def _failures_of(scans: Sequence[_Listed], failures: Sequence[FailedScan]) -> list[FailedScan]:
    """Scans of the same participant that failed; pages of other results are about one scan."""
    group = scans[0].result.group
    return [failure for failure in failures if failure.name.partition("_")[0] == group]


def _renew_page(scans: Sequence[_Listed], failures: Sequence[FailedScan], index: Path) -> bool:
    """Draw the page of a participant unless it shows these results already."""
    page = scans[0].result.page
    digest = _digest(scans, failures)
    try:
        with page.open("rb") as file:
            if digest.encode() in file.read(HEAD_BYTES):
                return False
    except OSError:
        pass  # there is none yet
    sections = [_section(scan, page.parent) for scan in scans]
    text = _render(
        "participant.html",
        digest="" if any(section["trouble"] for section in sections) else digest,  # the next run tries again
        group=scans[0].result.group,
        scans=sections,
        titles=dict(TITLES),
        failures=[(failure, _href(failure.log, page.parent)) for failure in failures],
        index=_href(index, page.parent),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(text, page, overwrite=True)
    return True


def _digest(scans: Sequence[_Listed], failures: Sequence[FailedScan]) -> str:
    """Checksum of the sidecars and failures of a page, of which viewers there are, and of the program's version."""
    parts = [__version__, *(f"{failure.name} {failure.reason}" for failure in failures)]
    for scan in scans:
        content = scan.result.sidecar.read_bytes()
        parts += [scan.name, hashlib.sha256(content).hexdigest(), str(scan.result.viewer.exists())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _section(scan: _Listed, folder: Path) -> dict[str, Any]:
    """What a participant's page shows of one scan."""
    pictures: Pictures | None = None
    trouble = ""
    try:
        pictures = pictures_of(scan.result.scan, scan.result.figures)
    except (MoeDiffError, OSError) as error:
        trouble = one_line(str(error).replace(f"{scan.result.scan.parent}{os.sep}", ""))
    return {
        "name": scan.name,
        "planes": [] if pictures is None else pictures.planes,
        "trouble": trouble,
        "facts": _facts(scan.record),
        "numbers": numbers_of(scan.record),
        "warnings": scan.warnings,
        "viewer": _href(scan.result.viewer, folder) if scan.result.viewer.exists() else "",
        "result": _href(scan.result.scan, folder),
    }


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings and sources, in words."""
    sources, weights = record.get("Sources"), record.get("weights")
    facts = [
        ("source", ", ".join(one_line(s) for s in sources) if isinstance(sources, list) else _file(record)),
        ("voxels of the scan, mm", _sizes(record.get("input"))),
        ("voxels of the result, mm", _sizes(record.get("output"))),
        ("weights", one_line(weights.get("name", "")) if isinstance(weights, dict) else ""),
        ("mode", one_line(record["settings"].get("mode", "")) if isinstance(record.get("settings"), dict) else ""),
    ]
    score = number(record.get("out_of_distribution_score"))
    facts.append(("out-of-distribution score", "" if score is None else f"{score:.2f}"))
    return [(what, value) for what, value in facts if value]


def _file(record: dict[str, Any]) -> str:
    named = record.get("input_file")
    return one_line(named.get("path") or "") if isinstance(named, dict) else ""


def _sizes(grid: object) -> str:
    sizes = grid.get("spacing_mm") if isinstance(grid, dict) else None
    known = [number(size) for size in sizes] if isinstance(sizes, list) else []
    return " x ".join(f"{size:.3g}" for size in known if size is not None)


def _index(out: Path, listed: Sequence[_Listed], failures: Sequence[FailedScan]) -> str:
    numbers = [numbers_of(scan.record) for scan in listed]
    columns = [(key, title) for key, title in TITLES if any(row[key] is not None for row in numbers)]
    scores = {key: _scores(listed, [row[key] for row in numbers]) for key, _ in columns if key != "time"}
    rows = []
    for at, scan in enumerate(listed):
        cells = tuple(Cell(key, numbers[at][key], scores[key][at] if key in scores else None) for key, _ in columns)
        thumbnail = thumbnail_path(scan.result.figures, scan.result.scan)
        href = f"{_href(scan.result.page, out)}#{quote(scan.name)}"
        picture = _href(thumbnail, out) if thumbnail.exists() else ""
        rows.append(Row(scan.name, href, picture, scan.warnings, cells))
    rows.sort(key=lambda row: (-row.flags, row.name))
    script = files("moediff.report").joinpath("templates", "index.js").read_text(encoding="utf-8")
    return _render(
        "index.html",
        columns=columns,
        rows=rows,
        pages=len({scan.result.page for scan in listed}),
        participants=all(scan.result.group.startswith("sub-") for scan in listed),
        failures=[(failure, _href(failure.log, out)) for failure in failures],
        flagged=sum(bool(row.flags) for row in rows),
        limit=LIMIT,
        least=LEAST,
        script=script,
        # The index links its thumbnails, so that it stays small: 'self' in most browsers, file: in others.
        policy=policy((script,), images="data: 'self' file:"),
    )


def _scores(listed: Sequence[_Listed], values: Sequence[float | None]) -> list[float | None]:
    """How far each value lies from those of the scans of the same contrast: a FLAIR among T1w is no outlier."""
    result: list[float | None] = [None] * len(listed)
    for contrast in {scan.contrast for scan in listed}:
        places = [at for at, scan in enumerate(listed) if scan.contrast == contrast]
        known = [value for at in places if (value := values[at]) is not None]
        usual = statistics.median(known) if known else 0.0
        for at, z in zip(places, robust_z([values[at] for at in places]), strict=True):
            far = abs((values[at] or 0.0) - usual) >= LEAST_SHARE * abs(usual)
            result[at] = z if far or z is None else 0.0
    return result


def _render(template: str, **values: Any) -> str:
    pages = environment("moediff.cohort")
    safe, own = pages.filters["safe"], files("moediff.cohort").joinpath("templates")
    style = files("moediff.report").joinpath("templates", "index.css").read_text(encoding="utf-8")
    style += own.joinpath("cohort.css").read_text(encoding="utf-8")
    values = {"policy": policy(()), **values, "notice": RESEARCH_ONLY, "style": safe(style)}
    if "script" in values:
        values["script"] = safe(values["script"])
    return str(pages.get_template(template).render(values))


def _href(path: Path, folder: Path) -> str:
    """A relative link; names need not be UTF-8."""
    return quote(os.fsencode(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()))
