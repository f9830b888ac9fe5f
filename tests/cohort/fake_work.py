"""Fake work on tasks: instructions in the spec say what happens; marks on disk count how often."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from moediff.cohort.tasks import Outcome, Task
from moediff.core.errors import DataError, TryAgain


@dataclass(frozen=True)
class Fake:
    """What to do with one pretended scan.

    Args:
        folder: where results and marks go.
        seconds: of sleep, not of work.
        fault: empty, or data, crash, busy-once, kill-once, kill-always.
    """

    folder: Path
    seconds: float = 0.0
    fault: str = ""


def fake_work(task: Task) -> Outcome:
    """Sleep, then write a result whose lines count how often it was made; skip where it is there."""
    fake = task.spec
    assert isinstance(fake, Fake)
    result, mark = fake.folder / f"{task.name}.result", fake.folder / f"{task.name}.mark"
    if result.exists():
        return Outcome("skipped", reason="the result is there")
    print(f"work on {task.name}")
    time.sleep(fake.seconds)
    if fake.fault == "data":
        raise DataError("the file ends early: fetch it again")
    if fake.fault == "crash":
        raise ZeroDivisionError("a bug")
    if fake.fault.startswith(("busy", "kill")) and (fake.fault.endswith("always") or not mark.exists()):
        mark.touch()
        if fake.fault.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        raise TryAgain("memory ran out")
    with result.open("a", encoding="utf-8") as file:
        file.write(f"gpu={os.environ.get('CUDA_VISIBLE_DEVICES', '')} made by {os.getpid()}\n")
    return Outcome("done", outputs=(str(result),))
