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

from moediff.cohort.journal import read_entries
from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import Outcome, RunnerName, RunnerOptions, Summary, Task

LONG_S, SHORT_S, SCAN_S = 1.0, 0.2, 23.0  # of a task; SCAN_S: a 1 mm head on one core, docs/aims.md
WORKERS = 20  # asleep, they need no cores


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
        overhead_ms: the same a task.
    """

    runner: str
    workers: int
    tasks: int
    task_s: float
    wall_s: float
    controller_s: float
    controller_mib: float
    overhead_share: float
    overhead_ms: float


def run(runner: RunnerName, workers: int, tasks: int, task_s: float, folder: Path) -> Run:
    """Run pretended scans in this process, which should do nothing else."""
    cohort = [Task(f"sub-{n:06d}_T1w", Sleep(folder, task_s)) for n in range(tasks)]
    options = RunnerOptions(folder=folder / "logs", runner=runner, processes=workers, threads=1, quiet=True)
    before = time.process_time()
    summary: Summary = run_tasks(cohort, sleep, options)
    assert summary.done + summary.skipped == tasks, summary
    ideal = sum(entry.seconds for entry in read_entries(summary.journal) if entry.event == "done")
    extra = summary.seconds * workers - ideal
    return Run(
        runner=runner,
        workers=workers,
        tasks=tasks,
        task_s=task_s if summary.done else 0.0,
        wall_s=round(summary.seconds, 2),
        controller_s=round(time.process_time() - before, 2),
        controller_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        overhead_share=round(extra / ideal, 4) if ideal else 0.0,
        overhead_ms=round(extra / tasks * 1000, 3),
    )


def in_a_process(runner: str, workers: int, tasks: int, task_s: float, folder: Path) -> Run:
    """The same in a process of its own, whose memory tells of nothing else."""
    words = [sys.executable, __file__, "--one", runner, str(workers), str(tasks), str(task_s), str(folder)]
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
    plans: dict[str, tuple[str, int, int, float, bool]] = {
        "small": ("processes", WORKERS, tasks // 10, LONG_S, False),
        "large": ("processes", WORKERS, tasks, LONG_S, False),
        "resumed": ("processes", 2, tasks, LONG_S, True),
        "one worker": ("processes", 1, 200, SHORT_S, False),
        "two workers": ("processes", 2, 200, SHORT_S, False),
        "dask small": ("dask", 4, 200, LONG_S, False),
        "dask short": ("dask", 4, 1000, 0.1, False),
        "dask resumed": ("dask", 2, tasks, LONG_S, True),
    }
    runs = {}
    for key, (runner, workers, count, task_s, done) in plans.items():
        with tempfile.TemporaryDirectory() as name:
            if key not in known and done:
                fill(Path(name), count)
            runs[key] = known.get(key) or in_a_process(runner, workers, count, task_s, Path(name))
    return runs


def findings(runs: dict[str, Run]) -> dict[str, float]:
    """What the issue asks for."""
    one, two = runs["one worker"], runs["two workers"]
    return {
        "overhead_share_processes": runs["large"].overhead_share,
        "overhead_share_of_a_scan": round(runs["large"].overhead_ms / 1000 / SCAN_S, 6),
        "overhead_share_dask": runs["dask small"].overhead_share,
        "controller_ms_a_task_processes": round(runs["large"].controller_s / runs["large"].tasks * 1000, 3),
        "controller_ms_a_task_dask": round(runs["dask short"].controller_s / runs["dask short"].tasks * 1000, 3),
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
    parser.add_argument("--one", nargs=5, metavar="X", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        runner, workers, tasks, task_s, folder = args.one
        import cohort_runs  # by its name: workers cannot import from "__main__"

        print(json.dumps(asdict(cohort_runs.run(runner, int(workers), int(tasks), float(task_s), Path(folder)))))
        return
    known = json.loads(args.json.read_text())["runs"] if args.json and args.json.exists() else {}
    runs = measure(args.tasks, {key: Run(**values) for key, values in known.items()})
    text = json.dumps({"findings": findings(runs), "runs": {k: asdict(v) for k, v in runs.items()}}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
