"""DICOM series to volumes: every voxel and the affine against what was written; zip, compression, dcm2niix."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicom_maker import OBLIQUE, enhanced, known_affine, known_voxels, slices, write
from pydicom.uid import RLELossless

from moediff.core.errors import ConfigError, DataError, InputMissing
from moediff.core.geometry import canonicalise
from moediff.core.volume import Volume
from moediff.io.dicom import files as dicom_files
from moediff.io.dicom import reader
from moediff.io.dicom.series import list_series
from moediff.io.dicom.tags import silence_pydicom
from moediff.io.scans import load

DIRECTIONS = {
    "axial": np.array([[1.0, 0, 0], [0, 1, 0]]),
    "sagittal": np.array([[0.0, 1, 0], [0, 0, -1]]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1]]),
    "oblique": OBLIQUE,
    "oblique, turned": OBLIQUE[::-1] * [[1], [-1]],
}


def assert_known(volume: Volume, directions: np.ndarray = OBLIQUE, slope: float = 1, inter: float = 0) -> None:
    np.testing.assert_array_equal(volume.data_XYZ.numpy(), known_voxels().astype(float) * slope + inter)
    np.testing.assert_allclose(volume.affine.numpy(), known_affine(directions), atol=1e-5)


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, file in enumerate(folder.iterdir()):
            archive.write(file, f"../../outside/{number}")  # names that an extraction would follow
    return path


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_shuffled_files_become_the_known_volume(tmp_path, directions):
    loaded = load(write(tmp_path / "export", slices(directions)))
    assert_known(loaded.stored, directions)
    assert (loaded.stem, loaded.codes, loaded.warnings) == ("series-5_MR", (1, 1), ())


def test_one_enhanced_file_gives_the_same_volume(tmp_path):
    write(tmp_path / "export", [enhanced()])
    file = next((tmp_path / "export").iterdir())
    assert_known(load(tmp_path / "export").stored, slope=2, inter=3)
    assert_known(load(file).stored, slope=2, inter=3)


def test_a_multi_frame_file_that_lies_there_twice_is_decoded_twice_and_compared(tmp_path, monkeypatch):
    decoded, decode = [], reader._stored
    monkeypatch.setattr(reader, "_stored", lambda file: decoded.append(file) or decode(file))
    loaded = load(write(tmp_path / "export", [enhanced(), enhanced()]))
    assert_known(loaded.stored, slope=2, inter=3)
    assert loaded.warnings == ("9 images existed twice and were taken once",) and len(decoded) == 2
    other = enhanced()
    other.PixelData = other.PixelData[:-2] + b"\0\0"  # the last voxel of the last frame
    with pytest.raises(DataError, match="twice with different voxels"):
        load(write(tmp_path / "other", [enhanced(), other]))


def test_rle_is_decoded(tmp_path):
    datasets = slices()
    for one in datasets:
        one.compress(RLELossless, generate_instance_uid=False)
    assert_known(load(write(tmp_path / "export", datasets)).stored)


def test_rescaling_may_differ_between_slices(tmp_path):
    datasets = slices(RescaleIntercept=-10.0)
    for z, one in enumerate(datasets):
        one.RescaleSlope = 1.0 + z
    read_XYZ = load(write(tmp_path / "export", datasets)).stored.data_XYZ.numpy()
    np.testing.assert_allclose(read_XYZ, known_voxels() * (1.0 + np.arange(9)) - 10)


def test_monochrome1_is_inverted(tmp_path):
    loaded = load(write(tmp_path / "export", slices(PhotometricInterpretation="MONOCHROME1")))
    assert_known(loaded.stored, slope=-1, inter=4095)
    assert "MONOCHROME1" in loaded.warnings[0]


def test_a_zip_is_read_without_writing_anything(tmp_path):
    path = zipped(tmp_path / "export.zip", write(tmp_path / "made", slices()))
    before = sorted(tmp_path.parent.rglob("*"))
    assert_known(load(path).stored)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_zip_beyond_the_budget_is_refused_before_unpacking(tmp_path, monkeypatch):
    path = zipped(tmp_path / "export.zip", write(tmp_path / "made", slices()))
    monkeypatch.setattr(dicom_files, "MAX_TOTAL_BYTES", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args: pytest.fail("something was unpacked"))
    with pytest.raises(DataError, match="expected at most 1000"):
        load(path)


def test_a_nameless_entry_of_a_zip_is_read_like_any_other(tmp_path):
    write(tmp_path / "export", slices())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, file in enumerate((tmp_path / "export").iterdir()):
            archive.writestr(zipfile.ZipInfo(str(number or "")), file.read_bytes())
        archive.writestr(zipfile.ZipInfo("folder/"), b"")
    assert_known(load(tmp_path / "a.zip").stored)


def test_a_damaged_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "export.zip", write(tmp_path / "made", slices()))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="copy the archive again"):
        load(path)


def test_choices_for_the_other_format_are_refused(tmp_path, nifti):
    folder = write(tmp_path / "export", slices())
    with pytest.raises(ConfigError, match="choices for NIfTI"):
        load(folder, index=0)
    with pytest.raises(ConfigError, match="choice for a folder"):
        load(nifti(), series="5")


def test_no_dicom_in_it(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputMissing, match="no DICOM images here"):
        load(tmp_path)
    with pytest.raises(InputMissing, match="no such"):
        load(tmp_path / "absent.zip")


def test_missing_pydicom_is_answered_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"pip install 'moediff-sr\[dicom\]'"):
        load(tmp_path)


def dcm2niix(folder: Path, out: Path) -> Volume:
    """What the reference converter makes of a folder."""
    if importlib.util.find_spec("dcm2niix") is None:
        pytest.skip("the dcm2niix wheel is not installed")
    from dcm2niix import bin as program

    out.mkdir()
    subprocess.run([program, "-z", "n", "-b", "n", "-f", "out", "-o", out, folder], check=True, capture_output=True)
    image = nib.load(next(out.glob("*.nii")))
    return load_array(image)


def load_array(image: nib.Nifti1Image) -> Volume:
    import torch

    return Volume(torch.from_numpy(image.get_fdata(dtype=np.float32)), torch.from_numpy(image.affine))


def assert_same(ours: Volume, theirs: Volume) -> None:
    ours, theirs = canonicalise(ours)[0], canonicalise(theirs)[0]
    np.testing.assert_array_equal(ours.data_XYZ.numpy(), theirs.data_XYZ.numpy())
    np.testing.assert_allclose(ours.affine.numpy(), theirs.affine.numpy(), atol=2e-3)


@pytest.mark.parametrize("name", ["axial", "sagittal", "oblique"])
def test_dcm2niix_agrees_on_synthetic_series(tmp_path, name):
    folder = write(tmp_path / "export", slices(DIRECTIONS[name]))
    assert_same(load(folder).stored, dcm2niix(folder, tmp_path / "out"))


@pytest.mark.slow
def test_dcm2niix_agrees_on_the_sample_series(tmp_path, shared_data):
    sample = shared_data / "dicom" / "trio_b17_mprage.tar.xz"
    if not sample.is_file():
        pytest.skip("the sample DICOM series is not among the shared scans")
    with tarfile.open(sample) as archive:
        archive.extractall(tmp_path / "export", filter="data")
    loaded = load(tmp_path / "export")
    assert_same(loaded.stored, dcm2niix(tmp_path / "export", tmp_path / "out"))
    said = repr((loaded.warnings, loaded.stem, [series.row() for series in list_series(tmp_path / "export")])).lower()
    assert [secret for secret in ("rorden", "upgrade", "2010", "1970", "039y", "cabi", "35389") if secret in said] == []


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("MIP", "a projection"),
        ("MPR", "a reformat"),
        ("P", "a phase image"),
        ("IMAGINARY", "the real or imaginary part"),
        ("ADC", "a map of diffusion coefficients"),
        ("T1 MAP", "a parameter map"),
    ],
)
def test_an_image_that_is_no_magnitude_scan_is_warned_of_by_name(tmp_path, word, kind):
    folder = write(tmp_path / "export", slices(ImageType=["DERIVED", "SECONDARY", word, "ND"]))
    (note,) = [note for note in load(folder).warnings if "ImageType" in note]
    assert note.startswith(f"the series is {kind}") and f"(ImageType {word})" in note


@pytest.mark.parametrize("image_type", [["ORIGINAL", "PRIMARY", "M", "ND", "NORM"], ["P", "R"], ["MIP QUIMBY"]])
def test_magnitude_scans_and_free_text_are_not_named(tmp_path, image_type):
    folder = write(tmp_path / "export", slices(ImageType=image_type))
    assert not [note for note in load(folder).warnings if "ImageType" in note]


def test_a_series_without_a_transfer_syntax_is_read_as_it_is_encoded(tmp_path):
    """Files that a program wrote without saying how: pydicom finds the encoding of tags, voxels follow it."""
    folder = write(tmp_path / "export", slices())
    for path in folder.iterdir():
        element = bytes.fromhex("02001000") + b"UI" + (20).to_bytes(2, "little") + b"1.2.840.10008.1.2.1\0"
        raw = path.read_bytes()
        assert raw.count(element) == 1
        at = raw.index(element)
        length = int.from_bytes(raw[140:144], "little") - len(element)
        path.write_bytes(raw[:140] + length.to_bytes(4, "little") + raw[144:at] + raw[at + len(element) :])
    assert_known(load(folder).stored)


def test_threads_that_read_dicom_at_once_leave_log_and_warnings_as_they_were():
    """Whichever begins or ends first; else pydicom's messages, which quote values, would come out or ours be lost."""
    before = logging.getLogger("pydicom").disabled, list(warnings.filters)
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with silence_pydicom("damaged"):
            first_in.set()
            second_in.wait(0.2)
        first_out.set()

    def second() -> None:
        first_in.wait()
        with silence_pydicom("damaged"):
            second_in.set()
            first_out.wait()

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (logging.getLogger("pydicom").disabled, list(warnings.filters)) == before
