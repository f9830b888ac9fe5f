"""Files appear whole or not at all: written beside their place, synced, verified, then renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from moediff.core.errors import CannotCreate, DataError, MoeDiffError, OutputFailed, naming
from moediff.core.errors import shown as shown

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL}

_named: set[tuple[int, int]] = set()  # device and inode of all that got a name since `forget_names`, or was about to


def tag(path: Path) -> str:
    """A short word for a file name of any length, for the hidden files that go with it."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]


def temporaries(path: Path) -> list[Path]:
    """Hidden files that writers of this path were killed with."""
    return sorted(path.parent.glob(f".moediff-{tag(path)}-*.tmp"))


def about_to_name(temporary: Path) -> None:
    """Remember a hidden file or folder before it gets its name: a signal may come right after."""
    found = temporary.lstat()
    _named.add((found.st_dev, found.st_ino))


def forget_names() -> None:
    """Begin anew: what was written so far counts as older."""
    _named.clear()


def is_ours(path: Path) -> bool:
    """Whether this process wrote what has this name, since `forget_names`; renaming and linking keep the inode."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) in _named


def check_free(path: Path | str, *, overwrite: bool) -> None:
    """Can this output be created? Ask before any long work.

    Raises:
        CannotCreate: it exists (and `overwrite` is False), or its folder is missing or closed to us.
        OutputFailed: the disk is full already.
    """
    with naming(shown(path)):
        require_free(Path(path), overwrite=overwrite)


def check_new_folder(path: Path) -> None:
    """Can a folder of this name be made? What is there already is never replaced.

    Raises:
        CannotCreate: something has this name, or the folder around it is missing or closed to us.
        OutputFailed: the disk is full already.
    """
    with naming(shown(path)):
        if os.path.lexists(path):
            raise CannotCreate(
                "this exists already and would not be replaced, not even by --overwrite: give the name of a new folder"
            )
        require_free(path, overwrite=False)


def write_text(text: str, path: Path | str, *, overwrite: bool = False) -> None:
    """Write UTF-8 text in one step; of file names that are not UTF-8, the odd bytes are escaped.

    Raises:
        CannotCreate: see `check_free`.
        OutputFailed: the disk is full or failed; nothing partial is left.
    """

    def fill(file: BinaryIO) -> None:
        file.write(text.encode(errors="backslashreplace"))

    with naming(shown(path)):
        write_whole(Path(path), fill, overwrite=overwrite)


def require_free(path: Path, *, overwrite: bool) -> None:
    """`check_free` without the file's name in its errors."""
    _refuse_existing(path, overwrite=overwrite)
    with _temporary(path):
        pass


def write_whole(
    path: Path,
    fill: Callable[[BinaryIO], None],
    *,
    overwrite: bool,
    verify: Callable[[Path], None] | None = None,
) -> None:
    """Let `fill` write a hidden file beside `path`, sync it, let `verify` reopen it, then give it its name.

    Raises:
        CannotCreate: see `check_free`; also when another process took the name meanwhile.
        OutputFailed: writing or reading back failed; the hidden file was removed.
    """
    _refuse_existing(path, overwrite=overwrite)
    with _temporary(path) as (file, temporary):
        try:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            if verify is not None:
                verify(temporary)
            about_to_name(temporary)
            _commit(temporary, path, overwrite=overwrite)
        except DataError as error:
            raise OutputFailed(f"what was written does not read back ({error}): check the disk and retry") from error
        except OSError as error:
            raise _write_failure(error) from error


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    try:
        if path.is_dir():
            raise CannotCreate("a folder has this name: give the name of a file")
        if path.exists() and not path.is_file():
            raise CannotCreate("this is a device or a pipe, which would be replaced: give the name of a file")
        if not path.parent.is_dir():
            raise CannotCreate(f"the folder {shown(path.parent)} does not exist: create it first")
        path.lstat()
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise CannotCreate(f"the folder does not let us look into it ({error.strerror}): choose another one") from error
    except (OSError, ValueError) as error:  # too long, or with a null byte
        raise CannotCreate(f"no file can have this name ({getattr(error, 'strerror', None) or error})") from error
    if not overwrite:
        raise CannotCreate("the file exists already: choose another name or allow overwriting (--overwrite)")


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new hidden file in the folder of `path`; gone afterwards, whatever happened."""
    temporary = path.parent / f".moediff-{tag(path)}-{secrets.token_hex(4)}.tmp"
    try:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if error.errno in FULL:
            raise _write_failure(error) from error
        raise CannotCreate(f"the folder does not let us write ({error.strerror}): choose another one") from error
    try:
        with _closing(os.fdopen(handle, "wb")) as file:
            yield file, temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _closing(file: BinaryIO) -> Iterator[BinaryIO]:
    """Close at the end; a failure then says nothing new, because success closes the file itself beforehand."""
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


def _write_failure(error: OSError) -> MoeDiffError:
    remedy = "free some space or choose another disk" if error.errno in FULL else "check the disk and retry"
    return OutputFailed(f"writing failed ({error.strerror or error}), nothing was left behind: {remedy}")


def _commit(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Rename; without `overwrite` the name must still be free, whoever else is writing."""
    if overwrite:
        os.replace(temporary, path)
    else:
        _claim(temporary, path)
    with suppress(OSError):  # some file systems cannot sync a folder; the file itself is synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _claim(temporary: Path, path: Path) -> None:
    try:
        try:
            os.link(temporary, path)  # unlike a rename, fails where the name is taken
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # FAT and some network shares know no links
            _rename_or_free(temporary, path)
    except FileExistsError as error:
        raise CannotCreate("another process created this file meanwhile: choose another name") from error


def _rename_or_free(temporary: Path, path: Path) -> None:
    """Rename over the empty file that holds our name; give the name up where that fails."""
    try:
        os.replace(temporary, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
