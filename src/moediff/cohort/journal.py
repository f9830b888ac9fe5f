"""Journal of a run: one line of JSON for everything that happened, appended, so that a killed run loses nothing.

Each run has its own file, which it keeps locked while it lives; others read it. It is a record and not what resuming
relies on: whether a task is done, its own outputs say.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from moediff._version import __version__
from moediff.core.errors import CannotCreate, OutputFailed, printable

Event: TypeAlias = Literal["run", "start", "done", "skipped", "failed", "retry", "wait", "lost", "end"]
PREFIX, SUFFIX = "journal-", ".jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a journal; what an event does not need is left at its default and not written.

    Args:
        event: run: a run begins; start: a task was handed to a worker; done, skipped, failed: it ended for good;
            retry: an attempt failed and another one follows; wait: another run works on it, or a
            queue took its worker away; lost: a worker died;
            end: the run ended.
        time_s: seconds since 1970.
        task: name.
        attempt: 1 for the first.
        exit_code, reason, seconds: of the attempt; at the end of a run, of the run.
        source: of a task that failed, as in `Task`.
        total, workers, runner, host, pid, version: of the run.
    """

    event: Event
    time_s: float
    task: str = ""
    attempt: int = 0
    exit_code: int = 0
    reason: str = ""
    seconds: float = 0.0
    source: str = ""
    total: int = 0
    workers: int = 0
    runner: str = ""
    host: str = ""
    pid: int = 0
    version: str = ""

    def line(self) -> bytes:
        """The entry as one line of JSON."""
        values = {name: value for name, value in asdict(self).items() if value not in ("", 0, 0.0)}
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def now_s() -> float:
    """The time, in seconds since 1970, to the millisecond."""
    return round(time.time(), 3)


KNOWN = {field.name for field in fields(Entry)}


class Journal:
    """The journal that this run writes.

    Args:
        folder: where it is made; the folder is made where it is missing.

    Raises:
        CannotCreate: the folder or a file in it cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        # Names sort by the time of the start: to the microsecond, since two short runs may begin in one second.
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path = folder / f"{PREFIX}{stamp}-{secrets.token_hex(3)}{SUFFIX}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o666)
        except OSError as error:
            raise CannotCreate(
                f"{printable(folder)}: no journal can be kept here ({error.strerror}): choose another folder"
            ) from error
        with suppress(OSError):  # some network shares know no locks; `alive` then says so
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def first(self, *, total: int, workers: int, runner: str) -> Entry:
        """The first entry: who runs what."""
        return Entry(
            event="run",
            time_s=now_s(),
            total=total,
            workers=workers,
            runner=runner,
            host=platform.node(),
            pid=os.getpid(),
            version=__version__,
        )

    def write(self, entry: Entry) -> None:
        """Append one entry: with one call of the system, so that readers see the whole line or nothing.

        Raises:
            OutputFailed: the disk is full or failed; what was written of the line is taken back.
        """
        line = entry.line()
        before = os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, line) == len(line):
                return
            fault = "the disk is full"
        except OSError as error:
            fault = error.strerror or str(error)
        with suppress(OSError):
            os.ftruncate(self._handle, before)
        raise OutputFailed(f"{printable(self.path)}: writing failed ({fault}): free some space, then run again")

    def close(self) -> None:
        """Sync and let go of the lock."""
        with suppress(OSError):
            os.fsync(self._handle)
        os.close(self._handle)


def journals(folder: Path) -> list[Path]:
    """Journals of a folder, the oldest first."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))


def read_entries(path: Path) -> Iterator[Entry]:
    """Entries of a journal, which may still grow; a line that is not whole yet, or not ours, is passed over."""
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            with suppress(ValueError, TypeError):
                yield Entry(**{name: value for name, value in json.loads(line).items() if name in KNOWN})


def alive(path: Path) -> bool:
    """Whether the run that writes this journal still lives, as far as locks reach."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
