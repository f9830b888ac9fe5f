"""What running many scans costs beside the scans: overhead, memory, resuming, more workers (docs/scale.md).

Tasks are pretended: they sleep for a known time, so that a busy machine matters little, and leave a small file. They
say nothing about the speed of an enhancement.

    python benchmarks/cohort_runs.py --json benchmarks/results/cohort.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from moediff.cohort.journal import read_entries
from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import Outcome, RunnerName, RunnerOptions, Summary, Task

LONG_S, SHORT_S, SCAN_S = 1.0, 0.2, 23.0  # of a task; SCAN_S: a 1 mm head on one core, docs/aims.md
WORKERS = 20  # asleep, they need no cores


class Plan(NamedTuple):
    """What is run; `single`: each task by itself, as scans are handed over; `done`: all is there already."""

    runner: RunnerName
    workers: int
    tasks: int
    task_s: float
    single: bool = False
    done: bool = False


@dataclass(frozen=True)
class Sleep:
    """A pretended scan."""

    folder: Path
    seconds: float


def sleep(task: Task) -> Outcome:
    """Sleep until the time is over, then leave a file; skip where it is there."""
    spec = task.spec
    assert isinstance(spec, Sleep)
    mark = spec.folder / task.name[8:10] / task.name
    if mark.exists():
        return Outcome("skipped")
    begun = time.monotonic()
    time.sleep(spec.seconds)
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("done\n")
    return Outcome("done", seconds=time.monotonic() - begun)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured run.

    Args:
        runner, workers, tasks, task_s: what was run; task_s is 0 where all was done before.
        wall_s: of the run, without starting and ending workers.
        controller_s: processor time of the controlling process.
        controller_mib: its peak resident memory.
        overhead_share: time of workers, from their start on, beyond what the tasks took, as a share of it.
        start_s: until a worker is at its first task, in the mean of all workers.
        scan_ms: overhead of one task, without the start of the workers; their wait for the last tasks counts.
    """

    runner: str
    workers: int
    tasks: int
    task_s: float
    wall_s: float
    controller_s: float
    controller_mib: float
    overhead_share: float
    start_s: float
    scan_ms: float


@dataclass(frozen=True)
class Times:
    """What a journal says, in s: of all tasks together; of a worker until its first task, in the mean."""

    tasks_s: float
    start_s: float


def times_of(summary: Summary, workers: int) -> Times:
    """The first tasks that end, as many as workers, are taken to be each worker's first."""
    entries = list(read_entries(summary.journal))
    ended = [entry for entry in entries if entry.event in ("done", "skipped")]
    start_s = sum(entry.time_s - entry.seconds - entries[0].time_s for entry in ended[:workers]) / workers
    return Times(sum(entry.seconds for entry in ended if entry.event == "done"), start_s)


def run(plan: Plan, folder: Path) -> Run:
    """Run pretended scans in this process, which should do nothing else."""
    runner, workers, tasks, task_s, single, _ = plan
    cohort = [Task(f"sub-{n:06d}_T1w", Sleep(folder, task_s)) for n in range(tasks)]
    options = RunnerOptions(
        folder=folder / "logs",
        runner=runner,
        processes=workers,
        threads=1,
        quiet=True,
        stop_on_first_failure=single,  # then nothing is handed over ahead
    )
    before = time.process_time()
    summary: Summary = run_tasks(cohort, sleep, options)
    assert summary.done + summary.skipped == tasks, summary
    controller_s, peak_kib = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = times_of(summary, workers)
    extra = summary.seconds * workers - times.tasks_s
    return Run(
        runner=runner,
        workers=workers,
        tasks=tasks,
        task_s=task_s if summary.done else 0.0,
        wall_s=round(summary.seconds, 2),
        controller_s=round(controller_s, 2),
        controller_mib=round(peak_kib / 1024, 1),
        overhead_share=round(extra / times.tasks_s, 4) if times.tasks_s else 0.0,
        start_s=round(times.start_s, 2),
        scan_ms=round((extra - times.start_s * workers) / tasks * 1000, 3),
    )


def in_a_process(plan: Plan, folder: Path) -> Run:
    """The same in a process of its own, so that its memory is that of this run only."""
    words = [sys.executable, __file__, "--one", json.dumps(plan), str(folder)]
    result = Run(
        **json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    )
    print(result, flush=True)
    return result


def fill(folder: Path, tasks: int) -> None:
    """Leave the marks of a finished cohort."""
    for n in range(tasks):
        name = f"sub-{n:06d}_T1w"
        (folder / name[8:10]).mkdir(exist_ok=True)
        (folder / name[8:10] / name).write_text("done\n")


def measure(tasks: int, known: dict[str, Run]) -> dict[str, Run]:
    """Every run that is not known."""
    plans = {
        "small": Plan("processes", WORKERS, tasks // 10, LONG_S),
        "large": Plan("processes", WORKERS, tasks, LONG_S),
        "resumed": Plan("processes", 2, tasks, LONG_S, done=True),
        "one worker": Plan("processes", 1, 200, SHORT_S),
        "two workers": Plan("processes", 2, 200, SHORT_S),
        "dask large": Plan("dask", 8, tasks * 2 // 5, LONG_S),
        "dask short": Plan("dask", 4, 1000, 0.1),
        "dask single": Plan("dask", 4, 1000, 0.1, single=True),
        "dask resumed": Plan("dask", 2, tasks, LONG_S, done=True),
    }
    runs = {}
    for key, plan in plans.items():
        with tempfile.TemporaryDirectory() as name:
            if key not in known and plan.done:
                fill(Path(name), plan.tasks)
            runs[key] = known.get(key) or in_a_process(plan, Path(name))
    return runs


def findings(runs: dict[str, Run]) -> dict[str, float]:
    """Overhead, memory and efficiency, from all runs."""
    one, two, single = runs["one worker"], runs["two workers"], runs["dask single"]
    return {
        "overhead_share_processes": runs["large"].overhead_share,
        "overhead_share_of_a_scan": round(runs["large"].scan_ms / 1000 / SCAN_S, 6),
        "overhead_share_dask": runs["dask large"].overhead_share,
        "controller_ms_a_task_processes": round(runs["large"].controller_s / runs["large"].tasks * 1000, 3),
        "controller_ms_a_task_dask": round(single.controller_s / single.tasks * 1000, 3),
        "controller_mib_more_for_ten_times_as_many": round(
            runs["large"].controller_mib - runs["small"].controller_mib, 1
        ),
        "resume_s_processes": runs["resumed"].wall_s,
        "resume_s_dask": runs["dask resumed"].wall_s,
        "efficiency_from_one_to_two_workers": round(one.wall_s / two.wall_s / 2, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="runs that are in it already are not measured again")
    parser.add_argument("--one", nargs=2, metavar="X", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        import cohort_runs  # by its name: workers cannot import from "__main__"

        plan, folder = args.one
        print(json.dumps(asdict(cohort_runs.run(cohort_runs.Plan(*json.loads(plan)), Path(folder)))))
        return
    known = json.loads(args.json.read_text())["runs"] if args.json and args.json.exists() else {}
    runs = measure(args.tasks, {key: Run(**values) for key, values in known.items()})
    text = json.dumps({"findings": findings(runs), "runs": {k: asdict(v) for k, v in runs.items()}}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
