"""One run at a time for one result, and what to do with what a killed run left.

While a run works, it holds the lock of a hidden file beside its first output (`lock_file.py`). Before the first output
gets its name, the names to come are written into that file. A later run that finds them knows that these files were
never finished, unless the last of them, the sidecar, is there and is not one that was there before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from moediff.core.errors import CannotCreate, prefix_errors, printable
from moediff.io.atomic import HIDDEN, name_hash, own_outputs, remove, remove_leftovers, require_free
from moediff.io.lock_file import LockFile, Note, State

BUSY = "another run is making this file: wait for it, or choose another name"

_current: ContextVar[LockFile | None] = ContextVar("lock", default=None)  # of this thread


def lock_of(first: Path) -> Path:
    """The hidden file that is locked while this output is made."""
    return first.parent / f"{HIDDEN}{name_hash(first)}.lock"


@contextmanager
def output_lock(every: Sequence[Path], *, busy: str = BUSY) -> Iterator[None]:
    """These outputs for us alone, the first naming the lock; unfinished ones of a killed run are removed first.

    Where the work ends by a fault or a signal before it has written its last output, the sidecar, what it wrote is
    removed.

    Args:
        every: the outputs.
        busy: the message that another run gets meanwhile.

    Raises:
        TryAgain: another run holds them.
        CannotCreate, OutputFailed: the folder is missing, closed to us, or full.
    """
    first = every[0]
    with prefix_errors(printable(first)):
        lock = _acquired(first, busy)
    before = _current.get()
    try:
        _clear(lock.note, every)
        _current.set(lock)
        with own_outputs() as is_own:
            try:
                yield
            except BaseException:
                _withdraw(every, is_own)
                raise
    finally:
        _current.set(before)
        lock.release()


def register_outputs(every: Sequence[Path]) -> None:
    """Write down which files are about to appear, where this thread's `output_lock` is theirs.

    Raises:
        TryAgain: somebody deleted the lock's file, and another run holds them now.
        OutputFailed: the disk is full.
    """
    lock = _current.get()
    if lock is None or os.path.abspath(lock.path) != os.path.abspath(lock_of(every[0])):
        return
    with prefix_errors(printable(every[0])):
        lock.register({os.path.relpath(path, every[0].parent): _state(path) for path in every})


def _acquired(first: Path, busy: str) -> LockFile:
    try:
        return LockFile.acquire(lock_of(first), busy)
    except OSError as error:
        require_free(first, overwrite=True)  # says what is wrong with the folder, if something is
        raise CannotCreate(
            f"no file can be created and locked in the folder ({error.strerror}): choose another one"
        ) from error


def _clear(note: Note, every: Sequence[Path]) -> None:
    """Remove what a killed run left of these outputs; never anything that this run would not write itself."""
    for path in every:
        remove_leftovers(path)
    for path in _unfinished(note, every):
        remove(path)


def _withdraw(every: Sequence[Path], is_own: Callable[[Path], bool]) -> None:
    """Remove what this run itself has written of these outputs; older files and other programs' stay."""
    if is_own(every[-1]):
        return  # complete
    for path in every:
        if is_own(path):
            remove(path)


def _unfinished(note: Note, every: Sequence[Path]) -> list[Path]:
    """Which of these outputs were registered by a run that did not write its sidecar.

    Where an older sidecar is still there, that run had replaced no scan yet, only added a series or a page.
    """
    if not note.outputs:
        return []
    folder = every[0].parent
    registered = {(folder / name).resolve(): before for name, before in note.outputs.items()}
    *_, (name, older) = note.outputs.items()
    present = _state(folder / name)
    if present is not None and present != older:
        return []  # complete: only the lock was left
    left = [path for path in every if path.resolve() in registered]
    return left if present is None else [path for path in left if _state(path) != registered[path.resolve()]]


def _state(path: Path) -> State:
    """What identifies a file among others of the same name."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return [status.st_ino, status.st_mtime_ns, status.st_size]
