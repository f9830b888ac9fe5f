"""Files of a DICOM export: a folder, a zip that is never unpacked to disk, or one file.

Names inside the export often hold personal data, so no message repeats them.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from moediff.core.errors import DataError, InputMissing
from moediff.io.atomic import HIDDEN
from moediff.io.missing import FETCH, is_dangling, why_missing
from moediff.io.naming import suffix_of

SUFFIXES = (".dcm", ".ima")
PREAMBLE_BYTES = 128
MAGIC = b"DICM"
MAX_FILES = 100_000
MAX_FILE_BYTES = 2**31
MAX_TOTAL_BYTES = 2**34  # unpacked content of a zip; one file at a time is held in memory
ZIP_REMEDY = "export or copy the archive again"
ENCRYPTED = 1  # bit of a zip entry's flags


@dataclass(frozen=True)
class DicomFile:
    """One file of an export.

    Args:
        open: opens it at its first byte.
        named_as_dicom: whether its suffix says that it is DICOM.
        may_be_slice: whether an image may have such a name: no suffix, one of digits, or one of DICOM; not hidden.
    """

    open: Callable[[], BinaryIO]
    named_as_dicom: bool
    may_be_slice: bool


def is_dicom_export(path: Path) -> bool:
    """Folders, zip archives, .dcm or .ima files, and files of no scan's name that begin like DICOM."""
    return os.path.isdir(path) or path.suffix.lower() in (".zip", *SUFFIXES) or _begins_like_dicom(path)


def _begins_like_dicom(path: Path) -> bool:
    """Whether a file whose name says nothing of its kind, as scanners name them, is DICOM by its first bytes."""
    try:
        if suffix_of(path) is not None or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC
    except (OSError, ValueError):  # not there, not ours to read, or a null byte in its name
        return False


@contextmanager
def open_export(path: Path) -> Iterator[list[DicomFile]]:
    """The files of an export, in an order that depends on names only.

    Raises:
        InputMissing: there is no such folder or file, or it cannot be read.
        DataError: the archive is damaged, encrypted or too large.
    """
    try:
        if not path.exists():
            raise InputMissing(why_missing(path, "folder or file"))
        if path.is_dir():
            yield _folder_files(path)
        elif path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield _zip_files(archive)
        else:
            yield [_disk_file(path)]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError):
        raise DataError(f"the zip archive cannot be read (damaged, or an unknown compression): {ZIP_REMEDY}") from None
    except OSError as error:  # its text would name the file
        raise InputMissing(f"a file cannot be read ({error.strerror}): check name and permissions") from None


class BoundedFile(io.RawIOBase):
    """A file whose `read` never asks for more than is left, so that a damaged length allocates no memory.

    It has no name, so that pydicom cannot open it again by itself.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._size = os.fstat(self._file.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; all that is left where it is negative."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size is None or size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As in any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As in any file."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close the file behind it."""
        self._file.close()
        super().close()


def _disk_file(path: Path) -> DicomFile:
    return DicomFile(lambda: cast(BinaryIO, BoundedFile(path)), *_kind(path.name))


def _kind(name: str) -> tuple[bool, bool]:
    file_name = name.rpartition("/")[2]
    suffix = Path(file_name).suffix.lower()
    named = suffix in SUFFIXES
    return named, named or not (file_name.startswith(".") or suffix[1:2].isalpha())


def _folder_files(folder: Path) -> list[DicomFile]:
    """Every regular file below the folder.

    Raises:
        InputMissing: links whose targets are not there may be slices.
    """
    paths = folder_paths(folder)
    dangling = sum(is_dangling(path) and not path.name.startswith(".") for path in paths)
    if dangling:
        raise InputMissing(f"{dangling} of {len(paths)} files are links whose targets are not there: {FETCH}")
    return [_disk_file(path) for path in paths if path.exists() and stat.S_ISREG(path.stat().st_mode)]


def folder_paths(folder: Path) -> list[Path]:
    """Every file below the folder, by name, but for ours; a linked folder is followed once: no endless loops.

    Raises:
        OSError: a folder cannot be read.
        DataError: there are too many.
    """
    paths: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        state = os.stat(here)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if name != ".git" and not name.startswith(HIDDEN))
        paths += [Path(here, name) for name in names if not name.startswith(HIDDEN)]
        _check_count(len(paths))
    return sorted(paths)


def _raise(error: OSError) -> None:
    """A folder that cannot be read may hold slices, so it is not skipped."""
    raise error


def _zip_files(archive: zipfile.ZipFile) -> list[DicomFile]:
    members = (e for e in archive.infolist() if not e.filename.endswith("/"))  # `is_dir` fails where a name is empty
    entries = sorted(members, key=lambda e: e.filename)
    _check_count(len(entries))
    if any(entry.flag_bits & ENCRYPTED for entry in entries):
        raise DataError("the zip archive is encrypted: unpack it and name the folder")
    total, largest = sum(e.file_size for e in entries), max((e.file_size for e in entries), default=0)
    if total > MAX_TOTAL_BYTES or largest > MAX_FILE_BYTES:
        raise DataError(
            f"the zip archive unpacks to {total} bytes, its largest file to {largest}, expected at most "
            f"{MAX_TOTAL_BYTES} and {MAX_FILE_BYTES}: archive one series only"
        )
    return [_zip_file(archive, entry) for entry in entries]


def _zip_file(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> DicomFile:
    def open_entry() -> BinaryIO:
        with archive.open(entry) as file:  # never more than the size checked above: zipfile stops there
            start = file.read(PREAMBLE_BYTES + len(MAGIC))
            if not start.endswith(MAGIC):
                return io.BytesIO(start)  # not DICOM; the rest stays packed
            return io.BytesIO(start + file.read())

    return DicomFile(open_entry, *_kind(entry.filename))


def _check_count(count: int) -> None:
    if count > MAX_FILES:
        raise DataError(f"there are more than {MAX_FILES} files: name the folder of one series")
