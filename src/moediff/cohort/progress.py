"""Progress of a run on standard error: a bar on a terminal, else a line a minute; failures as they happen."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from moediff.cohort.tally import Tally
from moediff.cohort.tasks import Failure

BAR_S, LINE_S = 0.25, 60.0  # between updates


class Progress(Protocol):
    """What a run tells while it runs."""

    def show(self, tally: Tally) -> None:
        """The present state; called often, shown now and then."""

    def failure(self, failure: Failure) -> None:
        """A task failed for good."""

    def close(self, tally: Tally) -> None:
        """The last state."""


def progress_for(*, quiet: bool) -> Progress:
    """A bar on a terminal, lines elsewhere, nothing where `quiet`."""
    if quiet or sys.stderr is None:
        return NoProgress()
    return Bar() if sys.stderr.isatty() else Lines()


def failure_text(failure: Failure) -> str:
    """One line."""
    return f"{failure.name} failed (exit code {failure.exit_code}): {failure.reason}"


class NoProgress:
    """Silence."""

    def show(self, tally: Tally) -> None:
        return

    def failure(self, failure: Failure) -> None:
        return

    def close(self, tally: Tally) -> None:
        return


class Lines:
    """A line a minute, for logs of batch jobs."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_S

    def show(self, tally: Tally) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_S
            self._print(tally.counts_text(time.time()))

    def failure(self, failure: Failure) -> None:
        self._print(failure_text(failure))

    def close(self, tally: Tally) -> None:
        self._print(tally.counts_text(time.time()))

    def _print(self, text: str) -> None:
        try:
            print(f"moediff: {text}", file=sys.stderr, flush=True)
        except OSError:
            return  # nobody reads it any more, the work goes on


class Bar:
    """A bar that stays in its line; failures are printed above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("starting", total=None)
        self._next = 0.0
        self._bar.start()

    def show(self, tally: Tally) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + BAR_S
            text = tally.counts_text(time.time())
            self._bar.update(self._task, total=tally.total, completed=tally.finished, description=text)

    def failure(self, failure: Failure) -> None:
        self._bar.console.print(f"moediff: {failure_text(failure)}", markup=False, highlight=False)

    def close(self, tally: Tally) -> None:
        self._bar.stop()
        self._bar.console.print(f"moediff: {tally.counts_text(time.time())}", markup=False, highlight=False)
