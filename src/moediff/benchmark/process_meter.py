"""Wall time, processor time and peak memory of another program, whatever it is. Standard library only.

A program's peak memory includes that of the process that forked it, so a large parent would be charged to it. Hence
this module runs itself as a process of a few megabytes, which starts the program, waits, and reports as JSON. When
its own parent dies, even by SIGKILL, its standard input ends and it takes the program down with it.

    python -m moediff.benchmark.process_meter LIMIT_S LOG COMMAND...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in


@dataclass(frozen=True)
class Measured:
    """How a program ran.

    Args:
        exit_code: its own; negative for a signal; None when it did not start.
        seconds: wall time from start to end.
        cpu_s: processor time of it and the children it waited for; unlike wall time it hardly depends on other work.
        peak_mib: resident memory of the largest process among it and the children it waited for, MiB.
        timed_out: it was stopped at the limit.
        fault: why it did not start, else "".
    """

    exit_code: int | None
    seconds: float
    cpu_s: float
    peak_mib: float
    timed_out: bool
    fault: str


def run_measured(command: Sequence[str], *, limit_s: float, log: Path, env: Mapping[str, str]) -> Measured:
    """Run a program without a shell and measure it; what it prints goes to `log`.

    Args:
        command: program and arguments.
        limit_s: the program and its children are killed after this many seconds.
        log: replaced.
        env: environment variables on top of ours.
    """
    ours = [sys.executable, "-P", "-m", "moediff.benchmark.process_meter", str(limit_s), str(log), *command]
    process = subprocess.Popen(
        ours, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **env}
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        said = process.stdout.read()
        process.wait()
    finally:  # also when we are interrupted: the end of its input ends the program
        process.stdin.close()
        process.stdout.close()
        process.wait()
    try:
        return Measured(**json.loads(said))
    except (ValueError, TypeError):
        return Measured(None, 0.0, 0.0, 0.0, False, "the process that measures it was killed")


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # gone already


def _kill_when_orphaned(group: int) -> None:
    sys.stdin.read()  # ends with our parent
    _kill(group)


def _time(command: Sequence[str], limit_s: float, log: Path) -> Measured:
    """Start, wait, read the meter."""
    start = time.perf_counter()
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
    except OSError as error:
        return Measured(None, 0.0, 0.0, 0.0, False, f"{error.strerror or error}")
    expired = threading.Event()

    def stop_late() -> None:
        expired.set()
        _kill(process.pid)

    timer = threading.Timer(limit_s, stop_late)
    timer.start()
    threading.Thread(target=_kill_when_orphaned, args=(process.pid,), daemon=True).start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    timer.cancel()
    _kill(process.pid)  # children it left behind would disturb the next measurement
    code = os.waitstatus_to_exitcode(status)
    cpu_s, peak_mib = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * MAXRSS_BYTES / 2**20
    return Measured(code, seconds, cpu_s, peak_mib, expired.is_set(), "")


def main() -> None:
    """Measure the program named on the command line and print JSON."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C reaches us too; our parent decides
        signal.signal(number, lambda *_: None)  # ignoring it would be inherited by the program
    limit_s, log, *command = sys.argv[1:]
    print(json.dumps(vars(_time(command, float(limit_s), Path(log)))), flush=True)
    os._exit(0)  # the thread that reads our input never ends


if __name__ == "__main__":
    main()
