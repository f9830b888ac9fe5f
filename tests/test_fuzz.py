"""Mutated files of every kind: no traceback, no hang, no memory beyond need, no voxel silently wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzzer.py")
FILES = 1000  # the same ones every time


@pytest.mark.fault(4, 7, 8, 11, 16, 17, 43)
def test_mutated_files_are_read_right_or_refused(pytestconfig, figures, tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    seconds = pytestconfig.getoption("--fuzz-seconds")
    limit = ["--seconds", str(seconds)] if seconds else ["--files", str(FILES)]
    command = [sys.executable, FUZZER, *limit, "--seed", "1", "--keep", tmp_path / "found"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads(done.stdout)
    assert tally["inputs"] >= (seconds or FILES) and min(tally["accepted"], tally["refused"]) > tally["inputs"] / 20
    figures["mutated files read"] += tally["inputs"]
    for kind in ("crashes", "hangs", "silently wrong"):
        figures[f"mutated files: {kind}"] += tally[kind]
