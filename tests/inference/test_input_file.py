"""The sidecar's input file is the one that was read, whatever becomes of it while the work goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import pytest

from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.outputs import OutputPaths
from moediff.inference.run import EnhanceRequest, PlannedScan, enhance_to
from moediff.io.checksum import checksum_of, file_state
from moediff.io.scans import load, save

SAME_SIZE = EnhanceOptions(voxel_size=(8.0,))  # passed through, in no time
CHANGED = "was changed, moved or removed after it was read: the result is of what it held before"


@pytest.fixture
def scan(make_phantom, tmp_path) -> Path:
    path = tmp_path / "sub-1_T1w.nii.gz"
    save(make_phantom((20, 24, 18), (8.0, 8.0, 8.0)), path)
    return path


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_another(path: Path) -> None:
    other = path.with_name("other.nii.gz")
    other.write_bytes(b"another")
    other.replace(path)


CHANGES = (touch, shorten, replace_by_another, Path.unlink)


@pytest.fixture
def run(enhancer: Enhancer, tmp_path: Path) -> Callable[..., dict]:
    """`run(source, change, guide=None)` -> sidecar of a run in which `change()` comes before the network."""

    def enhanced(source: object, change: Callable[[], object], **more: object) -> dict:
        outputs = OutputPaths(scan=tmp_path / "out" / "a.nii.gz")
        outputs.scan.parent.mkdir()

        def model(_: PlannedScan) -> Enhancer:
            change()
            return enhancer

        result = enhance_to(EnhanceRequest(source=source, options=SAME_SIZE, outputs=outputs, **more), model)
        record = json.loads(outputs.sidecar.read_text())
        assert record["warnings"] == list(result.sidecar.warnings)
        return record

    return enhanced


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_file_that_changes_during_the_work_is_named_as_it_was_and_warned_of(change, loaded, scan, run):
    digest = hashlib.sha256(scan.read_bytes()).hexdigest()
    record = run(load(scan) if loaded else scan, lambda: change(scan))
    assert record["input_file"] == {"sha256": digest, "path": "../sub-1_T1w.nii.gz"}
    assert f"sub-1_T1w.nii.gz {CHANGED}" in record["warnings"]


def test_a_file_that_stays_is_not_warned_of(scan, run):
    record = run(scan, lambda: None)
    assert record["input_file"] is not None and not any(CHANGED in note for note in record["warnings"])


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changed_between_reading_and_the_work_is_not_named(change, scan, run):
    loaded = load(scan)
    change(scan)
    record = run(loaded, lambda: None)
    assert record["input_file"] is None and f"sub-1_T1w.nii.gz {CHANGED}" in record["warnings"]


def test_an_image_of_nibabel_whose_voxels_are_in_a_file_is_watched_too(scan, run):
    record = run(nib.load(scan), lambda: shorten(scan))
    assert record["input_file"] is not None and f"sub-1_T1w.nii.gz {CHANGED}" in record["warnings"]


def test_a_scan_in_memory_has_no_file(make_phantom, run):
    record = run(make_phantom((20, 24, 18), (8.0, 8.0, 8.0)), lambda: None)
    assert record["input_file"] is None and not any(CHANGED in note for note in record["warnings"])


def test_a_series_is_named_neutrally_and_our_own_hidden_files_beside_it_do_not_count(tmp_path, run):
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from dicom_maker import slices, write

    folder = write(tmp_path / "Quimby", slices())
    loaded, before = load(folder), checksum_of(folder)
    (folder / ".moediff-12.lock").write_text("of another run")
    (folder / ".moediff-12.tmp").mkdir()
    (folder / ".moediff-12.tmp" / "1.dcm").write_text("half")
    assert file_state(folder) == loaded.file_state is not None and checksum_of(folder) == before
    record = run(loaded, lambda: (folder / "more").write_text("of a scanner"))
    (note,) = [note for note in record["warnings"] if CHANGED in note]
    assert note.startswith("series-") and record["input_file"]["path"] is None


def test_a_guide_is_watched_too(run, scan, make_phantom, tmp_path):
    pytest.importorskip("SimpleITK")
    guide = tmp_path / "guide.nii.gz"
    save(make_phantom((20, 24, 18), (8.0, 8.0, 8.0), seed=1), guide)
    record = run(scan, guide.unlink, guide=guide)
    assert f"guide.nii.gz {CHANGED}" in record["warnings"] and record["input_file"] is not None


def test_the_state_of_what_is_not_there_is_none(tmp_path):
    assert file_state(tmp_path / "a.nii") is None and file_state(Path("a\0.nii")) is None
    (tmp_path / "a.hdr").touch()
    assert file_state(tmp_path / "a.hdr") is None
    (tmp_path / "a.img").touch()
    assert len(file_state(tmp_path / "a.img") or ()) == 2
