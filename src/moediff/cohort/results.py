"""Results of a cohort on disk: which there are, which page each belongs to, and which scans failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moediff.cohort.attempt import log_path
from moediff.cohort.batch_placement import PAGES
from moediff.cohort.bids_dataset import LOGS
from moediff.cohort.bids_placement import RESULT
from moediff.cohort.journal import Entry, journals, read_entries
from moediff.core.errors import MoeDiffError
from moediff.inference.outputs import written_by_us
from moediff.inference.sidecar import read_sidecar

FIGURES = "figures"
ENDS = ("done", "skipped", "failed")


@dataclass(frozen=True)
class Result:
    """One result.

    Args:
        scan: the enhanced scan.
        sidecar: its record.
        group: what its page is about: a participant.
        page: that page.
        figures: folder of its pictures.
    """

    scan: Path
    sidecar: Path
    group: str
    page: Path
    figures: Path

    @property
    def viewer(self) -> Path:
        """The interactive page, which may not be there."""
        return self.figures / f"{self.sidecar.stem}.html"

    def record(self) -> dict[str, Any]:
        """The sidecar's values; empty where it is damaged."""
        try:
            return read_sidecar(self.sidecar)
        except MoeDiffError:
            return {}


@dataclass(frozen=True)
class FailedScan:
    """A scan whose last attempt failed: its task's name, the reason, and its log."""

    name: str
    reason: str
    exit_code: int
    log: Path


def bids_results(out: Path) -> Iterator[Result]:
    """Results of a derivative dataset, in the order of their names."""
    for participant in sorted(path for path in out.glob("sub-*") if path.is_dir()):
        for sidecar in sorted(participant.rglob(f"*_desc-{RESULT}_*.json")):
            scan = sidecar.with_suffix(".nii.gz")
            if scan.is_file() and sidecar.parent.name != FIGURES and written_by_us(sidecar):
                page = out / f"{participant.name}.html"
                yield Result(scan, sidecar, participant.name, page, participant / FIGURES)


def batch_results(out: Path) -> Iterator[Result]:
    """Results of a batch run, in the order of their folders and names; each has a page of its own below `pages`."""
    for here, folders, names in os.walk(out):
        folder = Path(here)
        folders[:] = sorted(name for name in folders if folder != out or name not in (PAGES, LOGS))
        for name in sorted(names):
            sidecar, scan = folder / name, (folder / name).with_suffix(".nii.gz")
            if name.endswith(".json") and scan.is_file() and written_by_us(sidecar):
                pages = out / PAGES / folder.relative_to(out)
                title = str(folder.relative_to(out) / sidecar.stem)
                yield Result(scan, sidecar, title, pages / f"{sidecar.stem}.html", pages / FIGURES)


def failed_scans(logs: Path, gone: Callable[[str], bool]) -> list[FailedScan]:
    """Tasks that failed when they were last tried, by the journals of all runs; runs may have overlapped.

    Args:
        logs: folder of the journals.
        gone: whether a scan, by the source that its task names, is to be enhanced no more.
    """
    last: dict[str, Entry] = {}
    for journal in journals(logs):
        for entry in read_entries(journal):
            if entry.event in ENDS and (entry.task not in last or entry.time_s >= last[entry.task].time_s):
                last[entry.task] = entry
    failed = (one for one in last.values() if one.event == "failed" and not (one.source and gone(one.source)))
    scans = (FailedScan(entry.task, entry.reason, entry.exit_code, log_path(logs, entry.task)) for entry in failed)
    return sorted(scans, key=lambda scan: scan.name)
