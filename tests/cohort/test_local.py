"""Worker processes of this machine: shared out, kept, replaced, stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_work import Fake, fake_work

from interrupts import heed_interrupts
from moediff.cohort.journal import read_entries
from moediff.cohort.local import Share, share_machine
from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import RunnerOptions, Task
from moediff.core.errors import ConfigError
from moediff.core.machine import free_memory_mb, usable_cores
from processes import is_running

ROOT = Path(__file__).resolve().parents[2]


def fakes(folder, faults, seconds=0.0):
    return [Task(f"sub-{n:02d}_T1w", Fake(folder, seconds, fault)) for n, fault in enumerate(faults, 1)]


def options(folder, **changes):
    return RunnerOptions(folder=folder / "logs", **{"processes": 2, "retry_delay_s": 0, "quiet": True} | changes)


def results(folder):
    return {path.stem: path.read_text().splitlines() for path in folder.glob("*.result")}


def test_two_workers_do_everything_once_and_are_kept(tmp_path):
    summary = run_tasks(fakes(tmp_path, [""] * 12, seconds=0.02), fake_work, options(tmp_path))
    assert (summary.done, summary.failures, summary.exit_code) == (12, (), 0)
    lines = [line for text in results(tmp_path).values() for line in text]
    assert len(lines) == 12 and len(set(lines)) == 2  # two processes, each result made once


def test_each_worker_sees_the_gpu_that_fewest_others_have(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    for gpus in (("2", "3"), ("",)):
        folder = tmp_path / str(len(gpus))
        folder.mkdir()
        tasks = fakes(folder, ["", "", "kill-once", ""], seconds=0.02)
        assert run_tasks(tasks, fake_work, options(folder, gpus=gpus)).done == 4
        seen = {line.split()[0] for lines in results(folder).values() for line in lines}
        assert seen == ({"gpu=2", "gpu=3"} if len(gpus) == 2 else {"gpu=2,3"})


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path):
    summary = run_tasks(fakes(tmp_path, ["", "kill-once", "", "kill-always", "data"]), fake_work, options(tmp_path))
    assert (summary.done, summary.workers_lost, summary.retried) == (3, 4, 3)
    assert [(f.name, f.exit_code, f.attempts) for f in sorted(summary.failures, key=lambda f: f.name)] == [
        ("sub-04_T1w", 75, 3),
        ("sub-05_T1w", 65, 1),
    ]
    assert any("signal 9" in f.reason for f in summary.failures)
    assert set(results(tmp_path)) == {"sub-01_T1w", "sub-02_T1w", "sub-03_T1w"}


def test_short_tasks_are_handed_out_ahead_and_none_is_lost_with_a_worker(tmp_path):
    faults = ["", "", "", "kill-once", *[""] * 4, "kill-once", *[""] * 11]
    summary = run_tasks(fakes(tmp_path, faults, seconds=0.02), fake_work, options(tmp_path))
    assert (summary.done, summary.workers_lost, summary.retried) == (20, 2, 2)
    assert all(len(lines) == 1 for lines in results(tmp_path).values())
    under_way, most = set(), 0
    for entry in read_entries(summary.journal):
        if entry.event == "start":
            under_way.add(entry.task)
        elif entry.event in ("done", "retry"):
            under_way.discard(entry.task)
        most = max(most, len(under_way))
    assert most == 4  # two workers, one task each ahead


@pytest.mark.parametrize("runner", ["processes", "serial"])
def test_nothing_begins_after_the_first_failure(runner, tmp_path):
    faults = ["", "", "data", *[""] * 9]
    chosen = options(tmp_path, stop_on_first_failure=True, runner=runner, processes=1)
    summary = run_tasks(fakes(tmp_path, faults), fake_work, chosen)
    assert (summary.done, len(summary.failures), summary.not_run) == (2, 1, 9)


def test_a_function_that_workers_cannot_import_is_a_failure_of_its_tasks(tmp_path):
    gone = type(sys)("module_of_nobody")
    gone.work = lambda task: None
    gone.work.__module__, gone.work.__qualname__ = "module_of_nobody", "work"
    sys.modules["module_of_nobody"] = gone
    try:
        summary = run_tasks(fakes(tmp_path, [""]), gone.work, options(tmp_path))
    finally:
        del sys.modules["module_of_nobody"]
    assert "module_of_nobody" in summary.failures[0].reason


def test_a_function_of_the_program_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fake_work, "__module__", "__main__")
    with pytest.raises(ConfigError, match="put it into a module"):
        run_tasks(fakes(tmp_path, [""]), fake_work, options(tmp_path))


PROGRAM = """
import sys
from pathlib import Path
from fake_work import Fake, fake_work
from moediff.cohort.runner import run_tasks
from moediff.cohort.tasks import RunnerOptions, Task
from moediff.core import signals
signals.install_handlers()
folder = Path(sys.argv[1])
tasks = [Task(f"t{n:02d}", Fake(folder, float(sys.argv[2]) if n > 2 else 0.0)) for n in range(12)]
summary = run_tasks(tasks, fake_work, RunnerOptions(folder=folder / "logs", processes=2, quiet=True))
print(summary.done, summary.skipped, flush=True)
"""


def start(folder, seconds=0.05):
    """Twelve tasks on two workers; all but the first three last `seconds`."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests" / "cohort"), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=heed_interrupts,
    )


