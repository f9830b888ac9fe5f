"""Atomic writing: whole files and whole folders, written under a hidden name, synced, verified, then renamed.

A reader therefore finds the complete output or none, whatever happens to the writer. `whole_file` and `whole_folder`
hand out the hidden path; `write_file` and `write_text` are for the usual cases.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, TypeAlias

from moediff.core.errors import CannotCreate, DataError, OutputFailed, prefix_errors, printable

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}

Verify: TypeAlias = "Callable[[Path], None]"  # raises DataError where a file or folder is not what was meant

HIDDEN = ".moediff-"  # how the names of our hidden files and folders begin

# Device and inode of every output that the work inside `own_outputs` has renamed, or was about to; of this thread.
_written: ContextVar[set[tuple[int, int]] | None] = ContextVar("written", default=None)


def check_free(path: Path | str, *, overwrite: bool) -> None:
    """Can this output be created? Ask before any long work.

    Raises:
        CannotCreate: it exists (and `overwrite` is False), or its folder is missing or closed to us.
        OutputFailed: the disk is full already.
    """
    with prefix_errors(printable(path)):
        require_free(Path(path), overwrite=overwrite)


def check_new_folder(path: Path) -> None:
    """Can a folder of this name be created? An existing one is never replaced.

    Raises:
        CannotCreate: something has this name, or the folder around it is missing or closed to us.
        OutputFailed: the disk is full already.
    """
    with prefix_errors(printable(path)):
        if os.path.lexists(path):
            raise CannotCreate(
                "this exists already and would not be replaced, not even by --overwrite: give the name of a new folder"
            )
        require_free(path, overwrite=False)


def require_free(path: Path, *, overwrite: bool) -> None:
    """`check_free` without the file's name in its errors."""
    _refuse_long_name(path)
    _refuse_existing(path, overwrite=overwrite)
    require_writable(path)


def _refuse_long_name(path: Path) -> None:
    """The hidden file has a short name, so only renaming would notice, after the work."""
    with suppress(OSError, ValueError, AttributeError):  # no such folder, or a system that sets no limit
        most = os.pathconf(path.parent, "PC_NAME_MAX")
        if (size := len(os.fsencode(path.name))) > most:
            raise CannotCreate(f"the name is too long: {size} bytes, the folder takes {most}; choose a shorter one")


def require_writable(path: Path) -> None:
    """Try whether a hidden file can be created beside a path.

    Raises:
        CannotCreate: the folder is closed to us.
        OutputFailed: the disk is full already.
    """
    hidden = _hidden_path(path)
    try:
        _create_hidden(hidden)
    finally:
        remove(hidden)  # whose own fault, as on a read-only disk, must not hide the first


def write_text(text: str, path: Path | str, *, overwrite: bool = False) -> None:
    """Write UTF-8 text as a whole file; of file names that are not UTF-8, the odd bytes are escaped.

    Raises:
        CannotCreate: see `check_free`.
        OutputFailed: the disk is full or failed; nothing partial is left.
    """
    with prefix_errors(printable(path)):
        content = text.encode(errors="backslashreplace")
        write_file(Path(path), lambda file: file.write(content), overwrite=overwrite)


def write_file(
    path: Path, fill: Callable[[BinaryIO], object], *, overwrite: bool, verify: Verify | None = None
) -> None:
    """Let `fill` write a whole file; see `whole_file`."""
    with whole_file(path, overwrite=overwrite, verify=verify) as hidden, hidden.open("wb") as file:
        fill(file)


@contextmanager
def whole_file(path: Path, *, overwrite: bool, verify: Verify | None = None) -> Iterator[Path]:
    """The hidden path, in the same folder, of a file to write; at the end it is synced, verified and renamed to `path`.

    Raises:
        CannotCreate: see `check_free`; also when another process took the name meanwhile.
        OutputFailed: writing or reading back failed; the hidden file was removed.
    """
    _refuse_existing(path, overwrite=overwrite)
    hidden = _hidden_path(path)
    try:
        mode = _create_hidden(hidden)
        with _write_failures():
            yield hidden
            _restore_mode(hidden, mode)
            _sync(hidden)
            _verify(hidden, verify)
            _remember(hidden)
            _name_file(hidden, path, overwrite=overwrite)
    finally:
        remove(hidden)


