"""Whole studies on real file systems that are full or read-only: one sentence, the right exit code, nothing partial.

Small file systems in memory are mounted for it, which root may do; elsewhere the tests are skipped. Permissions would
not do: they do not stop root.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import pytest
from study_maker import every_file, make_study

from moediff.cli.main import main

for needed in ("pathspec", "jinja2"):
    pytest.importorskip(needed)


def mount(*words: str) -> None:
    """Run `mount`; skips where it is not allowed."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here ({done.stderr.strip()})")


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """An empty file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_only(folder: Path) -> None:
    mount("-o", "remount,ro", str(folder))


@pytest.fixture
def run(tmp_path, bundle) -> Callable[..., int]:
    """`run(bids, out, ...)` enhances a dataset of one participant, two scans."""

    def call(bids: Path, out: Path, *more: str) -> int:
        options = ["--bundle", str(bundle), "--voxel-size", "12", "--runner", "serial", "--retries", "0"]
        return main(["bids", str(bids), str(out), "participant", *options, "--skip-bids-validation", *more])

    return call


@pytest.fixture
def bids(tmp_path) -> Path:
    return make_study(tmp_path / "bids", 1)


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*_desc-sr_*.nii.gz"))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".moediff")]


def fill(disk: Path, spare_bytes: int) -> Path:
    """Leave so much room."""
    file = disk / "filler"
    file.write_bytes(bytes(shutil.disk_usage(disk).free - spare_bytes))
    return file


@pytest.mark.parametrize("spare_kb", [0, 8, 24, 48, 96])
def test_a_full_disk_leaves_nothing_partial(spare_kb, disk, bids, run, capsys):
    filler = fill(disk, spare_kb * 1024)
    code = run(bids, disk / "out")
    said = capsys.readouterr().err
    assert code == 74 and "No space left on device" in said and "Traceback" not in said  # the pages fail too
    assert "standard output" not in said and said.count("failed (exit code 74)") in (0, 2, 4)
    assert leftovers(disk) == [] and all(nib.load(path).get_fdata().any() for path in disk.rglob("*_desc-sr_*.nii.gz"))
    filler.unlink()
    assert run(bids, disk / "out", "-q") == 0
    assert len(results(disk)) == 2 and leftovers(disk) == []


def test_a_read_only_output_is_refused_before_any_work(disk, bids, run, capsys):
    (disk / "results").mkdir()
    read_only(disk)
    for out in ("results", "new"):
        assert run(bids, disk / out) == 73
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "ead-only file system" in said and "Traceback" not in said


def test_results_that_became_read_only_stay_and_are_said(disk, bids, run, tmp_path, capsys):
    assert run(bids, disk / "out", "-q") == 0
    before = every_file(disk)
    read_only(disk)
    capsys.readouterr()
    assert run(bids, disk / "out") == 73
    assert "ead-only file system" in capsys.readouterr().err
    assert run(bids, disk / "out", "-w", str(tmp_path / "logs"), "--no-pages") == 0  # all is done: nothing to write
    assert run(bids, disk / "out", "-w", str(tmp_path / "logs"), "--no-pages", "--redo") == 8
    said = capsys.readouterr().err
    assert (
        said.count("failed (exit code 73)") == 4 and "Traceback" not in said
    )  # two scans, as they fail and at the end
    assert every_file(disk) == before


def test_a_read_only_input_is_enough(disk, run, tmp_path):
    bids = make_study(disk / "bids", 1)
    before = every_file(disk)
    read_only(disk)
    assert run(bids, tmp_path / "out", "-q") == 0
    assert len(results(tmp_path / "out")) == 2 and every_file(disk) == before
