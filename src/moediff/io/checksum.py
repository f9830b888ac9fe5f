"""Checksum of an input: SHA-256 of what a scan was read from, so that it is recognised under any name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from moediff.core.errors import InputMissing, printable
from moediff.io.dicom.files import is_dicom_export, open_export
from moediff.io.missing import why_missing
from moediff.io.naming import files_of

BLOCK_BYTES = 1 << 20


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
