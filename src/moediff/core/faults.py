"""Faults: the exit code and the sentence for whatever was raised, for one command and for one scan of many."""

from __future__ import annotations

import errno

from moediff.core.errors import CannotCreate, MoeDiffError, OutputFailed, TryAgain, printable
from moediff.core.memory import is_out_of_memory


def describe_fault(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and one line of text that says what is wrong and what to do."""
    if isinstance(error, MoeDiffError):
        return error.exit_code, str(error)
    if is_out_of_memory(error):
        return TryAgain.exit_code, "memory ran out; lower --mem-mb or close other programs"
    if isinstance(error, OSError):
        what = printable(f"{error.filename or 'standard output or a file'}: {error.strerror or error}")
        if error.errno == errno.ENAMETOOLONG:
            return CannotCreate.exit_code, f"{what}: choose a shorter name"
        return OutputFailed.exit_code, f"{what}: check permissions, free space and limits, then try again"
    what = f"{type(error).__name__}: {printable(str(error))}"
    return MoeDiffError.exit_code, f"internal fault ({what}); please report it with --debug"
