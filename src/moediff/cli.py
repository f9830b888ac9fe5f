"""The command line: parse, call, print. Heavy imports happen inside the commands, so `--help` is quick."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence

from moediff import RESEARCH_ONLY, __version__
from moediff.commands import benchmark, bundle, degrade, dicom, enhance, evaluate, report, train
from moediff.errors import CannotCreate, MoeDiffError, TryAgain
from moediff.memory import ran_out


def build_parser() -> argparse.ArgumentParser:
    """Every command and option."""
    parser = argparse.ArgumentParser(prog="moediff", description=f"Super-resolution of brain MRI. {RESEARCH_ONLY}")
    parser.add_argument("--version", action="version", version=f"moediff-sr {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (enhance, report, evaluate, benchmark, degrade, dicom, train, bundle):
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code that faults.md names."""

    def terminated(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminated)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name the terminal cannot show is no reason to fail
    args = build_parser().parse_args(argv)
    try:
        return int(args.call(args))
    except MoeDiffError as error:
        if args.debug:
            raise
        print(f"moediff: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("moediff: interrupted; nothing partial was left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return CannotCreate.exit_code
    except Exception as error:
        if args.debug:
            raise
        if ran_out(error):
            print("moediff: memory ran out; lower --mem-mb or close other programs", file=sys.stderr)
            return TryAgain.exit_code
        print(
            f"moediff: internal fault ({type(error).__name__}: {error}); please report it with --debug", file=sys.stderr
        )
        return 70


if __name__ == "__main__":
    raise SystemExit(main())
