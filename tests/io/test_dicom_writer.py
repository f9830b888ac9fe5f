"""A DICOM series out: where it lies, what it refers to, and that nothing but listed tags is in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pydicom", reason="pydicom is not installed")
import pydicom
from dicom_maker import OBLIQUE, SECRETS, enhanced, known_affine, slices, write

from moediff.cli.main import main
from moediff.core.errors import CannotCreate, DataError
from moediff.core.geometry import crop
from moediff.core.volume import Volume
from moediff.io.dicom.writer import remapped, write_series
from moediff.io.scans import load, save

# Attributes of an MR image by DICOM PS3.3, A.4 and its modules: those of type 1 must have a value, those of type 2 must
# be there, if only empty. Of type 2, those that would name a person, a day or a place, or are not known.
EMPTY = {
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientPosition",
    "PositionReferenceIndicator",
}
TYPE_2 = EMPTY | {
    "SeriesNumber",
    "Manufacturer",
    "InstanceNumber",
    "SliceThickness",
    "ScanOptions",
    "MRAcquisitionType",
    "EchoTime",
    "EchoTrainLength",
    "RepetitionTime",
}
TYPE_1 = {
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "ScanningSequence",
    "SequenceVariant",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
}
ALLOWED = {
    *EMPTY,
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "BodyPartExamined",
    "ImageType",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "StudyDescription",
    "SeriesDescription",
    "DerivationDescription",
    "ContentQualification",
    "SoftwareVersions",
    "Manufacturer",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
    "LossyImageCompression",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "Columns",
    "Rows",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "PixelData",
    "InstanceNumber",
    "ReferencedSeriesSequence",
    "SourceImageSequence",
}


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write(tmp_path / "export", slices(FrameOfReferenceUID="1.2.3.99"))


def files(folder: Path) -> list:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_a_written_series_has_the_affine_of_the_result(series, tmp_path, bundle):
    out = tmp_path / "out"
    command = ["enhance", str(series), "--bundle", str(bundle), "--voxel-size", "6", "-q", "--dicom-out", str(out)]
    assert main(command) == 0
    result, again = load(tmp_path / "series-5_desc-sr_MR.nii.gz").stored, load(out)
    assert again.stored.shape == result.shape and again.warnings == ()
    np.testing.assert_allclose(again.stored.affine, result.affine, atol=1e-3)
    np.testing.assert_allclose(again.stored.affine[:3, :3], known_affine(spacing=(6, 6, 6))[:3, :3], atol=1e-3)
    step = float(result.data_XYZ.max() - result.data_XYZ.min()) / 65535
    assert float((again.stored.data_XYZ - result.data_XYZ).abs().max()) <= step


def test_the_tags_of_the_written_series(series, tmp_path):
    loaded = load(series)
    write_series(loaded.stored, loaded.origin, tmp_path / "out")
    written = files(tmp_path / "out")
    assert len({one.SOPInstanceUID for one in written}) == 9 and len({one.SeriesInstanceUID for one in written}) == 1
    one = written[0]
    assert one.SeriesInstanceUID not in ("1.2.3.5", "") and list(one.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert (one.StudyInstanceUID, one.FrameOfReferenceUID) == (remapped("1.2.3"), remapped("1.2.3.99"))
    assert one.Modality == "MR"
    assert "research use only" in one.SeriesDescription and one.ContentQualification == "RESEARCH"
    assert [float(mm) for mm in (*one.PixelSpacing, one.SliceThickness, one.SpacingBetweenSlices)] == [7, 6, 8, 8]
    np.testing.assert_allclose(one.ImageOrientationPatient, OBLIQUE.ravel(), atol=1e-6)
    (reference,) = one.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == remapped("1.2.3.5")
    referred = {image.ReferencedSOPInstanceUID for image in reference.ReferencedInstanceSequence}
    assert referred == {remapped(f"1.2.3.5.{z}") for z in range(9)}
    assert {image.ReferencedSOPInstanceUID for image in one.SourceImageSequence} == referred


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy: apt-get install dicom3tools")
def test_a_validator_finds_no_error(series, tmp_path):
    """Warnings are of what is meant: no patient, no day, and rescaled values, which many scanners write for MR, too."""
    loaded = load(series)
    write_series(loaded.stored, loaded.origin, tmp_path / "out")
    for path in sorted((tmp_path / "out").iterdir())[:2]:
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
        assert "MRImage" in said and [line for line in said.splitlines() if line.startswith("Error")] == []


def test_only_listed_tags_and_nothing_personal(series, tmp_path):
    loaded = load(series)
    write_series(loaded.stored, loaded.origin, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        raw = path.read_bytes().lower()
        assert [secret for secret in SECRETS if secret.encode() in raw] == []
        one = pydicom.dcmread(path)
        assert {element.keyword for element in one} <= ALLOWED
        assert {element.keyword for element in one} >= TYPE_1 | TYPE_2
        empty = {name for name in TYPE_1 | TYPE_2 if one[name].value in (None, "", [])}
        assert empty >= EMPTY and not empty & TYPE_1


def test_a_multi_frame_source_is_one_reference(tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    enhanced().save_as(folder / "a.dcm", enforce_file_format=True)
    loaded = load(folder)
    assert loaded.origin.instances == (("1.2.840.10008.5.1.4.1.1.4", "1.2.3.9.1"),)
    assert "1.2.3.9" not in repr(loaded.origin)


def test_a_left_handed_grid_and_negative_voxels_come_back(series, tmp_path):
    loaded = load(series)
    affine = loaded.stored.affine.clone()
    affine[:3, 2] *= -1
    odd = Volume(loaded.stored.data_XYZ - 700.5, affine)
    write_series(odd, loaded.origin, tmp_path / "out")
    again = load(tmp_path / "out").stored
    world = again.affine @ torch.tensor([3.0, 4, 8 - 2, 1], dtype=torch.float64)
    torch.testing.assert_close(world, affine @ torch.tensor([3.0, 4, 2, 1], dtype=torch.float64), atol=1e-4, rtol=0)
    assert float(again.data_XYZ[3, 4, 6]) == pytest.approx(float(odd.data_XYZ[3, 4, 2]), abs=0.1)


@pytest.mark.parametrize("shape", [(12, 10, 3), (5, 4, 2)])
def test_a_result_too_small_to_be_enhanced_again_is_written_all_the_same(shape, series, tmp_path):
    loaded = load(series)
    part = crop(loaded.stored, (0, 0, 0), shape)
    write_series(part, loaded.origin, tmp_path / "out")
    assert len(files(tmp_path / "out")) == shape[2]
    with pytest.raises(DataError, match="one slice"):
        write_series(crop(part, (0, 0, 0), (5, 4, 1)), loaded.origin, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_written_is_refused(series, tmp_path, bundle, capsys):
    loaded = load(series)
    sheared = loaded.stored.affine.clone()
    sheared[:3, 0] += 0.3 * sheared[:3, 1]
    with pytest.raises(DataError, match="right angles"):
        write_series(Volume(loaded.stored.data_XYZ, sheared), loaded.origin, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(CannotCreate, match="exists already"):
        write_series(loaded.stored, loaded.origin, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"export", "out"}
    assert main(["enhance", str(series), "--bundle", str(bundle), "--dicom-out", str(tmp_path / "out")]) == 73
    assert main(["enhance", str(series), "--overwrite", "--dicom-out", str(tmp_path / "out")]) == 73
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_only_a_dicom_input_has_references(tmp_path, make_phantom, capsys):
    from moediff.io.scans import save

    save(make_phantom(), tmp_path / "a.nii.gz")
    assert main(["enhance", str(tmp_path / "a.nii.gz"), "--dicom-out", str(tmp_path / "out")]) == 78
    assert "needs a DICOM series" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_grid_that_no_series_can_have_is_refused_before_an_older_result_is_touched(series, tmp_path, bundle, capsys):
    volume, out = load(series).stored, tmp_path / "older.nii.gz"
    sheared = volume.affine.clone()
    sheared[:3, 0] += 0.3 * sheared[:3, 1]
    save(Volume(volume.data_XYZ, sheared), tmp_path / "sheared.nii.gz")
    out.write_bytes(b"an older result")
    words = ["enhance", str(series), "--like", str(tmp_path / "sheared.nii.gz"), "-o", str(out), "--overwrite"]
    words += ["--dicom-out", str(tmp_path / "new"), "--bundle", str(bundle)]
    for more in (["--dry-run"], []):
        assert main([*words, *more]) == 65
        assert "right angles" in capsys.readouterr().err
    assert out.read_bytes() == b"an older result"


def test_no_uid_of_the_source_is_written_since_it_can_hold_a_date(tmp_path):
    dated = "1.3.12.2.1107.5.2.32.35131.20210405101112"
    export = write(
        tmp_path / "export", slices(series=dated, FrameOfReferenceUID=f"{dated}.1", StudyInstanceUID=f"{dated}.9")
    )
    loaded = load(export)
    write_series(loaded.stored, loaded.origin, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        written = path.read_bytes()  # with their dots: a random identifier holds any few digits now and then
        assert b".20210405" not in written and b".35131." not in written


def test_two_series_of_one_study_get_one_new_study_and_one_frame_of_reference(tmp_path):
    made = []
    for number in (5, 6):
        tags = {"FrameOfReferenceUID": "1.2.3.99"}
        loaded = load(write(tmp_path / f"in{number}", slices(series=f"1.2.3.{number}", number=number, **tags)))
        write_series(loaded.stored, loaded.origin, tmp_path / f"out{number}")
        made.append(files(tmp_path / f"out{number}")[0])
    first, second = made
    assert first.StudyInstanceUID == second.StudyInstanceUID != "1.2.3"
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_slices_of_a_source_without_study_or_frame_of_reference_share_new_ones(tmp_path):
    """As anonymisers leave it."""
    loaded = load(write(tmp_path / "export", slices(StudyInstanceUID="")))
    write_series(loaded.stored, loaded.origin, tmp_path / "out")
    written = files(tmp_path / "out")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert len({one[name].value for one in written}) == 1 and written[0][name].value


@pytest.mark.parametrize("stated", [("01", "00"), ("00", "01"), ("00", "00")])
def test_a_result_says_so_where_any_image_of_its_sources_was_ever_compressed_with_loss(stated, tmp_path):
    origins = []
    for number, word in enumerate(stated, 5):
        datasets = slices(series=f"1.2.3.{number}", number=number)
        datasets[4].LossyImageCompression = word
        loaded = load(write(tmp_path / f"in{number}", datasets))
        origins.append(loaded.origin)
    write_series(loaded.stored, origins[0], tmp_path / "out", origins[1:])
    assert {one.LossyImageCompression for one in files(tmp_path / "out")} == {max(stated)}


@pytest.mark.parametrize("modality", ["CT", "QUIMBY"])
def test_a_result_is_an_mr_image_whatever_its_source_says(modality, tmp_path):
    """MR Image Storage has no other modality."""
    loaded = load(write(tmp_path / "export", slices(Modality=modality)))
    write_series(loaded.stored, loaded.origin, tmp_path / "out")
    assert {one.Modality for one in files(tmp_path / "out")} == {"MR"}


def test_a_remapped_uid_is_a_uuid_and_an_absent_one_is_new_each_time():
    from pydicom.uid import UID

    assert UID(remapped("1.2.3")).is_valid and remapped("1.2.3").startswith("2.25.")
    assert remapped("1.2.3") != remapped("1.2.4") and remapped("") != remapped("")


def test_the_window_spans_the_head(series, tmp_path):
    """In the rescaled units, so that a viewer opens the series neither black nor white."""
    loaded = load(series)
    write_series(loaded.stored, loaded.origin, tmp_path / "out")
    windows = {(float(one.WindowCenter), float(one.WindowWidth)) for one in files(tmp_path / "out")}
    (centre, width), data = windows.pop(), loaded.stored.data_XYZ.flatten()
    assert not windows
    inside = ((data >= centre - width / 2) & (data <= centre + width / 2)).float().mean()
    assert 0.97 < float(inside) < 0.995
