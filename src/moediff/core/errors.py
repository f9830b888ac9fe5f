"""Errors: one tree of classes, each with the exit code that the command line returns.

MoeDiffError           70  a fault of our own
├── ConfigError        78  a configuration or bundle that cannot be used
│   └── BundleError    78  weights truncated, altered, or of another shape
├── DataError          65  the input is not usable as it is
│   └── GeometryError  65  shapes, affines or grids that do not fit
├── InputMissing       66  a named file is not there or cannot be read
├── CannotCreate       73  an output exists already, or its folder is closed to us
├── OutputFailed       74  writing failed part-way; nothing partial is left
└── TryAgain           75  memory ran out, or another run holds the output
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MoeDiffError(Exception):
    """Base of all errors raised on purpose; the message says found, expected, remedy."""

    exit_code = 70


class ConfigError(MoeDiffError):
    """A setting or file of settings that cannot be used."""

    exit_code = 78


class BundleError(ConfigError):
    """A model bundle that is incomplete, altered or of another shape."""


class DataError(MoeDiffError):
    """Input data that cannot be processed as they are."""

    exit_code = 65


class GeometryError(DataError):
    """Shapes, affines or grids that do not fit."""


class InputMissing(MoeDiffError):
    """A named input does not exist or cannot be read."""

    exit_code = 66


class CannotCreate(MoeDiffError):
    """The output exists already, or its folder is not writable."""

    exit_code = 73


class OutputFailed(MoeDiffError):
    """Writing failed part-way; the partial file was removed."""

    exit_code = 74


class TryAgain(MoeDiffError):
    """A temporary shortage: memory, or a lock that another run holds."""

    exit_code = 75


class MoeDiffWarning(UserWarning):
    """Something was corrected or looks doubtful; the sidecar records the same text."""


def printable(path: Path | str) -> str:
    """A path as one line of text: line breaks, control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


@contextmanager
def prefix_errors(path: Path | str) -> Iterator[None]:
    """Put a file's name in front of the message of any `MoeDiffError` that is raised inside."""
    try:
        yield
    except MoeDiffError as error:
        raise type(error)(f"{printable(path)}: {error}") from error
