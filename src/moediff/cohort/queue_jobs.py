"""Jobs of a queue that ended before their worker's task: whether the queue ended them, or the task.

Slurm alone is asked. A job that was preempted, requeued or cancelled says nothing against the scan that its worker had;
one that ran out of memory or of time does, and so does a worker that died within its job.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable

ENDED_BY_QUEUE = {"CANCELLED", "PENDING", "PREEMPTED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
LONGEST_S = 10.0  # for an answer, and for a job to end
AGAIN_S = 0.5
PREEMPTED = "its job was preempted, requeued or cancelled"

Ask = Callable[[str], str]  # number of a job -> what the queue says of it; empty where it does not answer


def ask_slurm(job: str) -> str:
    """One line of `scontrol` about a job."""
    command = ["scontrol", "show", "job", "--oneliner", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


class Jobs:
    """Jobs of workers, and how often the queue has begun each anew.

    Args:
        ask: what the queue says of a job; None for a queue that is not asked.
    """

    def __init__(self, ask: Ask | None) -> None:
        self._ask = ask
        self._jobs: dict[str, str] = {}  # by the name of the worker
        self._restarts: dict[str, int] = {}

    def note(self, worker: str, job: str) -> None:
        """A worker runs in this job; kept after the job has ended."""
        self._jobs[worker] = job

    def ended_by_queue(self, worker: str) -> bool:
        """Whether the queue took the job of a lost worker away, as far as is known."""
        job = self._jobs.get(worker)
        if self._ask is None or job is None:
            return False
        said, until = self._ask(job), time.monotonic() + LONGEST_S
        while "JobState=COMPLETING" in said and time.monotonic() < until:
            time.sleep(AGAIN_S)  # why it ends is said once it has
            said = self._ask(job)
        state = re.search(r"\bJobState=(\w+)", said)
        restarts = re.search(r"\bRestarts=(\d+)", said)
        before, now = self._restarts.get(job, 0), int(restarts[1]) if restarts else 0
        self._restarts[job] = now
        return now > before or (state is not None and state[1] in ENDED_BY_QUEUE)
