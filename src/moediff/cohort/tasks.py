"""Tasks of a cohort run: what the part that knows scans hands to the part that runs them, and what comes back.

A task is one scan. Its `spec` belongs to whoever made it; the runner only carries it to a worker process and calls
`work(task)` there. `work` is a function of a module, so that another process can import it; it returns an `Outcome` or
raises, and looks itself whether the result is there already (then it returns `skipped`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from moediff.core.errors import ConfigError, TryAgain

Status: TypeAlias = Literal["done", "skipped", "failed"]
RunnerName: TypeAlias = Literal["serial", "processes", "dask", "slurm", "pbs", "lsf"]
RUNNERS: tuple[str, ...] = get_args(RunnerName)
QUEUES = ("slurm", "pbs", "lsf")
SOME_FAILED = 8  # exit code of a cohort in which some scans failed
NAME = re.compile(r"[A-Za-z0-9][\w.+=@-]*", re.ASCII)
LONGEST_NAME = 200  # a file system's limit is 255 bytes, and a log's name is longer than the task's


@dataclass(frozen=True)
class Task:
    """One scan to work on.

    Args:
        name: unique in its cohort and fit for a file name: letters, digits and `_.+=@-`, at most 200.
        spec: anything that pickles; only `work` looks at it.
        source: path of the scan as the command finds it again, for the journal of failures; empty: none.

    Raises:
        ConfigError: the name is not fit for a file name.
    """

    name: str
    spec: object
    source: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or len(self.name) > LONGEST_NAME:
            raise ConfigError(
                f"task name {self.name!r}: expected up to {LONGEST_NAME} letters, digits and _.+=@-, the first a "
                "letter or digit"
            )


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Args:
        status: done: results were written; skipped: they were there already; failed: there are none.
        exit_code: as the program would end with for this scan alone (`core/errors.py`); 0 unless failed.
        reason: one sentence why it failed or was skipped.
        seconds: wall time of the work.
        outputs: paths of the files written, as text.
    """

    status: Status
    exit_code: int = 0
    reason: str = ""
    seconds: float = 0.0
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ConfigError(f"outcome {self.status!r}: expected one of {', '.join(get_args(Status))}")
        if (self.status == "failed") != (self.exit_code != 0):
            raise ConfigError(f"outcome {self.status!r} with exit code {self.exit_code}: only failures have one")

    @property
    def temporary(self) -> bool:
        """Whether trying again may help."""
        return self.exit_code == TryAgain.exit_code


Work: TypeAlias = Callable[[Task], Outcome]


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """How jobs are asked for from a cluster's queue; each job runs one worker process.

    Args:
        partition: queue or partition; None takes the cluster's default.
        account: account or project to charge.
        walltime: longest time of one job, HH:MM:SS; a worker that reaches it is replaced.
        directives: further lines for the job script, without `#SBATCH`, `#PBS` or `#BSUB`.
        setup: shell lines before the worker starts (`module load …`).
        interface: network interface of the nodes, such as ib0; None lets the library choose.
    """

    partition: str | None = None
    account: str | None = None
    walltime: str = "04:00:00"
    directives: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    interface: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{1,3}:[0-5]\d:[0-5]\d", self.walltime):
            raise ConfigError(f"walltime {self.walltime!r}: expected HH:MM:SS, such as 04:00:00")


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Where and how tasks run.

    Args:
        folder: for the journal and the log of every task; made where it is missing.
        runner: serial, processes (of this machine), dask (the same through Dask), or a queue: slurm, pbs, lsf.
        processes: workers at once; None: as many as GPUs, or as cores and memory allow (on a queue: 1).
        threads: threads of one worker; None shares the cores out.
        memory_mb: memory for all workers of this machine together; None: what is free. On a queue: of one job.
        task_memory_mb: what one task needs at its peak, in MiB.
        gpus: of this machine, as `visible_gpus` names them; workers share them out, by default one each.
        retries: how often a task whose fault is temporary, or whose worker died, is tried again.
        retry_delay_s: pause before the first retry; twice as long before each further one.
        stop_on_first_failure: start nothing new after the first task that failed for good.
        quiet: no progress on standard error.
        queue: for slurm, pbs and lsf.

    Raises:
        ConfigError: an unknown runner, or a number out of range.
    """

    folder: Path
    runner: RunnerName = "processes"
    processes: int | None = None
    threads: int | None = None
    memory_mb: int | None = None
    task_memory_mb: int = 3000
    gpus: tuple[str, ...] = ()
    retries: int = 2
    retry_delay_s: float = 5.0
    stop_on_first_failure: bool = False
    quiet: bool = False
    queue: QueueOptions = field(default_factory=QueueOptions)

    def __post_init__(self) -> None:
        if self.runner not in RUNNERS:
            raise ConfigError(f"runner {self.runner!r}: expected one of {', '.join(RUNNERS)}")
        for name in ("processes", "threads", "memory_mb", "task_memory_mb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: expected at least 1")
        if self.retries < 0 or self.retry_delay_s < 0:
            raise ConfigError(f"retries={self.retries}, retry_delay_s={self.retry_delay_s}: expected 0 or more")


@dataclass(frozen=True)
class Failure:
    """A task that failed for good.

    Args:
        name: the task's.
        exit_code: of its last attempt.
        reason: one sentence.
        attempts: how often it was tried.
        log: its log file.
    """

    name: str
    exit_code: int
    reason: str
    attempts: int
    log: Path


@dataclass(frozen=True)
class Summary:
    """What became of a cohort.

    Args:
        total: tasks given.
        done, skipped: how many of them.
        failures: those that failed, in the order in which they did.
        not_run: left undone after `stop_on_first_failure`.
        retried: attempts beyond each task's first.
        workers_lost: worker processes that died and were replaced.
        seconds: wall time of the run.
        journal: the run's journal.
    """

    total: int
    done: int
    skipped: int
    failures: tuple[Failure, ...]
    not_run: int
    retried: int
    workers_lost: int
    seconds: float
    journal: Path

    @property
    def exit_code(self) -> int:
        """0, or 8 where some failed."""
        return SOME_FAILED if self.failures else 0


def check_names(tasks: Sequence[Task]) -> None:
    """Every task of a cohort needs a name of its own, also where a file system ignores case.

    Raises:
        ConfigError: two tasks have one name.
    """
    frequencies = Counter(task.name.lower() for task in tasks)
    name, count = frequencies.most_common(1)[0] if frequencies else ("", 0)
    if count > 1:
        raise ConfigError(f"{count} tasks are named {name}: expected one name for each")
