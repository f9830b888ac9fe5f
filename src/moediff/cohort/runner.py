"""Running a cohort: hands tasks to workers, retries what is temporary, and records everything else.

`run_tasks` is the same for one process and for a cluster; what differs are its workers (`workers.py`).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from itertools import count

from moediff.cohort.attempt import HELD, Attempt
from moediff.cohort.dask_workers import DaskWorkers
from moediff.cohort.journal import Entry, Event, Journal, now_s
from moediff.cohort.local import LocalWorkers
from moediff.cohort.progress import progress_for
from moediff.cohort.tally import Tally
from moediff.cohort.tasks import Outcome, RunnerOptions, Summary, Task, Work, check_names
from moediff.cohort.workers import Report, SerialWorkers, Workers
from moediff.core.errors import ConfigError

WAIT_S = 0.5  # between looks at the clock, at most
HELD_DELAY_S = 2.0  # before a task that another run works on, or a queue interrupted, is handed out again


def run_tasks(tasks: Sequence[Task], work: Work, options: RunnerOptions) -> Summary:
    """Do every task once, wherever the options say; a failed one never stops the others.

    A task is retried where its exit code says temporary or its worker died, up to `options.retries` times; one that
    another run works on is waited for, and one whose worker a queue took away is handed out again. Interrupted at any
    moment, it can be run again: `work` finds what is done.

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
    if work.__module__ == "__main__" and options.runner != "serial":
        raise ConfigError(
            f"{work.__name__} is defined in the program itself: put it into a module that can be imported"
        )
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


class _Run:
    """One run: which tasks are under way and which wait for another attempt."""

    def __init__(
        self, tasks: Sequence[Task], work: Work, options: RunnerOptions, workers: Workers, journal: Journal
    ) -> None:
        self.tasks, self.work, self.options = tasks, work, options
        self.workers, self.journal = workers, journal
        self.tally = Tally(options.folder)
        self.progress = progress_for(quiet=options.quiet)
        self.under_way: dict[str, int] = {}  # attempt by the name of the task
        self.again: list[tuple[float, int, int, Task]] = []  # heap: when, order of entry, attempt, task
        self.next = 0  # the first task never handed out
        self.order = count()
        self.stopping = False

    def run(self) -> Summary:
        begun = time.monotonic()
        self._note(self.journal.first(total=len(self.tasks), workers=self.workers.count, runner=self.options.runner))
        reason = "interrupted"
        try:
            while self._hand_out() or self.under_way or self.again:
                for report in self.workers.wait(self._patience_s()):
                    self._receive(report)
                self.progress.show(self.tally)
            reason = "stopped after a failure" if self.stopping else ""
        finally:
            seconds = round(time.monotonic() - begun, 3)
            self._note(Entry(event="end", time_s=now_s(), reason=reason, seconds=seconds))
            self.progress.close(self.tally)
        return Summary(
            total=len(self.tasks),
            done=self.tally.done,
            skipped=self.tally.skipped,
            failures=tuple(self.tally.failures),
            not_run=len(self.tasks) - self.tally.finished,
            retried=self.tally.retried,
            workers_lost=self.tally.workers_lost,
            seconds=seconds,
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
            self._note(Entry(event="start", time_s=now_s(), task=task.name, attempt=attempt))
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
            self._note_end("lost", task, attempt, outcome)
        if outcome.reason == HELD or report.preempted:
            self._note_end("wait", task, attempt, outcome)
            self._try_again(task, attempt, HELD_DELAY_S)
        elif outcome.temporary and attempt <= self.options.retries and not self.stopping:
            self._note_end("retry", task, attempt, outcome)
            self._try_again(task, attempt + 1, self.options.retry_delay_s * 2 ** (attempt - 1))
        else:
            self._note_end(outcome.status, task, attempt, outcome)
            if outcome.status == "failed":
                self.progress.failure(self.tally.failures[-1])
                self.stopping = self.stopping or self.options.stop_on_first_failure

    def _try_again(self, task: Task, attempt: int, delay_s: float) -> None:
        heapq.heappush(self.again, (time.monotonic() + delay_s, next(self.order), attempt, task))

    def _note_end(self, event: Event, task: Task, attempt: int, outcome: Outcome) -> None:
        self._note(
            Entry(
                event=event,
                time_s=now_s(),
                task=task.name,
                attempt=attempt,
                exit_code=outcome.exit_code,
                reason=outcome.reason,
                seconds=round(outcome.seconds, 3),
                source=task.source if event == "failed" else "",
            )
        )

    def _note(self, entry: Entry) -> None:
        self.journal.write(entry)
        self.tally.add(entry)
