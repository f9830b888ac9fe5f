"""Checksum of an input: SHA-256 of what a scan was read from, so that it is recognised under any name.

Its state is what tells, without reading it again, that it has not changed since.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

from moediff.core.errors import DataError, InputMissing, printable
from moediff.io.dicom.files import folder_paths, is_dicom_export, open_export
from moediff.io.missing import why_missing
from moediff.io.naming import files_of

BLOCK_BYTES = 1 << 20

FileState: TypeAlias = "tuple[tuple[str, int, int], ...]"  # of every file: name, bytes, time of change in ns


def file_state(path: Path) -> FileState | None:
    """Size and time of change of all files that a scan is read from; None where it is not there."""
    try:
        parts = filter(Path.exists, folder_paths(path)) if path.is_dir() else dict.fromkeys(files_of(path))
        return tuple((str(part), state.st_size, state.st_mtime_ns) for part in parts for state in [part.stat()])
    except (OSError, ValueError, DataError):  # gone, closed to us, a null byte in its name, or far too many
        return None


def checksum_of(path: Path) -> str:
    """SHA-256 in hex of a scan's bytes: of its file, of both files of a pair, or of all files of a DICOM export.

    An export's checksum does not depend on the names of its files.

    Raises:
        InputMissing: it cannot be read.
        DataError: it is a damaged zip archive.
    """
    if is_dicom_export(path):
        with open_export(path) as exported:
            digests = []
            for item in exported:
                with item.open() as file:
                    digest = hashlib.sha256()
                    while block := file.read(BLOCK_BYTES):
                        digest.update(block)
                    digests.append(digest.digest())
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
    whole = hashlib.sha256()
    try:
        for part in dict.fromkeys(files_of(path)):
            with part.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    whole.update(block)
    except OSError as error:
        reason = why_missing(path) if not path.exists() else f"it cannot be read ({error.strerror}): check permissions"
        raise InputMissing(f"{printable(path)}: {reason}") from error
    return whole.hexdigest()
