"""Program of a worker process: receives attempts from its parent, does them and sends outcomes, until the parent goes.

Started by `local.py` as `python -m moediff.cohort.worker SOCKET`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from moediff.cohort.attempt import Attempt, limit_threads, run_attempt
from moediff.cohort.local import Setup
from moediff.cohort.tasks import Outcome
from moediff.core import signals
from moediff.core.faults import describe_fault

PR_SET_PDEATHSIG = 1  # Linux: a signal to this process when its parent ends


def main(socket: int) -> None:
    """Work until the socket closes."""
    connection = Connection(socket)
    setup = connection.recv()
    assert isinstance(setup, Setup)
    sys.path[:] = setup.sys_path
    limit_threads(setup.threads)
    _end_with_parent(setup.parent)
    while True:
        try:
            attempt = connection.recv()
            outcome = run_attempt(attempt) if isinstance(attempt, Attempt) else _unknown(attempt)
        except EOFError:
            return
        except Exception as error:  # the function or its data cannot be read here, or no lock can be had
            code, reason = describe_fault(error)
            outcome = Outcome("failed", code, reason)
        connection.send(outcome)


def _unknown(message: object) -> Outcome:
    raise TypeError(f"expected an attempt, not {type(message).__name__}")


def _end_with_parent(parent: int) -> None:
    """A parent that is killed takes its workers along; elsewhere than on Linux they end after the task at hand."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


if __name__ == "__main__":
    signals.install_handlers()
    with suppress(KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        main(int(sys.argv[1]))
