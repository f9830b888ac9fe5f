"""Command line: parse, call, print. Heavy imports happen inside the commands, so `--help` is quick."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from moediff._version import RESEARCH_ONLY, __version__
from moediff.cli import (
    adapt,
    batch,
    benchmark,
    bids,
    bundle,
    cohort,
    degrade,
    dicom,
    enhance,
    evaluate,
    report,
    study,
    train,
)
from moediff.cli.options import DEBUG, HelpFormatter, with_present_names
from moediff.cli.reading import with_remedies_of
from moediff.core import signals
from moediff.core.errors import InputMissing, MoeDiffWarning, OutputFailed
from moediff.core.faults import describe_fault

EXAMPLES = """examples:
  moediff enhance scan.nii.gz            # the everyday command
  moediff enhance --help                 # options and examples of a command"""


def build_parser() -> argparse.ArgumentParser:
    """Every command and option."""
    parser = argparse.ArgumentParser(
        prog="moediff",
        description=f"Super-resolution of brain MRI. {RESEARCH_ONLY}",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        add_help=False,
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in (
        enhance,
        bids,
        batch,
        cohort,
        adapt,
        report,
        evaluate,
        benchmark,
        study,
        degrade,
        dicom,
        train,
        bundle,
    ):
        command.add(commands)
    group = parser.add_argument_group("help")
    group.add_argument("-h", "--help", action="help", help="show this text")
    group.add_argument("--version", action="version", version=f"moediff-sr {__version__}", help="show the version")
    group.add_argument("--debug", action="store_true", help=DEBUG)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (docs/reference/exit-codes.md)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name the terminal cannot show is no reason to fail
    words, notes = with_present_names(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    args, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(_unknown(unknown, args))
    args.words = words
    if not getattr(args, "quiet", False):
        for note in notes:
            _print_line(f"moediff: warning: {note}")
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, warnings.showwarning, quiet=getattr(args, "quiet", False))
        code = _exit_code(lambda: _call(args), partial(with_remedies_of, args), debug=args.debug)
    return _exit_code(_flush, str, debug=args.debug) or code


def _unknown(words: Sequence[str], args: argparse.Namespace) -> str:
    """What to say of words that no option takes."""
    said = f"unrecognized arguments: {' '.join(words)}"
    if getattr(args, "series", None) and all(word.rstrip(",").isdigit() for word in words):
        return f"{said}; several series have commas between them and no spaces, as in --series 3,5,7"
    return said


def _show_warning(otherwise: Callable[..., None], message: Warning | str, *where: Any, quiet: bool) -> None:
    """Our own warnings as one line without a place in the code."""
    if not isinstance(message, MoeDiffWarning):
        otherwise(message, *where)
    elif not quiet:
        _print_line(f"moediff: warning: {message}")


def _call(args: argparse.Namespace) -> int:
    try:
        os.getcwd()
    except OSError as error:  # torch's mathematics library would end the process without a word
        raise InputMissing(f"the current folder cannot be used ({error.strerror}): change to another one") from error
    return int(args.call(args))


def _exit_code(work: Callable[[], int], completed: Callable[[str], str], *, debug: bool) -> int:
    """The exit code of some work; a fault is printed as one sentence, `completed`, with `debug` after its traceback."""
    try:
        return work()
    except (KeyboardInterrupt, signals.Terminated) as stop:
        number = getattr(stop, "code", 130) - 128
    except Exception as error:
        number = signals.first_signal() or 0
        if not number:  # else some library turned the signal into an error of its own
            return _print_fault(error, completed, debug=debug)
    _print_line(signals.message(number))
    return 128 + number


def _print_fault(error: Exception, completed: Callable[[str], str], *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):
        return OutputFailed.exit_code  # who read our output has gone, and knows it
    code, sentence = describe_fault(error)
    _print_line(f"moediff: {completed(sentence)}")
    return code


def _print_line(line: str) -> None:
    """One line on standard error, where there is one."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return  # closed or full: nobody is listening


def _flush() -> int:
    """What was printed must arrive; Python itself would notice only after the exit code is given."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in it has somewhere to go
        raise
    return 0
