"""Processes of this machine as workers: each does task after task, so that the model is loaded once in each.

A worker is a fresh Python program (`worker.py`), not a fork: threads of torch do not survive a fork. It receives
attempts and returns outcomes as pickles through a socket that only the two of them know.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from moediff.cohort.attempt import Attempt
from moediff.cohort.tasks import RunnerOptions
from moediff.cohort.workers import Report, lost_worker
from moediff.core.machine import free_memory_mb, usable_cores

SHORT_S = 5.0  # a task; longer ones wait here, where any worker that is free may take them
GRACE_S = 10.0  # for workers to clean up before they are killed
LOG = "workers.log"  # what workers say outside of any task: faults of libraries, mostly


@dataclass(frozen=True)
class Setup:
    """First message to a worker."""

    sys_path: tuple[str, ...]
    threads: int
    parent: int


@dataclass(frozen=True)
class Share:
    """How a machine is shared out: so many processes of so many threads."""

    processes: int
    threads: int


def share_machine(options: RunnerOptions, tasks: int, cores: int, memory_mb: int | None) -> Share:
    """As many processes as GPUs, or cores, memory and tasks allow; what is left of the cores are their threads.

    Args:
        options: numbers given there win; `processes` is still bounded by a `memory_mb` given with it.
        tasks: how many there are.
        cores: that may be used.
        memory_mb: free memory, None where unknown.
    """
    known_mb = options.memory_mb if options.memory_mb is not None or options.processes else memory_mb
    fitting = cores if known_mb is None else max(1, known_mb // options.task_memory_mb)
    most = options.processes or len(options.gpus) or max(1, cores // (options.threads or 1))
    bound = most if options.processes and known_mb is None else min(most, fitting)
    processes = max(1, min(bound, tasks))
    return Share(processes, options.threads or max(1, cores // processes))


@dataclass
class _Worker:
    """A process, and the attempts it was sent: the first is under way, a second one waits in the socket."""

    process: subprocess.Popen[bytes]
    connection: Connection
    gpu: str = ""  # the only one it sees; empty: all
    attempts: list[Attempt] = field(default_factory=list)

    def send(self, attempt: Attempt) -> bool:
        """Whether the process could be reached."""
        try:
            self.connection.send(attempt)
        except OSError:
            return False
        self.attempts.append(attempt)
        return True

    def stop(self) -> None:
        """Close the socket, which ends an idle worker; a busy one is asked by a signal."""
        self.connection.close()
        if self.attempts:
            self.process.terminate()


class LocalWorkers:
    """Worker processes, started when there is something to do and replaced when they die.

    While tasks are short, each worker has the next one before it ends the present one, so that it need not wait for
    this process, which a busy machine may let wait. The task that ended last decides for all workers:

        at first               `count` slots: one attempt per worker
        a short task ends      twice as many: a second attempt per worker, which waits in the socket
        a long task ends       `count` again: those that wait are done, and no other is sent until fewer are left
        a worker dies          its first attempt is reported as lost, its second is sent to another worker
    """

    def __init__(self, options: RunnerOptions, tasks: int) -> None:
        share = share_machine(options, tasks, usable_cores(), free_memory_mb())
        self.count = share.processes
        self._threads = share.threads
        self._gpus = options.gpus
        self._log = options.folder / LOG
        self._workers: dict[Connection, _Worker] = {}
        self._most = 1 if options.stop_on_first_failure else 2  # a second one could begin after a failure
        self._each = 1  # attempts per worker: 1, or `_most` while tasks are short

    @property
    def slots(self) -> int:
        return self.count * self._each

    def submit(self, attempt: Attempt) -> None:
        while True:
            worker = self._least_busy()
            if worker.send(attempt):
                return
            if worker.attempts:  # it died over them: `wait` reports that, and somebody else may do this one
                self._start()
            else:
                del self._workers[worker.connection]
                worker.stop()
                _reap([worker], GRACE_S)

    def _least_busy(self) -> _Worker:
        """An idle worker, a new one where there may be one more, else the one with the fewest attempts."""
        least = min(self._workers.values(), key=lambda worker: len(worker.attempts), default=None)
        if least is not None and (not least.attempts or len(self._workers) >= self.count):
            return least
        return self._start()

    def _start(self) -> _Worker:
        taken = Counter(worker.gpu for worker in self._workers.values())
        worker = _start(self._threads, self._log, min(self._gpus, key=lambda gpu: taken[gpu], default=""))
        self._workers[worker.connection] = worker
        return worker

    def wait(self, timeout_s: float) -> list[Report]:
        busy = [connection for connection, worker in self._workers.items() if worker.attempts]
        ended = [connection for connection in wait(busy, timeout_s) if isinstance(connection, Connection)]
        return [self._report(self._workers[connection]) for connection in ended]

    def _report(self, worker: _Worker) -> Report:
        attempt, *waiting = worker.attempts
        worker.attempts = waiting
        try:
            outcome = worker.connection.recv()
        except (EOFError, OSError):
            del self._workers[worker.connection]
            worker.connection.close()
            _reap([worker], GRACE_S)
            for one in waiting:  # not begun
                self.submit(one)
            return Report(attempt.task, lost_worker(_death(worker.process.returncode)), worker_lost=True)
        self._each = self._most if outcome.seconds < SHORT_S else 1
        return Report(attempt.task, outcome)

    def close(self) -> None:
        every = list(self._workers.values())
        for worker in every:
            worker.stop()
        _reap(every, GRACE_S)


def _start(threads: int, log: Path, gpu: str) -> _Worker:
    ours, theirs = socket.socketpair()
    log.parent.mkdir(parents=True, exist_ok=True)
    with theirs, log.open("ab") as text:
        process = subprocess.Popen(
            [sys.executable, "-m", "moediff.cohort.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=text,
            stderr=text,
            pass_fds=[theirs.fileno()],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
            },
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then asks its workers to stop
        )
    connection = Connection(ours.detach())
    with suppress(OSError):  # it died at once: the first task sent to it shows that
        connection.send(Setup(tuple(sys.path), threads, os.getpid()))
    return _Worker(process, connection, gpu)


def _reap(workers: list[_Worker], grace_s: float) -> None:
    """Wait for the ends of processes, and end those that do not stop."""
    until = time.monotonic() + grace_s
    try:
        for worker in workers:
            worker.process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def _death(code: int) -> str:
    """How a process ended, from its return code."""
    if code < 0:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"ended unexpectedly with code {code}"
