"""Dangling links and macOS's AppleDouble files: what lies in a folder and is no scan, and the sentence about it."""

from __future__ import annotations

import os
from pathlib import Path

FETCH = "fetch its content, for DataLad or git-annex with `datalad get`"
POINTER = b"/annex/objects/"  # how the text of an unlocked file of git-annex begins
APPLE_DOUBLE = (b"\0\5\x16\7", b"\0\5\x16\0")  # RFC 1740; macOS writes ._NAME beside NAME


def is_dangling(path: Path) -> bool:
    """Whether this is a link whose target is not there, or leads back to itself."""
    return path.is_symlink() and not os.path.exists(path)


def is_annex_pointer(path: Path) -> bool:
    """Whether a file holds only the text that git-annex keeps in place of content that was never fetched."""
    try:
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False


def why_missing(path: Path, what: str = "file") -> str:
    """The sentence about a path that does not exist."""
    if is_dangling(path):
        return f"this is a link whose target is not there: {FETCH}, or copy the {what} itself"
    return f"there is no such {what}: check the name"


def is_apple_double(path: Path) -> bool:
    """Whether the file holds macOS's notes on another file, by its first bytes; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) in APPLE_DOUBLE
    except OSError:
        return False
