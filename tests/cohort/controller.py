"""A cohort of twelve pretended scans as a program: one corrupt, one that kills its worker the first time.

`python controller.py RUNNER FOLDER SECONDS` prints counts as JSON and ends with the cohort's exit code.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from fake_work import Fake, fake_work

from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import QueueOptions, RunnerOptions, Task
from moediff.core import signals

FAULTS = {2: "data", 4: "kill-once"}


def main(runner: str, folder: Path, seconds: float) -> int:
    """Run them on two workers."""
    tasks = [Task(f"sub-{n:02d}_T1w", Fake(folder, seconds, FAULTS.get(n, ""))) for n in range(1, 13)]
    options = RunnerOptions(
        folder=folder / "logs",
        runner=runner,  # type: ignore[arg-type]
        processes=2,
        memory_mb=None if runner in ("processes", "dask") else 1000,
        task_memory_mb=500,
        retries=1,  # for the worker that is killed: what Slurm takes away does not count
        retry_delay_s=0.5,
        quiet=True,
        queue=QueueOptions(walltime="00:20:00", partition=os.environ.get("PARTITION")),
    )
    summary = run_tasks(tasks, fake_work, options)
    print(json.dumps(asdict(summary), default=str), flush=True)
    return summary.exit_code


if __name__ == "__main__":
    signals.install_handlers()
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
