"""Row 46 from outside: `moediff enhance` killed at any moment leaves nothing that could be taken for a result."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moediff.config import rng_for
from moediff.simulate.degrade import degrade
from moediff.simulate.recipe import thick_slices
from moediff.volume.io import save

Recorder = Callable[[str, object], None]


@pytest.fixture
def command(tmp_path: Path, bundle: Path, make_phantom) -> list[str]:
    """`moediff enhance` of a small head, all outputs."""
    truth = make_phantom((44, 50, 40), (4.0, 4.0, 4.0))
    save(degrade(truth, thick_slices(2, 0.01, "thick2"), rng_for(0)), tmp_path / "in_T1w.nii.gz")
    (tmp_path / "out").mkdir()
    call = [sys.executable, "-m", "moediff.cli", "enhance", str(tmp_path / "in_T1w.nii.gz"), "--bundle", str(bundle)]
    outputs = ["-o", str(tmp_path / "out" / "a.nii.gz"), "--experts", str(tmp_path / "out" / "b.nii.gz")]
    return [*call, *outputs, "--voxel-size", "4", "-q"]


def written(folder: Path) -> dict[str, bytes]:
    """Visible files and what is in them; but for the sidecar's timings the same every time."""
    return {p.name: b"" if p.suffix == ".json" else p.read_bytes() for p in folder.iterdir() if p.name[0] != "."}


def survives(command: list[str], folder: Path, moment: float, number: int, whole: dict[str, bytes]) -> bool:
    """Signal one run at this moment, look at what is there, run again."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        time.sleep(moment)
        process.send_signal(number)
    left = written(folder)
    honest = all(whole[name] == data for name, data in left.items())  # each file whole or absent
    if "a.json" in left:  # the sidecar comes last: everything is there
        honest = honest and left == whole
    subprocess.run([*command, "--overwrite"], check=True)
    good = honest and written(folder) == whole
    for path in folder.iterdir():
        path.unlink()
    return good


def kills(command: list[str], folder: Path, count: int, record: Recorder) -> None:
    start = time.monotonic()
    subprocess.run(command, check=True)
    seconds, whole = time.monotonic() - start, written(folder)
    assert set(whole) == {"a.nii.gz", "a.json", "b.nii.gz"}
    for path in folder.iterdir():
        path.unlink()
    rng, signals = random.Random(0), (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    moments = [(rng.uniform(0.3, 1.05) * seconds, signals[i % 3 if i % 5 == 0 else 0]) for i in range(count)]
    survived = sum(survives(command, folder, moment, number, whole) for moment, number in moments)
    record("killed", count)
    record("survived", survived)
    assert survived == count


def test_row46_killed_at_three_random_moments(command, tmp_path, record_property):
    kills(command, tmp_path / "out", 3, record_property)


@pytest.mark.slow
def test_row46_killed_at_thirty_random_moments(command, tmp_path, record_property):
    kills(command, tmp_path / "out", 30, record_property)
