"""What is left of outputs when the work on them ends before the sidecar: nothing that this run wrote."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from moediff.core import signals
from moediff.core.errors import CannotCreate, OutputFailed
from moediff.io.atomic import whole_folder
from moediff.io.lock import lock_of, output_lock, register_outputs
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


@pytest.mark.fault(46)
@pytest.mark.parametrize("written", [(), ("new",), ("new", "page.html")])
def test_row46_an_older_sidecar_does_not_make_a_failed_overwriting_run_complete(written, tmp_path):
    """A DICOM folder, never replaced, would refuse the repetition."""
    every = [tmp_path / "a.nii.gz", tmp_path / "page.html", tmp_path / "new", tmp_path / "a.json"]
    older = {"a.nii.gz", "a.json", "page.html"}
    for name in older:
        (tmp_path / name).write_text("old")
    with pytest.raises(OutputFailed), output_lock(every):
        register_outputs(every)
        write(tmp_path, written)
        raise OutputFailed("the page does not fit")
    assert names(tmp_path) == older - set(written)


@pytest.mark.fault(46)
@pytest.mark.parametrize("written", [(), ("new",), ("new", "page.html")])
def test_row46_what_an_overwriting_run_added_before_it_was_killed_goes(written, tmp_path):
    every = [tmp_path / "a.nii.gz", tmp_path / "page.html", tmp_path / "new", tmp_path / "a.json"]
    older = {"a.nii.gz", "a.json", "page.html"}
    for name in older:
        (tmp_path / name).write_text("old")
    with output_lock(every):
        register_outputs(every)
        left = lock_of(every[0]).read_bytes()
    write(tmp_path, written)
    lock_of(every[0]).write_bytes(left)
    with output_lock(every):
        assert names(tmp_path) - {lock_of(every[0]).name} == older - set(written)
    (tmp_path / "new").mkdir()
    (tmp_path / "a.json").unlink()
    write_text("new", tmp_path / "a.json")
    lock_of(every[0]).write_bytes(left)
    with output_lock(every):
        assert names(tmp_path) - {lock_of(every[0]).name} >= {"new", "a.nii.gz", "a.json"}  # complete


def write(folder: Path, names: tuple[str, ...]) -> None:
    """A series and a page, as `outputs.write` begins."""
    for name in names:
        if name == "new":
            with whole_folder(folder / name, overwrite=False) as hidden:
                (hidden / "1.dcm").write_text("new")
        else:
            write_text("new", folder / name, overwrite=True)


@pytest.mark.fault(46)
def test_row46_another_thread_that_locks_its_own_outputs_leaves_the_clean_up_alone(every, tmp_path):
    other = [tmp_path / "b.nii.gz", tmp_path / "b.json"]

    def whole() -> None:
        with output_lock(other):
            register_outputs(other)
            for path in other:
                write_text("new", path)

    with pytest.raises(OutputFailed), output_lock(every):
        register_outputs(every)
        write_text("new", every[0])
        thread = threading.Thread(target=whole)
        thread.start()
        thread.join()
        assert set(json.loads(lock_of(every[0]).read_text())["outputs"]) == {path.name for path in every}
        raise OutputFailed("full")
    assert names(tmp_path) == {"b.nii.gz", "b.json"}


@pytest.mark.fault(46)
def test_row46_a_lock_inside_another_one_leaves_its_clean_up_alone(every, tmp_path):
    with pytest.raises(OutputFailed), output_lock(every):
        write_text("new", every[0])
        with output_lock([tmp_path / "b.nii.gz"]):
            write_text("new", tmp_path / "b.nii.gz")
        register_outputs(every)
        write_text("new", every[1])
        raise OutputFailed("full")
    assert names(tmp_path) == {"b.nii.gz"}