@contextmanager
def whole_folder(path: Path, *, overwrite: bool, verify: Verify | None = None) -> Iterator[Path]:
    """A hidden folder, beside `path`, to write files into; at the end it is synced, verified and renamed to `path`.

    Args:
        overwrite: an existing folder is replaced by the new one.

    Raises:
        CannotCreate: the folder exists (and `overwrite` is False), or cannot be created.
        OutputFailed: writing or reading back failed; the hidden folder was removed.
    """
    hidden = _hidden_path(path)
    try:
        _create_hidden_folder(hidden)
        with _write_failures():
            yield hidden
            for file in hidden.rglob("*"):
                if file.is_file():
                    _sync(file)
            _verify(hidden, verify)
            _remember(hidden)
            _name_folder(hidden, path, overwrite=overwrite)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def name_hash(path: Path) -> str:
    """A short word that stands for a file name of any length in the names of the hidden files that belong to it."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]


def remove_leftovers(path: Path) -> None:
    """Remove the hidden files and folders that killed writers of this path left; only where nobody else writes it."""
    for hidden in path.parent.glob(f"{HIDDEN}{name_hash(path)}-*.tmp"):
        remove(hidden)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; one that is not there, or cannot be removed, is passed over."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def own_outputs() -> Iterator[Callable[[Path], bool]]:
    """Distinguish what is written inside from older files and those of other programs, threads and runs.

    Yields:
        Whether the work inside, in this thread, wrote what has this name; renaming and linking keep the inode.
    """
    before, written = _written.get(), set[tuple[int, int]]()

    def is_own(path: Path) -> bool:
        try:
            status = path.lstat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) in written

    _written.set(written)
    try:
        yield is_own
    finally:
        _written.set(before)


def _remember(hidden: Path) -> None:
    """Remember an output before it is renamed: a signal may come right after."""
    if (written := _written.get()) is not None:
        status = hidden.lstat()
        written.add((status.st_dev, status.st_ino))


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    try:
        if path.is_dir():
            raise CannotCreate("a folder has this name: give the name of a file")
        if path.exists() and not path.is_file():
            raise CannotCreate("this is a device or a pipe, which would be replaced: give the name of a file")
        if not path.parent.is_dir():
            raise CannotCreate(f"the folder {printable(path.parent)} does not exist: create it first")
        path.lstat()
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise CannotCreate(f"the folder cannot be read ({error.strerror}): choose another one") from error
    except (OSError, ValueError) as error:  # too long, or with a null byte
        raise CannotCreate(f"no file can have this name ({getattr(error, 'strerror', None) or error})") from error
    if not overwrite:
        raise CannotCreate("the file exists already: choose another name or allow overwriting (--overwrite)")


def _hidden_path(path: Path) -> Path:
    return path.parent / f"{HIDDEN}{name_hash(path)}-{secrets.token_hex(4)}.tmp"


def _create_hidden(hidden: Path) -> int:
    """Create an empty file that nobody else has opened; returns its mode."""
    try:
        handle = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        raise _cannot_create(error) from error
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)


def _restore_mode(hidden: Path, mode: int) -> None:
    """A library that replaces the file (safetensors) makes it readable for its owner alone."""
    if hidden.stat().st_mode & 0o777 != mode:
        with suppress(PermissionError):  # FAT and some network shares set all files' modes themselves
            hidden.chmod(mode)


def _create_hidden_folder(hidden: Path) -> None:
    try:
        hidden.mkdir()
    except OSError as error:
        raise _cannot_create(error) from error


def _cannot_create(error: OSError) -> CannotCreate | OutputFailed:
    if error.errno in FULL:
        return _write_failure(error)
    return CannotCreate(f"the folder is not writable ({error.strerror}): choose another one")


@contextmanager
def _write_failures() -> Iterator[None]:
    """Errors of the system become ours."""
    try:
        yield
    except OSError as error:
        raise _write_failure(error) from error


def _write_failure(error: OSError) -> OutputFailed:
    remedy = "free some space or choose another disk" if error.errno in FULL else "check the disk and retry"
    return OutputFailed(f"writing failed ({error.strerror or error}), nothing was left behind: {remedy}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _verify(hidden: Path, verify: Verify | None) -> None:
    try:
        if verify is not None:
            verify(hidden)
    except DataError as error:
        raise OutputFailed(f"the written data cannot be read back ({error}): check the disk and retry") from error


def _name_file(hidden: Path, path: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite` the name must still be free, whoever else is writing."""
    if overwrite:
        os.replace(hidden, path)
    else:
        _take_free_name(hidden, path)
    with suppress(OSError):  # some file systems cannot sync a folder; the file itself is synced
        _sync(path.parent)


def _take_free_name(hidden: Path, path: Path) -> None:
    try:
        try:
            os.link(hidden, path)  # unlike a rename, fails where the name is taken
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # FAT and some network shares know no links
            _rename_or_free(hidden, path)
    except FileExistsError as error:
        raise CannotCreate("another process created this file meanwhile: choose another name") from error


def _rename_or_free(hidden: Path, path: Path) -> None:
    """Rename over the empty file that reserves our name; give the name up where that fails."""
    try:
        os.replace(hidden, path)
    except BaseException:
        remove(path)
        raise


def _name_folder(hidden: Path, path: Path, *, overwrite: bool) -> None:
    """Rename; a folder that is replaced has a hidden name until the new one is in its place."""
    replaced = None
    if os.path.lexists(path):
        if not overwrite:
            raise CannotCreate("the folder exists already: choose another name")
        replaced = _hidden_path(path).with_suffix(".old")
        path.rename(replaced)
    try:
        hidden.rename(path)
    except BaseException:
        if replaced is not None:
            replaced.rename(path)
        raise
    with suppress(OSError):
        _sync(path.parent)
    if replaced is not None:
        remove(replaced)
