"""Tally of a run: what its journal's entries add up to, for its own progress and for `moediff cohort status`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from moediff.cohort.attempt import log_path
from moediff.cohort.journal import Entry, alive, journals, read_entries
from moediff.cohort.tasks import Failure
from moediff.core.errors import InputMissing, printable

LOGS = "logs"  # below a folder of results
ENDS = ("done", "skipped", "failed")


@dataclass
class Tally:
    """Counts of a run, entry by entry.

    Attributes:
        folder: of the journal and the logs.
        begun, latest: the entries that began the run and came last; None before any.
        ended: the run's last entry; None while it runs, and where it was killed.
        done, skipped, retried, workers_lost: so many.
        failures: tasks that failed for good.
        under_way: since when, by the name of the task; seconds since 1970.
    """

    folder: Path
    begun: Entry | None = None
    latest: Entry | None = None
    ended: Entry | None = None
    done: int = 0
    skipped: int = 0
    retried: int = 0
    workers_lost: int = 0
    failures: list[Failure] = field(default_factory=list)
    under_way: dict[str, float] = field(default_factory=dict)
    _working_since: float | None = None  # the first task that was not found done

    def add(self, entry: Entry) -> None:
        """Count one more entry."""
        self.latest = entry
        if entry.event == "run":
            self.begun = entry
        elif entry.event == "end":
            self.ended = entry
        elif entry.event == "start":
            self.under_way[entry.task] = entry.time_s
        elif entry.event == "lost":
            self.workers_lost += 1
        else:
            self._end(entry)

    def _end(self, entry: Entry) -> None:
        since = self.under_way.pop(entry.task, entry.time_s)
        if entry.event in ("done", "failed", "retry") and self._working_since is None:
            self._working_since = since
        self.done += entry.event == "done"
        self.skipped += entry.event == "skipped"
        self.retried += entry.event == "retry"
        if entry.event == "failed":
            log = log_path(self.folder, entry.task)
            self.failures.append(Failure(entry.task, entry.exit_code, entry.reason, entry.attempt, log))

    @property
    def total(self) -> int:
        """Tasks of the run."""
        return self.begun.total if self.begun else 0

    @property
    def finished(self) -> int:
        """Tasks that ended for good."""
        return self.done + self.skipped + len(self.failures)

    def per_hour(self, now_s: float) -> float | None:
        """Tasks an hour since the first that was not found done; None before any of these ended."""
        worked = self.done + len(self.failures)
        if self._working_since is None or not worked or now_s <= self._working_since:
            return None
        return worked * 3600 / (now_s - self._working_since)

    def left_s(self, now_s: float) -> float | None:
        """Seconds left at this rate; None where it is unknown."""
        rate = self.per_hour(now_s)
        return (self.total - self.finished) * 3600 / rate if rate else None

    def counts_text(self, now_s: float) -> str:
        """Counts, rate and time left in one line."""
        words = [f"{self.finished} of {self.total} scans", f"{self.done} done"]
        words += [f"{self.skipped} there already"] if self.skipped else []
        words += [f"{len(self.failures)} failed"] if self.failures else []
        rate, left = self.per_hour(now_s), self.left_s(now_s)
        if rate is not None and left is not None and not self.ended:
            words += [f"{rate:.3g} scans an hour" if rate < 1000 else f"{rate:.0f} scans an hour"]
            words += [f"about {duration_text(left)} left"] if left else []
        return ", ".join(words)


def duration_text(seconds: float) -> str:
    """A duration in words: 40 s, 12 min, 3 h 5 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def tally_of(path: Path, entries: Iterable[Entry] | None = None) -> Tally:
    """The tally of a journal."""
    tally = Tally(path.parent)
    for entry in read_entries(path) if entries is None else entries:
        tally.add(entry)
    return tally


@dataclass(frozen=True)
class RunStatus:
    """One run as another process sees it."""

    journal: Path
    tally: Tally
    alive: bool

    @property
    def state(self) -> str:
        """In words; a run that is neither alive nor ended was killed, or is out of sight."""
        if self.alive:
            return "running"
        if self.tally.ended is not None:
            return self.tally.ended.reason or "finished"
        return "killed, or running on a machine whose locks are not seen here"


def runs_of(folder: Path) -> list[RunStatus]:
    """Every run that lives, and the latest; the latest last.

    Args:
        folder: of the results, or of the logs.

    Raises:
        InputMissing: there is no journal.
    """
    holding = [candidate for candidate in (folder / LOGS, folder) if journals(candidate)]
    if not holding:
        raise InputMissing(
            f"{printable(folder)}: no run has left a journal here: name the output folder of a cohort, or the folder "
            "given as its work folder (-w)"
        )
    every = journals(holding[0])
    living = {path for path in every if alive(path)}
    return [RunStatus(path, tally_of(path), path in living) for path in every if path in living or path == every[-1]]
