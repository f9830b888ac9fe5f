"""Workers: what every place that runs tasks offers to the runner; and the simplest, this process itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from moediff.cohort.attempt import Attempt, run_attempt
from moediff.cohort.tasks import Outcome, Task
from moediff.core.errors import TryAgain


@dataclass(frozen=True)
class Report:
    """The end of one attempt.

    Args:
        task: which.
        outcome: what became of it.
        worker_lost: the worker died over it, or with it.
        preempted: a queue took the worker away, so that this was no attempt of the task.
    """

    task: Task
    outcome: Outcome
    worker_lost: bool = False
    preempted: bool = False


class Workers(Protocol):
    """Processes that do tasks.

    Attributes:
        count: workers.
    """

    count: int

    @property
    def slots(self) -> int:
        """Tasks that may be under way at once: one a worker, and where messages travel far, a few more."""

    def submit(self, attempt: Attempt) -> None:
        """Hand over one attempt; never more than `slots` at once."""

    def wait(self, timeout_s: float) -> list[Report]:
        """Attempts that ended since the last call; returns at once where there are any, else after the timeout."""

    def close(self) -> None:
        """Stop every worker; work under way is given a moment to clean up."""


def lost_worker(why: str) -> Outcome:
    """The outcome of an attempt whose worker died."""
    return Outcome(
        "failed",
        TryAgain.exit_code,
        f"its worker process {why}; if memory ran out: fewer scans at once, or more memory a job",
    )


class SerialWorkers:
    """One worker: this process. Quick to start, and nothing else may run meanwhile."""

    count = 1

    @property
    def slots(self) -> int:
        return 1

    def __init__(self) -> None:
        self._next: Attempt | None = None

    def submit(self, attempt: Attempt) -> None:
        self._next = attempt

    def wait(self, timeout_s: float) -> list[Report]:
        if self._next is None:
            return []
        attempt, self._next = self._next, None
        return [Report(attempt.task, run_attempt(attempt))]

    def close(self) -> None:
        return
