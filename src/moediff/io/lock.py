"""One run at a time for one result, and what to do with what a killed run left.

While a run works, it holds the lock of a hidden file beside its first output; the lock ends with the process, however
that ends. Before the first output gets its name, the names to come are written into that file. A later run that finds
them knows that these files were never finished, unless the last of them, the sidecar, is there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from moediff.core.errors import CannotCreate, OutputFailed, TryAgain, prefix_errors, printable
from moediff.io.atomic import forget_outputs, is_own_output, name_hash, remove, remove_leftovers, require_free

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # some network shares
MOST_BYTES = 1 << 16


def lock_of(first: Path) -> Path:
    """The hidden file that is locked while this output is made."""
    return first.parent / f".moediff-{name_hash(first)}.lock"


@contextmanager
def output_lock(every: Sequence[Path]) -> Iterator[None]:
    """These outputs for us alone, the first naming the lock; unfinished ones of a killed run are removed first.

    Where the work ends by a fault or a signal before its last output, the sidecar, is there, what it wrote is removed.

    Raises:
        TryAgain: another run holds them.
        CannotCreate, OutputFailed: the folder is missing, closed to us, or full.
    """
    first = every[0]
    with prefix_errors(printable(first)):
        handle = _lock(first)
    try:
        _clear(handle, every)
        forget_outputs()
        yield
    except BaseException:
        _withdraw(handle, every)
        raise
    finally:
        with suppress(OSError):
            lock_of(first).unlink()  # while it is still locked: see _lock
        os.close(handle)


def register_outputs(every: Sequence[Path]) -> None:
    """Write down which files are about to appear, where `output_lock` is in force.

    Raises:
        OutputFailed: the disk is full.
    """
    names = json.dumps([os.path.relpath(path, every[0].parent) for path in every])
    try:
        handle = os.open(lock_of(every[0]), os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        os.write(handle, names.encode("utf-8", "surrogateescape"))
        os.fsync(handle)
    except OSError as error:
        raise OutputFailed(
            f"{printable(every[0])}: writing failed ({error.strerror}), nothing was left behind: free some space or "
            "choose another disk"
        ) from error
    finally:
        os.close(handle)


def _lock(first: Path) -> int:
    lock = lock_of(first)
    while True:
        try:
            handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            require_free(first, overwrite=True)  # says what is wrong with the folder, if something is
            raise CannotCreate(
                f"no lock file can be created in the folder ({error.strerror}): choose another one"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise TryAgain("another run is making this file: wait for it, or choose another name") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                raise CannotCreate(f"the folder cannot be locked ({error.strerror}): choose another one") from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(lock), os.fstat(handle)):
                return handle
        os.close(handle)  # its last holder removed it between our opening and locking


def _clear(handle: int, every: Sequence[Path]) -> None:
    """Remove what a killed run left of these outputs; never anything that this run would not write itself."""
    for path in every:
        remove_leftovers(path)
    for path in _unfinished(handle, every):
        remove(path)


def _withdraw(handle: int, every: Sequence[Path]) -> None:
    """Remove what this run itself has written of these outputs; older files and other programs' stay."""
    for path in _unfinished(handle, every):
        if is_own_output(path):
            remove(path)


def _unfinished(handle: int, every: Sequence[Path]) -> list[Path]:
    """Which of these outputs were registered by a run whose sidecar is not there."""
    folder = every[0].parent
    try:
        names = json.loads(os.pread(handle, MOST_BYTES, 0))
        promised = {(folder / name).resolve() for name in names}
        last = (folder / names[-1]).resolve()
    except (ValueError, TypeError, IndexError, KeyError):  # nothing was registered
        return []
    if last.exists():
        return []  # complete: only the lock was left
    return [path for path in every if path.resolve() in promised]