def wait_for(condition, seconds=120.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def pids(folder):
    return {int(line.split()[-1]) for lines in results(folder).values() for line in lines}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_moment_and_repeated(number, tmp_path):
    run = start(tmp_path, 600)
    wait_for(lambda: len(results(tmp_path)) >= 3)
    run.send_signal(number)
    run.communicate(timeout=120)
    wait_for(lambda: not any(is_running(pid) for pid in pids(tmp_path)))  # no worker is left
    assert len(results(tmp_path)) == 3
    again, _ = start(tmp_path, 0).communicate(timeout=120)
    assert again.split() == ["9", "3"]
    assert all(len(lines) == 1 for lines in results(tmp_path).values())


def test_two_runs_on_one_folder_share_the_work(tmp_path):
    both = [start(tmp_path), start(tmp_path)]
    done = [[int(n) for n in run.communicate(timeout=120)[0].split()] for run in both]
    assert sum(d for d, _ in done) == 12 and all(d + s == 12 for d, s in done)
    assert all(len(lines) == 1 for lines in results(tmp_path).values())
    journals = list((tmp_path / "logs").glob("journal-*"))
    assert len(journals) == 2 and all(list(read_entries(j))[-1].event == "end" for j in journals)


@pytest.mark.parametrize(
    ("changes", "tasks", "cores", "memory_mb", "share"),
    [
        ({}, 100, 16, 64_000, Share(16, 1)),  # cores bound
        ({}, 100, 16, 9_500, Share(3, 5)),  # memory bounds, threads take the rest
        ({}, 2, 16, 64_000, Share(2, 8)),  # few tasks
        ({"threads": 4}, 100, 16, 64_000, Share(4, 4)),
        ({"memory_mb": 6_000}, 100, 16, 64_000, Share(2, 8)),
        ({"processes": 8}, 100, 16, 100, Share(8, 2)),  # whoever gives a number is not corrected
        ({"processes": 8, "memory_mb": 6_000}, 100, 16, 100, Share(2, 8)),  # except by another number of theirs
        ({}, 100, 4, None, Share(4, 1)),
        ({}, 100, 4, 100, Share(1, 4)),
        ({"gpus": ("0", "1")}, 100, 16, 64_000, Share(2, 8)),  # one scan at once on each
        ({"gpus": ("0", "1"), "processes": 4}, 100, 16, 64_000, Share(4, 4)),
        ({"gpus": ("",)}, 100, 16, 64_000, Share(1, 16)),
    ],
)
def test_a_machine_is_shared_out(changes, tasks, cores, memory_mb, share, tmp_path):
    chosen = RunnerOptions(folder=tmp_path, **changes)
    assert share_machine(chosen, tasks, cores, memory_mb) == share


def test_a_container_bounds_cores_and_memory(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   8388608 kB\n")
    assert free_memory_mb(tmp_path, tmp_path / "meminfo") == 8192
    (tmp_path / "memory.max").write_text(f"{4 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{3 * 2**30}\n")
    (tmp_path / "memory.stat").write_text(f"anon {2**30}\ninactive_file {2 * 2**30}\n")
    assert free_memory_mb(tmp_path, tmp_path / "meminfo") == 3072
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_mb(tmp_path, tmp_path / "meminfo") == 8192
    assert free_memory_mb(tmp_path, tmp_path / "nothing") is None
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == usable_cores(tmp_path / "nowhere")
    (tmp_path / "cpu").mkdir()  # version 1
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("100000", 1), ("-1", usable_cores(tmp_path / "nowhere")), ("50000", 1)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert usable_cores(tmp_path) == cores


GIB = 2**30


@pytest.mark.parametrize(
    ("version", "line", "job"),
    [
        (2, "0::/slurm/job_7/step_0\n", "slurm/job_7"),
        (1, "9:cpu:/other\n4:memory:/slurm/job_7/step_0\n0::/\n", "memory/slurm/job_7"),
    ],
)
def test_a_job_bounds_memory_in_a_group_around_the_process(version, line, job, tmp_path):
    names = {2: ("max", "current", ""), 1: ("limit_in_bytes", "usage_in_bytes", "total_")}
    limit, in_use, total = names[version]
    (tmp_path / "own").write_text(line)
    (tmp_path / "meminfo").write_text("MemAvailable: 67108864 kB\n")
    for folder, most in ((tmp_path / job, 8 * GIB), (tmp_path / job / "step_0", 2**63 - 4096)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"memory.{limit}").write_text(f"{most}\n")
        (folder / f"memory.{in_use}").write_text(f"{3 * GIB}\n")
        (folder / "memory.stat").write_text(f"inactive_file 1\n{total}inactive_file {2 * GIB}\n")
    assert free_memory_mb(tmp_path, tmp_path / "meminfo", tmp_path / "own", {}) == 7 * 1024
    (tmp_path / "slurm/job_7").mkdir(parents=True, exist_ok=True)
    (tmp_path / "slurm/job_7/cpu.max").write_text("100000 100000\n")
    (tmp_path / "own").write_text("0::/slurm/job_7\n")
    assert usable_cores(tmp_path, tmp_path / "own") == 1


@pytest.mark.parametrize(
    ("environment", "memory_mb"),
    [
        ({"SLURM_MEM_PER_NODE": "6000"}, 6000),
        ({"SLURM_MEM_PER_CPU": "2000", "SLURM_CPUS_ON_NODE": "4"}, 8000),
        ({"SLURM_MEM_PER_NODE": "0"}, 65536),  # the whole node
        ({"SLURM_MEM_PER_CPU": "2000"}, 65536),
    ],
)
def test_what_slurm_gave_a_job_bounds_memory(environment, memory_mb, tmp_path):
    (tmp_path / "meminfo").write_text("MemAvailable: 67108864 kB\n")
    assert free_memory_mb(tmp_path, tmp_path / "meminfo", tmp_path / "own", environment) == memory_mb
