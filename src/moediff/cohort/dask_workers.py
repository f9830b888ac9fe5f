"""Workers through Dask: on this machine, or as jobs of a Slurm, PBS or LSF queue (extra `cluster`).

The scheduler runs in this process. A worker whose process dies is restarted by Dask's nanny; one whose job ends, at its
walltime or by `scancel`, is replaced by asking again for as many jobs as there should be. Whatever Dask does with the
task of a dead worker, the task's lock and its outputs' checks see to it that nothing is done twice.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, Queue
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

from moediff.cohort.attempt import Attempt, limit_threads, run_attempt
from moediff.cohort.local import share_machine
from moediff.cohort.queue_jobs import PREEMPTED, Jobs, ask_slurm
from moediff.cohort.tasks import Outcome, RunnerOptions
from moediff.cohort.workers import Report, lost_worker
from moediff.core.errors import ConfigError, TryAgain
from moediff.core.extras import require_modules
from moediff.core.faults import describe_fault
from moediff.core.machine import free_memory_mb, usable_cores

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

Group: TypeAlias = tuple[Attempt, ...]
JOB_MEMORY_MB = 4000
REPLACE_S = 20.0  # between requests for the full number of jobs
CLOSE_S = 10.0
MOST_GROUPED = 64  # attempts of one message
GROUP_S = 8.0  # after which a group begins no further attempt; half of it is aimed at
SETTINGS: dict[str, object] = {
    "distributed.scheduler.allowed-failures": 0,  # how often a task is tried, the runner decides
    "distributed.scheduler.worker-saturation": 1.0,  # a waiting task is not lost with a worker that works on another
    "distributed.scheduler.worker-ttl": None,  # the work does not let the worker answer at all times
    "distributed.deploy.lost-worker-timeout": "20s",  # else a job is ended before its worker has begun anew
    "distributed.comm.timeouts.connect": "60s",
    "distributed.admin.tick.limit": "1h",
    "distributed.scheduler.http.routes": [],  # web pages that would show names of scans to anyone who asks
    "distributed.worker.http.routes": [],
}


class DaskWorkers:
    """Workers of a Dask cluster that this run starts and ends."""

    def __init__(self, options: RunnerOptions, tasks: int) -> None:
        on_queue = options.runner != "dask"
        modules = ("distributed", "cryptography", *(("dask_jobqueue",) if on_queue else ()))
        require_modules(*modules, what=f"runner {options.runner}", extra="cluster")
        import dask
        import distributed  # noqa: F401  its import sets up logging

        _quiet()
        self._settings = dask.config.set(SETTINGS)
        self._ended: Queue[tuple[Group, Future[list[Outcome | None]]]] = Queue()
        self._futures: set[Future[list[Outcome | None]]] = set()
        self._jobs = Jobs(ask_slurm if options.runner == "slurm" else None)
        self._waiting: list[Attempt] = []  # handed over by the runner, not sent yet
        self._scale_next = time.monotonic() + REPLACE_S
        share = share_machine(options, tasks, usable_cores(), free_memory_mb())
        self.count = min(options.processes or 1, max(1, tasks)) if on_queue else share.processes
        self._threads = (options.threads or 1) if on_queue else share.threads
        self._group = 1  # attempts of one message
        self._unsent = tasks  # not handed over yet
        self._one_by_one = options.stop_on_first_failure  # else a task could begin after a failure
        self._cluster = (
            _queue_cluster(options, self._threads) if on_queue else _local_cluster(self.count, self._threads)
        )
        self._client = self._connect(options.runner)

    @property
    def slots(self) -> int:
        """The next group waits at the scheduler while a worker ends its present one."""
        return self.count if self._one_by_one else 2 * self.count * self._group

    def _connect(self, runner: str) -> Client:
        from distributed import Client

        try:
            while len(self._cluster.worker_spec) < self.count:
                self._cluster.worker_spec.update(self._cluster.new_worker_spec())
            self._cluster.sync(self._cluster._correct_state)  # raises where a queue refuses us; `scale` would not
            return Client(self._cluster)
        except BaseException as error:
            with suppress(Exception):
                self._cluster.close(timeout=CLOSE_S)
            if isinstance(error, RuntimeError | OSError):
                raise ConfigError(f"runner {runner}: no worker can be started ({_last_line(error)})") from error
            raise

    def submit(self, attempt: Attempt) -> None:
        self._waiting.append(attempt)
        self._unsent -= attempt.number == 1

    def wait(self, timeout_s: float) -> list[Report]:
        self._send()
        self._note_jobs()
        self._replace_lost_jobs()
        reports: list[Report] = []
        with suppress(Empty):
            reports += self._reports(*self._ended.get(timeout=timeout_s))
            while True:
                reports += self._reports(*self._ended.get_nowait())
        return reports

    def _send(self) -> None:
        """Waiting attempts in groups, the larger the shorter they were lately; smaller ones when few are left."""
        size = max(1, min(self._group, self._unsent // (2 * self.count)))
        while self._waiting:
            group, self._waiting = tuple(self._waiting[:size]), self._waiting[size:]
            self._send_group(group)

    def _send_group(self, group: Group) -> None:
        key = f"{group[0].task.name}-{group[0].number}-{uuid4().hex[:8]}"
        future = self._client.submit(run_group, group, self._threads, os.getcwd(), key=key, pure=False)
        self._futures.add(future)
        future.add_done_callback(lambda ended: self._ended.put((group, ended)))

    def _reports(self, group: Group, future: Future[list[Outcome | None]]) -> list[Report]:
        """What became of a group; attempts that were not begun are sent again, one by one."""
        self._futures.discard(future)
        outcomes, worker_lost = self._outcomes(group, future)
        for attempt, outcome in zip(group, outcomes, strict=True):
            if outcome is None:
                self._send_group((attempt,))
        ended = [(attempt, outcome) for attempt, outcome in zip(group, outcomes, strict=True) if outcome is not None]
        self._group = self._next_group([outcome.seconds for _, outcome in ended], len(group))
        preempted = any(outcome.reason == PREEMPTED for _, outcome in ended)
        return [
            Report(attempt.task, outcome, worker_lost=worker_lost, preempted=preempted) for attempt, outcome in ended
        ]

    def _next_group(self, ended_s: Sequence[float], sent: int) -> int:
        """Attempts of the next message: one, unless they are so short that messages take a good part of the time."""
        if len(ended_s) < sent or self._one_by_one:
            return 1
        fitting = int(GROUP_S / 2 * sent / max(sum(ended_s), 1e-3))
        return max(1, min(2 * self._group, MOST_GROUPED, fitting))

    def _outcomes(self, group: Group, future: Future[list[Outcome | None]]) -> tuple[Sequence[Outcome | None], bool]:
        """Outcomes of a group, and whether its worker was lost; which of several it was lost over is not known."""
        from distributed import KilledWorker

        try:
            error = future.exception(timeout=CLOSE_S)
            if error is None:
                return future.result(timeout=CLOSE_S), False
        except Exception as fault:  # cancelled, or the connection is gone
            error = fault
        if len(group) > 1:
            return [None] * len(group), False
        if isinstance(error, KilledWorker):
            if self._jobs.ended_by_queue(str(error.last_worker.name)):
                return [Outcome("failed", TryAgain.exit_code, PREEMPTED)], True
            return [lost_worker("was ended")], True
        if type(error).__name__ in ("CancelledError", "FutureCancelledError", "TimeoutError"):
            return [Outcome("failed", TryAgain.exit_code, "its result was lost on the way: run again")], False
        code, reason = describe_fault(error)
        return [Outcome("failed", code, reason)], False

    def _note_jobs(self) -> None:
        """Which job each worker runs in; Dask forgets it soon after the job has ended."""
        for name, job in self._cluster.workers.items():
            if getattr(job, "job_id", None):
                self._jobs.note(str(name), str(job.job_id))

    def _replace_lost_jobs(self) -> None:
        """Dask forgets a job whose worker was lost; asking for the full number again replaces it."""
        if time.monotonic() >= self._scale_next:
            self._scale_next = time.monotonic() + REPLACE_S
            self._cluster.scale(self.count)

    def close(self) -> None:
        try:
            with suppress(Exception):
                self._client.cancel(list(self._futures), force=True)
                self._client.close(timeout=CLOSE_S)
        finally:
            with suppress(Exception):
                self._cluster.close(timeout=CLOSE_S)
            self._settings.__exit__(None, None, None)


def run_group(group: Group, threads: int, here: str) -> list[Outcome | None]:
    """Attempts one after the other, in a worker of Dask; those that time does not allow to begin are None."""
    os.chdir(here)  # some queues start jobs in the home folder; names of files may count from here
    limit_threads(threads)
    begun = time.monotonic()
    outcomes: list[Outcome | None] = []
    for attempt in group:
        late = outcomes and time.monotonic() > begun + GROUP_S
        outcomes.append(None if late else run_attempt(attempt))
    return outcomes


def _last_line(error: BaseException) -> str:
    """What a queue said, without the command that was run."""
    if isinstance(error, FileNotFoundError):
        return f"there is no command {error.filename} here"
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__


def _quiet() -> None:
    """Dask logs every lost worker and every event loop that was late; the runner says what matters."""
    for name in (
        "distributed",
        "distributed.nanny",
        "distributed.scheduler",
        "distributed.core",
        "tornado.application",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _local_cluster(processes: int, threads: int) -> SpecCluster:
    import dask
    from distributed import LocalCluster, Security

    environment = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        return LocalCluster(
            n_workers=processes,
            threads_per_worker=1,  # of Dask: tasks at once
            processes=True,
            memory_limit=0,  # else Dask would pause or kill a worker that is within what was planned
            host="127.0.0.1",
            security=Security.temporary(),  # other users of this machine must not send us work
            protocol="tls://",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )


def _queue_cluster(options: RunnerOptions, threads: int) -> SpecCluster:
    """Jobs of one worker each; messages are encrypted, for other users share the network."""
    from distributed import Security

    handler = signal.getsignal(signal.SIGINT)
    import dask_jobqueue

    signal.signal(signal.SIGINT, handler)  # its import takes Ctrl-C over, and ends the program with code 0

    kinds = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster"}
    queue = options.queue
    temporary = options.folder.absolute() / "queue"
    temporary.mkdir(parents=True, exist_ok=True, mode=0o700)
    account = {} if queue.account is None else {"project" if options.runner == "lsf" else "account": queue.account}
    exports = [f"export {name}={threads}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    try:
        return getattr(dask_jobqueue, kinds[options.runner])(
            queue=queue.partition,
            cores=threads,
            processes=1,
            memory=f"{options.memory_mb or max(JOB_MEMORY_MB, options.task_memory_mb)}MiB",
            walltime=queue.walltime[:-3] if options.runner == "lsf" else queue.walltime,
            job_name="moediff",
            job_extra_directives=list(queue.directives),
            job_script_prologue=[*queue.setup, *exports, "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES='[]'"],
            # One task at a time, however many threads it uses; memory is the queue's to watch.
            worker_extra_args=["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"],
            interface=queue.interface,
            log_directory=str(temporary),
            shared_temp_directory=str(temporary),
            security=Security.temporary(),
            death_timeout="60s",
            scheduler_options={"dashboard_address": "127.0.0.1:0", "dashboard": False},
            **account,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"runner {options.runner}: the cluster cannot be reached ({error})") from error
