"""Time and memory of other programs: what is theirs, and what happens when they do not end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import torch

from moediff.benchmark.process_meter import run_measured
from processes import is_running


@pytest.fixture
def run(tmp_path):
    """`run(code, limit_s=60)` -> how a small Python program ran."""

    def measured(code: str, limit_s: float = 60.0):
        command = [sys.executable, "-S", "-c", code]
        return run_measured(command, limit_s=limit_s, log=tmp_path / "log", env={"WORD": "given"})

    return measured


def test_time_exit_code_output_and_environment(run, tmp_path):
    result = run("import os, sys, time; time.sleep(0.3); print(os.environ['WORD']); sys.exit(7)")
    assert result.exit_code == 7 and not result.timed_out and not result.fault
    assert result.seconds > 0.3
    assert (tmp_path / "log").read_text() == "given\n"


def test_processor_time_is_of_work_not_of_waiting(run):
    idle, busy = run("import time; time.sleep(1)"), run("import time\nwhile time.process_time() < 0.6: pass")
    assert idle.cpu_s < 0.4 < 0.6 <= busy.cpu_s < 1.0 <= idle.seconds


def test_memory_is_the_programs_own_and_not_its_parents(run):
    ballast = torch.ones(60 * 2**20)  # 240 MiB that are ours
    small, large = run("pass"), run("b = bytearray(150 * 2**20)")
    assert ballast.numel() and small.peak_mib < 60
    assert 150 < large.peak_mib < 210


def test_a_program_that_takes_too_long_is_stopped_with_its_children(run, tmp_path):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])"
    start = time.perf_counter()
    result = run(child, limit_s=1.0)
    assert result.timed_out and result.exit_code == -signal.SIGKILL
    assert time.perf_counter() - start < 30


def test_a_program_that_is_not_there_is_a_fault(tmp_path):
    result = run_measured(["no-such-program"], limit_s=5, log=tmp_path / "log", env={})
    assert result.exit_code is None and "No such file" in result.fault


def test_the_program_ends_with_us_even_when_we_are_killed(tmp_path):
    mark = tmp_path / "pid"
    program = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys; from pathlib import Path; from moediff.benchmark.process_meter import run_measured\n"
        f"run_measured([sys.executable, '-c', {program!r}], limit_s=60, log=Path({str(tmp_path / 'log')!r}), env={{}})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    waited = time.monotonic() + 60
    while not (mark.is_file() and mark.read_text()) and time.monotonic() < waited:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    pid = int(mark.read_text())
    while is_running(pid) and time.monotonic() < waited:
        time.sleep(0.05)
    assert not is_running(pid)


def test_no_module_is_taken_from_the_current_folder(run, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user was run')")
    monkeypatch.chdir(tmp_path)
    assert run("pass").exit_code == 0
