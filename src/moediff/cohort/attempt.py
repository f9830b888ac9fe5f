"""One attempt at one task, in the process that does it: its lock, its log, and faults as outcomes."""

from __future__ import annotations

import fcntl
import io
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from moediff.cohort.tasks import Outcome, Task, Work
from moediff.core.errors import MoeDiffError, TryAgain
from moediff.core.faults import describe_fault

HELD = "another run is working on it"  # reason of an attempt that did not begin
LOCKS = ".in-progress"  # folder of the locks of tasks


@dataclass(frozen=True)
class Attempt:
    """What a worker receives: the task, its function, the folder of logs and the number of the attempt."""

    task: Task
    work: Work
    folder: Path
    number: int


def log_path(folder: Path, task: str) -> Path:
    """The log of a task."""
    return folder / f"{task}.log"


def run_attempt(attempt: Attempt) -> Outcome:
    """Do a task unless another process does it; every fault becomes an outcome, signals pass through."""
    with _claim(attempt) as ours:
        if not ours:
            return Outcome("failed", TryAgain.exit_code, HELD)
        with _Log(attempt) as log, redirect_stdout(log), redirect_stderr(log), warnings.catch_warnings():
            warnings.simplefilter("default")
            begun = time.monotonic()
            outcome = _outcome(attempt)
            outcome = replace(outcome, seconds=outcome.seconds or time.monotonic() - begun)
            if outcome.status != "skipped":
                log.write(_last_line(outcome))
        return outcome


def _outcome(attempt: Attempt) -> Outcome:
    try:
        return attempt.work(attempt.task)
    except Exception as error:
        if not isinstance(error, MoeDiffError):
            traceback.print_exc()
        code, reason = describe_fault(error)
        return Outcome("failed", code, reason)


def _last_line(outcome: Outcome) -> str:
    why = f" (exit code {outcome.exit_code}): {outcome.reason}" if outcome.status == "failed" else ""
    return f"{outcome.status} after {outcome.seconds:.1f} s{why}\n"


@contextmanager
def _claim(attempt: Attempt) -> Iterator[bool]:
    """Whether the task is ours alone; the claim ends with the process, however that ends."""
    path = attempt.folder / LOCKS / attempt.task.name
    handle = _locked(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()  # while it is still locked: see _locked
            os.close(handle)


def _locked(path: Path) -> int | None:
    """A locked file of this name. Where a share knows no locks, the outputs' own checks remain."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        os.close(handle)  # its last holder removed it between our opening and locking


class _Log(io.TextIOBase):
    """The log of a task as a stream; opened at its first line, so that tasks found done cost nothing."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._file: io.TextIOWrapper | None = None

    def write(self, text: str) -> int:
        with suppress(OSError):  # a full disk must not stop the work itself, which says so better
            if self._file is None:
                path = log_path(self._attempt.folder, self._attempt.task.name)
                self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                where = f"{platform.node()}, process {os.getpid()}"
                self._file.write(f"--- {stamp}, attempt {self._attempt.number}, {where}\n")
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.flush()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        super().close()


def limit_threads(threads: int) -> None:
    """Let this process use so many threads, also in libraries that are imported later."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
