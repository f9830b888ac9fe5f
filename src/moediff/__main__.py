"""Program `moediff`: handles signals before it imports anything else, and ends with the exit code of its command."""

from __future__ import annotations

import os
import sys

from moediff.core import signals

STREAMS = ("stdin", "stdout", "stderr")


def run() -> int:
    """Run the command line; returns its exit code."""
    try:
        signals.install_handlers()
        open_closed_streams()
        from moediff.cli.main import main

        code = main()
    except BaseException:
        number = signals.first_signal()
        signals.ignore_signals()
        if number is None:
            raise  # argparse's own way out
        print(signals.message(number), file=sys.stderr)
        return 128 + number
    signals.ignore_signals()
    return code


def open_closed_streams() -> None:
    """Open closed standard streams on the null device; else an output file would get their number and their text."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < len(STREAMS):
        os.set_inheritable(handle, True)
    os.close(handle)
    for number, name in enumerate(STREAMS):
        if getattr(sys, name) is None:
            stream = open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


if __name__ == "__main__":
    sys.exit(run())
