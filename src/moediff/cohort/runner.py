"""Running a cohort: hands tasks to workers, retries what is temporary, and records everything else.

`run_tasks` is the same for one process and for a cluster; what differs are its workers (`workers.py`).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from moediff.cohort.attempt import HELD, Attempt, log_path
from moediff.cohort.dask_workers import DaskWorkers
from moediff.cohort.journal import Entry, Event, Journal
from moediff.cohort.local import LocalWorkers
from moediff.cohort.tasks import Failure, Outcome, RunnerOptions, Summary, Task, Work, check_names
from moediff.cohort.workers import Report, SerialWorkers, Workers

WAIT_S = 0.5  # between looks at the clock, at most
HELD_DELAY_S = 2.0  # before a task that another run works on is looked at again


def run_tasks(tasks: Sequence[Task], work: Work, options: RunnerOptions) -> Summary:
    """Do every task once, wherever the options say; a failed one never stops the others.

    A task is retried where its exit code says temporary or its worker died, up to `options.retries` times; one that
    another run works on is waited for. Interrupted at any moment, it can be run again: `work` finds what is done.

    Args:
        tasks: of the cohort; their names differ.
        work: function of a module, called as `work(task)` in a worker process.
        options: where and how.

    Returns:
        Counts, and each failure with its reason and log.

    Raises:
        ConfigError: two tasks have one name, or the workers cannot be started as asked.
        CannotCreate, OutputFailed: the journal cannot be written.
    """
    check_names(tasks)
    workers = start_workers(options, len(tasks))
    try:
        journal = Journal(options.folder)
        try:
            return _Run(tasks, work, options, workers, journal).run()
        finally:
            journal.close()
    finally:
        workers.close()


def start_workers(options: RunnerOptions, tasks: int) -> Workers:
    """Workers of the kind that the options name, for so many tasks."""
    starters: dict[str, Callable[[RunnerOptions, int], Workers]] = {
        "serial": lambda _options, _tasks: SerialWorkers(),
        "processes": LocalWorkers,
    }
    return starters.get(options.runner, DaskWorkers)(options, tasks)


@dataclass
class _Tally:
    done: int = 0
    skipped: int = 0
    retried: int = 0
    workers_lost: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def ended(self) -> int:
        return self.done + self.skipped + len(self.failures)


class _Run:
    """One run: which tasks are under way, which wait for another attempt, and what was counted."""

    def __init__(
        self, tasks: Sequence[Task], work: Work, options: RunnerOptions, workers: Workers, journal: Journal
    ) -> None:
        self.tasks, self.work, self.options = tasks, work, options
        self.workers, self.journal = workers, journal
        self.tally = _Tally()
        self.under_way: dict[str, int] = {}  # attempt by the name of the task
        self.again: list[tuple[float, int, int, Task]] = []  # heap: when, order of entry, attempt, task
        self.next = 0  # the first task never handed out
        self.order = count()
        self.stopping = False

    def run(self) -> Summary:
        begun = time.monotonic()
        self.journal.begin(total=len(self.tasks), workers=self.workers.count, runner=self.options.runner)
        reason = "interrupted"
        try:
            while self._hand_out() or self.under_way or self.again:
                for report in self.workers.wait(self._patience_s()):
                    self._receive(report)
            reason = "stopped after a failure" if self.stopping else ""
        finally:
            self._note("end", reason=reason, seconds=time.monotonic() - begun)
        return Summary(
            total=len(self.tasks),
            done=self.tally.done,
            skipped=self.tally.skipped,
            failures=tuple(self.tally.failures),
            not_run=len(self.tasks) - self.tally.ended,
            retried=self.tally.retried,
            workers_lost=self.tally.workers_lost,
            seconds=time.monotonic() - begun,
            journal=self.journal.path,
        )

    def _hand_out(self) -> bool:
        """Fill the workers' slots; returns whether anything was handed out."""
        if self.stopping:
            self.again.clear()
            return False
        before = len(self.under_way)
        while len(self.under_way) < self.workers.slots:
            if self.again and self.again[0][0] <= time.monotonic():
                _, _, attempt, task = heapq.heappop(self.again)
            elif self.next < len(self.tasks):
                attempt, task = 1, self.tasks[self.next]
                self.next += 1
            else:
                break
            self.under_way[task.name] = attempt
            self._note("start", task.name, attempt)
            self.workers.submit(Attempt(task, self.work, self.options.folder, attempt))
        return len(self.under_way) > before

    def _patience_s(self) -> float:
        """How long to wait for workers; without any under way, until the next attempt is due."""
        until = self.again[0][0] - time.monotonic() if self.again else WAIT_S
        if not self.under_way:
            time.sleep(max(0.0, min(until, WAIT_S)))
            return 0.0
        return max(0.0, min(until, WAIT_S))

    def _receive(self, report: Report) -> None:
        task, outcome = report.task, report.outcome
        attempt = self.under_way.pop(task.name)
        if report.worker_lost:
            self.tally.workers_lost += 1
            self._note("lost", task.name, attempt, reason=outcome.reason)
        if outcome.reason == HELD:
            self._note("wait", task.name, attempt, reason=HELD)
            self._try_again(task, attempt, HELD_DELAY_S)
        elif outcome.temporary and attempt <= self.options.retries and not self.stopping:
            self.tally.retried += 1
            self._end("retry", task, attempt, outcome)
            self._try_again(task, attempt + 1, self.options.retry_delay_s * 2 ** (attempt - 1))
        else:
            self._finish(task, attempt, outcome)

    def _finish(self, task: Task, attempt: int, outcome: Outcome) -> None:
        self._end(outcome.status, task, attempt, outcome)
        if outcome.status == "done":
            self.tally.done += 1
        elif outcome.status == "skipped":
            self.tally.skipped += 1
        else:
            log = log_path(self.options.folder, task.name)
            self.tally.failures.append(Failure(task.name, outcome.exit_code, outcome.reason, attempt, log))
            self.stopping = self.stopping or self.options.stop_on_first_failure

    def _try_again(self, task: Task, attempt: int, delay_s: float) -> None:
        heapq.heappush(self.again, (time.monotonic() + delay_s, next(self.order), attempt, task))

    def _end(self, event: Event, task: Task, attempt: int, outcome: Outcome) -> None:
        self._note(event, task.name, attempt, outcome.exit_code, outcome.reason, outcome.seconds)

    def _note(
        self, event: Event, task: str = "", attempt: int = 0, exit_code: int = 0, reason: str = "", seconds: float = 0.0
    ) -> None:
        self.journal.write(
            Entry(
                event=event,
                time_s=round(time.time(), 3),
                task=task,
                attempt=attempt,
                exit_code=exit_code,
                reason=reason,
                seconds=round(seconds, 3),
            )
        )
