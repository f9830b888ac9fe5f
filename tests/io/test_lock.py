"""What is left of outputs when the work on them ends before the sidecar: nothing that this run wrote."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from moediff.core import signals
from moediff.core.errors import CannotCreate, OutputFailed
from moediff.io.lock import output_lock, register_outputs
from moediff.io.scans import write_text

ENDS = (KeyboardInterrupt(), signals.Terminated(128 + signal.SIGTERM), OutputFailed("full"), RuntimeError("a fault"))


@pytest.fixture
def every(tmp_path: Path) -> list[Path]:
    """Scan, map and sidecar."""
    return [tmp_path / "a.nii.gz", tmp_path / "mask.nii.gz", tmp_path / "a.json"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def broken_off(every: list[Path], end: BaseException, written: int, *, overwrite: bool = False) -> None:
    """A run that writes some of its outputs as `outputs.write` does, and ends."""
    with pytest.raises(type(end)), output_lock(every):
        register_outputs(every)
        if overwrite:
            every[-1].unlink(missing_ok=True)
        for path in every[:written]:
            write_text("new", path, overwrite=overwrite)
        raise end


@pytest.mark.fault(46)
@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("written", [0, 1, 2])
def test_row46_what_ends_before_the_sidecar_leaves_nothing(end, written, every, tmp_path):
    broken_off(every, end, written)
    assert names(tmp_path) == set()


@pytest.mark.fault(46)
def test_row46_what_ends_after_the_sidecar_is_complete(every, tmp_path):
    broken_off(every, KeyboardInterrupt(), 3)
    assert names(tmp_path) == {path.name for path in every}


@pytest.mark.fault(46)
@pytest.mark.parametrize(("written", "left"), [(0, {"a.nii.gz", "mask.nii.gz"}), (1, {"mask.nii.gz"}), (2, set())])
def test_row46_an_overwriting_run_clears_only_what_it_wrote(written, left, every, tmp_path):
    for path in every:
        write_text("old", path)
    broken_off(every, KeyboardInterrupt(), written, overwrite=True)
    assert names(tmp_path) == left and all((tmp_path / name).read_text() == "old" for name in left)


@pytest.mark.fault(46)
def test_row46_before_outputs_are_registered_nothing_is_removed(every, tmp_path):
    every[0].write_text("old")
    with pytest.raises(CannotCreate), output_lock(every):
        raise CannotCreate("the file exists already")
    assert every[0].read_text() == "old" and names(tmp_path) == {"a.nii.gz"}


@pytest.mark.fault(47)
def test_row47_a_name_that_another_program_took_meanwhile_stays(every, tmp_path):
    with pytest.raises(CannotCreate, match="exists already"), output_lock(every):
        register_outputs(every)
        write_text("new", every[0])
        every[1].write_text("of another program")
        write_text("new", every[1])
    assert names(tmp_path) == {"mask.nii.gz"} and every[1].read_text() == "of another program"
