"""Lock file: a hidden file that one process holds, by flock, or by itself where the file system knows no locks.

A lock of flock ends with its process. A file that is itself the lock stays when its process is killed; it names that
process, so that another one of the same machine takes it over. Whether a process of another machine still works nobody
here can know: such a file is left, and the message says which one to delete.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from moediff.core.errors import OutputFailed, TryAgain, printable

# Some network shares, and parallel file systems without the option `flock`.
NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
MOST_BYTES = 1 << 16
State: TypeAlias = "list[int] | None"  # of a file: inode, time of change in ns and size; None where there is none


@dataclass(frozen=True)
class Note:
    """What a lock file says.

    Args:
        host: name of its machine, for messages.
        machine: checksum, another one on every machine, after every start and in every container.
        pid: process there; 0 where it is not known.
        outputs: files that are about to appear, the last to come last, and what had their names before.
    """

    host: str = ""
    machine: str = ""
    pid: int = 0
    outputs: Mapping[str, State] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it is of a process of this machine that is no more."""
        if self.machine != this_machine() or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        return False

    @classmethod
    def of(cls, handle: int) -> Note:
        """Read it; one that is not whole, or not ours, says nothing."""
        try:
            values = json.loads(os.pread(handle, MOST_BYTES, 0))
            if isinstance(values, list):  # of version 0.2.0
                values = {"outputs": dict.fromkeys(values)}
            if not all(isinstance(name, str) for name in values["outputs"]):
                return cls()
            owner = str(values.get("host", "")), str(values.get("machine", "")), int(values.get("pid", 0))
            return cls(*owner, outputs=dict(values["outputs"]))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return cls()


@dataclass(frozen=True)
class LockFile:
    """A lock that this process holds, from `acquire` to `release`.

    Args:
        path: the file.
        handle: open for reading and writing; flock, where there is one, is on it.
        busy: the message that another run gets.
    """

    path: Path
    handle: int
    busy: str

    @classmethod
    def acquire(cls, path: Path, busy: str) -> LockFile:
        """Hold the lock; what a killed run noted in it stays to be read.

        Raises:
            TryAgain: another process holds it, or may do so on another machine.
            OSError: the file cannot be created, opened or locked.
            OutputFailed: the disk is full.
        """
        while True:
            handle, created = _open(path)
            try:
                handle = _locked(path, handle, busy, created=created)
                if _is_at(path, handle):
                    lock = cls(path, handle, busy)
                    lock._begin()
                    return lock
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # its last holder removed it between our opening and locking

    @property
    def note(self) -> Note:
        """What it says now."""
        return Note.of(self.handle)

    def register(self, outputs: Mapping[str, State]) -> None:
        """Note outputs that are about to appear.

        Raises:
            TryAgain: somebody deleted the file, and another run holds it now.
            OutputFailed: the disk is full.
        """
        if self.path.exists() and not _is_at(self.path, self.handle):
            raise TryAgain(self.busy)
        _write(self.handle, _own_note(outputs))

    def release(self) -> None:
        """Remove the file, while it is still locked (see `acquire`); one that is another run's by now stays."""
        with suppress(OSError):
            if _is_at(self.path, self.handle):
                self.path.unlink()
        os.close(self.handle)

    def _begin(self) -> None:
        """Name this process; outputs that a killed run noted stay noted until they are removed."""
        outputs = self.note.outputs
        try:
            _write(self.handle, _own_note(outputs))
        except BaseException:
            if not outputs:
                with suppress(OSError):
                    self.path.unlink()
            raise


@lru_cache(maxsize=1)
def this_machine() -> str:
    """Checksum of the machine's name, its start and the space of its process numbers (containers have their own)."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _own_note(outputs: Mapping[str, State]) -> Note:
    return Note(platform.node(), this_machine(), os.getpid(), outputs)


def _open(path: Path) -> tuple[int, bool]:
    """The file, and whether it was created now: where it is itself the lock, its creator holds it."""
    while True:
        with suppress(FileExistsError):
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o666), True
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW), False


def _locked(path: Path, handle: int, busy: str, *, created: bool) -> int:
    """Lock an open file, or take it over; returns the handle of the file that holds the lock.

    Raises:
        TryAgain, OSError: see `LockFile.acquire`.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TryAgain(busy) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return handle if created else _take_over(path, handle, busy)
    return handle


def _take_over(path: Path, handle: int, busy: str) -> int:
    """Replace the file of a process that has ended by one of ours; one of several that try does it.

    The name of ours is that of the replaced inode, which nobody else gets while `handle` is open. So whoever creates
    it, and still sees that inode in place, is the only one.

    Raises:
        TryAgain: its process works, or may do so; or another one takes it over.
    """
    note = Note.of(handle)
    if not note.ended:
        raise TryAgain(_whose(busy, note, path))
    own = path.with_name(f"{path.stem}-{os.fstat(handle).st_ino}{path.suffix}")
    try:
        replacing = os.open(own, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    except FileExistsError:
        raise TryAgain(_whose(busy, Note(), own)) from None
    try:
        _write(replacing, _own_note(note.outputs))
        if _is_at(path, handle):
            os.replace(own, path)
            os.dup2(replacing, handle, inheritable=False)
        else:
            own.unlink()  # another one was faster
    except BaseException:
        with suppress(FileNotFoundError):
            own.unlink()
        raise
    finally:
        os.close(replacing)
    return handle


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _whose(busy: str, note: Note, path: Path) -> str:
    """The message about a lock of a process that may work, or may have been killed."""
    of = f"process {note.pid} on {printable(note.host)}" if note.pid else "a process that it does not name"
    return f"{busy} (the lock is of {of}; if that was killed, delete {printable(path.name)} in the same folder)"


def _write(handle: int, note: Note) -> None:
    """In one call, over what was there, so that the file is never empty."""
    values = {"host": note.host, "machine": note.machine, "pid": note.pid, "outputs": dict(note.outputs)}
    text = json.dumps(values).encode("utf-8", "surrogateescape")
    try:
        os.pwrite(handle, text.ljust(os.fstat(handle).st_size), 0)
        os.fsync(handle)
    except OSError as error:
        raise OutputFailed(
            f"writing failed ({error.strerror}), nothing was left behind: free some space or choose another disk"
        ) from error
