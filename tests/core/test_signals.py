"""Ctrl-C, SIGTERM and a closed terminal end with one sentence and 128 + the signal, whenever they come."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interrupts import heed_interrupts
from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.io.scans import save

RAISE = "import os, signal; os.kill(os.getpid(), signal.{name}); import time; time.sleep(1.5)"
PLACES = {  # where a signal is easily lost or mistaken
    "plain": "{stop}",
    "exec of a text, as dataclasses do": "exec('{stop}')",
    "a destructor": "class X:\n    def __del__(self):\n        {stop}\nx = X()\ndel x\nimport time\ntime.sleep(30)",
    "an import that fails": "try:\n    {stop}\nexcept BaseException:\n    raise ImportError('numpy is broken')",
    "clearing every exception": "try:\n    {stop}\nexcept BaseException:\n    pass\nimport time\ntime.sleep(30)",
    "cleaning up": "try:\n    {stop}\nfinally:\n    {stop}",
}
PROGRAM = """
import sys
import moediff.cli.enhance as module
import moediff.core.signals
moediff.core.signals.REMINDER_S = 1.0
def command(args):
    exec(compile({body!r}, "body", "exec"), {{}})
    return 0
module.enhance_command = command
sys.argv = ["moediff", "enhance", "scan.nii.gz"]
from moediff.__main__ import run
sys.exit(run())
"""
STOPS = "stops (Ctrl-C, SIGTERM) answered in one sentence"
HEEDED = 1 << (signal.SIGTERM - 1)


@pytest.mark.fault(46)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("body", PLACES.values(), ids=PLACES.keys())
def test_a_signal_is_never_lost_or_mistaken(body, name):
    code = PROGRAM.format(body=body.format(stop=RAISE.format(name=name)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=heed_interrupts)
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stderr.count("\n") == 1 and "nothing partial was left" in done.stderr


def test_what_the_caller_ignores_stays_ignored():
    """nohup, and a shell's background job."""
    code = PROGRAM.format(body="import os, signal; os.kill(os.getpid(), signal.SIGHUP)").replace(
        "import sys", "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)", 1
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def heeding(process: subprocess.Popen[bytes]) -> bool:
    """Whether the program has come to its first line."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & HEEDED)
    return False


@pytest.mark.fault(46)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not say what a process heeds")
def test_stopped_at_random_moments(tmp_path, make_phantom, bundle, pytestconfig, figures):
    """From the first line of the program: imports, reading, work."""
    scan = tmp_path / "scan.nii.gz"
    save(degrade(make_phantom((44, 50, 40), (4.0, 4.0, 4.0)), thick_slices(2, 0.01, "thick2"), rng_for(0)), scan)
    command = [
        sys.executable,
        "-m",
        "moediff",
        "enhance",
        str(scan),
        "--bundle",
        str(bundle),
        "--voxel-size",
        "4",
        "--threads",
        "1",
        "--mode",
        "detail",
        "--steps",
        "64",
        "--samples",
        "64",
    ]
    rng = random.Random(11)
    for number in [signal.SIGINT, signal.SIGTERM] * (pytestconfig.getoption("--kills") // 2):
        figures[f"{STOPS}, of"] += 1
        with subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heed_interrupts) as process:
            while not heeding(process):
                time.sleep(0.002)
            time.sleep(rng.choice((0.1, 1, 6)) * rng.random())
            process.send_signal(number)
            _, said = process.communicate(timeout=120)
        assert process.returncode == 128 + number and said.count(b"\n") == 1, said.decode()
        assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
        figures[STOPS] += 1
