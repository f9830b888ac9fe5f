"""Twelve scans on two workers, one worker killed, one input corrupt, the controlling program killed and run again.

On local processes, on Dask, and on a real Slurm where there is one: there a job is requeued, another one cancelled, and
Slurm's own controller restarted as well.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import ready, slurm_cluster

from moediff.cohort.dask_workers import _queue_cluster
from moediff.cohort.journal import journals, read_entries
from moediff.cohort.queue_jobs import PREEMPTED
from moediff.cohort.tasks import QueueOptions, RunnerOptions

HERE = Path(__file__).resolve().parent
CONTROLLER = HERE / "controller.py"
needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="dask is not installed")


def start(runner, folder, seconds, environment=None):
    paths = [str(HERE.parents[1] / "src"), str(HERE), *filter(None, sys.path)]
    return subprocess.Popen(
        [sys.executable, str(CONTROLLER), runner, str(folder), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**(environment or os.environ), "PYTHONPATH": os.pathsep.join(paths)},
    )


def results(folder):
    return sorted(folder.glob("*.result"))


def reasons(folder, event):
    """Of all entries of this kind, in every run's journal."""
    entries = (entry for path in journals(folder / "logs") for entry in read_entries(path))
    return [entry.reason for entry in entries if entry.event == event]


def wait_for(condition, seconds, run):
    until = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def assert_eleven_results_and_one_failure(run, folder, timeout):
    out, error = run.communicate(timeout=timeout)
    assert run.returncode == 8, error
    summary = json.loads(out.splitlines()[-1])
    assert [(f["name"], f["exit_code"]) for f in summary["failures"]] == [("sub-02_T1w", 65)]
    assert "ends early" in summary["failures"][0]["reason"]
    assert summary["done"] + summary["skipped"] == 11
    assert len(results(folder)) == 11
    assert all(len(path.read_text().splitlines()) == 1 for path in results(folder))  # nothing was done twice
    return summary


@pytest.mark.parametrize("runner", ["processes", pytest.param("dask", marks=[needs_dask, pytest.mark.slow])])
def test_on_one_machine(runner, tmp_path):
    run = start(runner, tmp_path, 0.2)
    wait_for(lambda: len(results(tmp_path)) >= 5, 120, run)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    summary = assert_eleven_results_and_one_failure(start(runner, tmp_path, 0.2), tmp_path, 120)
    assert summary["skipped"] >= 5
    events = [entry.event for path in journals(tmp_path / "logs") for entry in read_entries(path)]
    assert events.count("lost") >= 1 and events.count("run") == 2


@pytest.mark.slow
@needs_dask
@pytest.mark.skipif(bool(ready()), reason=ready() or "Slurm is here")
def test_on_slurm(tmp_path):
    (tmp_path / "slurm").mkdir()
    with slurm_cluster(tmp_path / "slurm") as slurm:
        folder = tmp_path / "cohort"
        folder.mkdir()
        refused = start("slurm", folder, 0, slurm.environment | {"PARTITION": "nosuch"})
        assert "Invalid partition name specified" in refused.communicate(timeout=120)[1]
        run = start("slurm", folder, 4, slurm.environment)
        wait_for(lambda: len(results(folder)) >= 2, 120, run)
        slurm.run("scontrol", "requeue", slurm.jobs("R")[0])
        wait_for(lambda: len(results(folder)) >= 4, 120, run)
        slurm.restart_controller()
        slurm.run("scancel", slurm.jobs("R")[-1])  # replaced, or nobody would go on
        wait_for(lambda: len(results(folder)) >= 6, 180, run)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        summary = assert_eleven_results_and_one_failure(start("slurm", folder, 4, slurm.environment), folder, 300)
        assert summary["skipped"] >= 6
        assert slurm.jobs("R", "PD") == []  # no job of ours is left in the queue
        assert len(reasons(folder, "run")) == 2 and reasons(folder, "lost")
        # Only the worker that was killed counts as an attempt; Dask itself may have handed the others' scans on.
        assert len(reasons(folder, "retry")) <= 1 and set(reasons(folder, "wait")) <= {PREEMPTED}


@pytest.mark.slow
@needs_dask
@pytest.mark.parametrize(
    ("runner", "lines"),
    [
        (
            "slurm",
            (
                "#SBATCH -p short",
                "#SBATCH -A lab",
                "#SBATCH --cpus-per-task=4",
                "#SBATCH --mem=6G",
                "#SBATCH -t 04:30:00",
            ),
        ),
        ("pbs", ("#PBS -q short", "#PBS -A lab", "#PBS -l select=1:ncpus=4:mem=6000MB", "#PBS -l walltime=04:30:00")),
        ("lsf", ("#BSUB -q short", '#BSUB -P "lab"', "#BSUB -n 4", "#BSUB -W 04:30")),
    ],
)
def test_job_scripts_ask_for_what_was_chosen(runner, lines, tmp_path):
    queue = QueueOptions(partition="short", account="lab", walltime="04:30:00", directives=("-x 1",), setup=("ml x",))
    handler = signal.getsignal(signal.SIGINT)
    for name in ("dask_jobqueue.runner", "dask_jobqueue"):
        sys.modules.pop(name, None)
    with _queue_cluster(RunnerOptions(folder=tmp_path, runner=runner, memory_mb=6000, queue=queue), 4) as cluster:
        script = cluster.job_script().splitlines()
    assert signal.getsignal(signal.SIGINT) is handler  # dask-jobqueue takes it over when it is imported
    assert {*lines, "ml x", "export OMP_NUM_THREADS=4"} <= set(script)
    assert any(line.endswith(" -x 1") for line in script)
    assert "--nthreads 1 --memory-limit 0" in script[-1] or "--nthreads 1 --memory-limit 0" in script[-2]


@pytest.mark.slow
@needs_dask
@pytest.mark.skipif(shutil.which("qsub") is not None, reason="there is a PBS here")
def test_a_queue_that_is_not_there_is_named(tmp_path):
    out, error = start("pbs", tmp_path, 0).communicate(timeout=120)
    assert "runner pbs: no worker can be started (there is no command qsub here)" in error and not out
