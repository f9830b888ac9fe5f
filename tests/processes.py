"""Programs that tests start: with everything imported, with a stream closed, and whether they still run."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

PARTS = ["moediff.cli.main", "moediff.inference.run", "moediff.report.page"]


def prepared_context() -> ForkServerContext:
    """Processes that begin with what enhances imported: they start at once, and kills fall into the work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PARTS)
    return context


def run_without_stream(number: int, words: list[str]) -> None:
    """The program with a standard stream closed, as after a shell's `>&-`: what is opened next gets its number."""
    from moediff.__main__ import STREAMS, run

    os.close(number)
    setattr(sys, STREAMS[number], None)
    sys.argv = ["moediff", *words]
    sys.exit(run())


def is_running(pid: int) -> bool:
    """Not gone, and no zombie that nobody has collected; on Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # also where it ends between opening and reading
        return False
