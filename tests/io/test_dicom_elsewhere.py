"""Public bug reports of DICOM readers, rebuilt as small series (LOG.md, 2026-11-30)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicom_maker import enhanced, known_voxels, slices, write

from moediff.core.errors import DataError, InputMissing
from moediff.io.dicom.files import is_dicom_export
from moediff.io.scans import load

pytestmark = pytest.mark.fault(43, 63)


def test_signed_voxels_of_12_in_16_bits(tmp_path):
    """dicom2nifti 13: the sign stands in bit 11, and the four bits above it are 0."""
    datasets = slices()
    for one in datasets:
        stored = np.frombuffer(one.PixelData, "<u2").astype(int) % 2000 - 300
        one.PixelRepresentation, one.BitsStored, one.HighBit = 1, 12, 11
        one.PixelData = (stored & 0xFFF).astype("<u2").tobytes()
    assert float(load(write(tmp_path / "export", datasets)).volume.data_XYZ.min()) == -300


def test_bits_above_the_stored_ones_are_no_intensity(tmp_path):
    """pydicom 2026: overlays and patient codes in the unused bits."""
    datasets = slices()
    for one in datasets:
        stored = np.frombuffer(one.PixelData, "<u2").astype(int) % 4096
        one.BitsStored, one.HighBit = 12, 11
        one.PixelData = (stored | 0x8000 * (stored % 7 == 0)).astype("<u2").tobytes()
    assert float(load(write(tmp_path / "export", datasets)).volume.data_XYZ.max()) == known_voxels().max()


def test_a_position_that_comes_twice_while_another_is_absent(tmp_path):
    """dicm2nii 11 and heudiconv 839: as many images as slices, but not one each."""
    datasets = slices()
    datasets[1].ImagePositionPatient = datasets[0].ImagePositionPatient
    with pytest.raises(DataError, match="up to 2 images at one position"):
        load(write(tmp_path / "export", datasets))


def test_frames_without_positions_are_refused(tmp_path):
    """Slicer 6773 and 7496: read with slices of 1 mm."""
    one = slices()[0]
    del one.ImagePositionPatient, one.ImageOrientationPatient
    one.NumberOfFrames, one.SliceThickness, one.PixelData = 4, 3, one.PixelData * 4
    with pytest.raises(DataError, match="do not say where they lie"):
        load(write(tmp_path / "export", [one]))


@pytest.mark.parametrize("name", ["IM_0001", "1.2.840.113619.2.5"])
def test_a_file_without_a_suffix_is_known_by_its_first_bytes(tmp_path, name):
    """Philips and others name enhanced files so; they were "unsupported"."""
    folder = write(tmp_path / "export", [enhanced()])
    known = load(folder).stored.data_XYZ.numpy()
    file = next(folder.iterdir()).rename(tmp_path / name)
    np.testing.assert_array_equal(load(file).stored.data_XYZ.numpy(), known)


def test_only_ordinary_files_are_looked_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("DICM")
    for path in (tmp_path / "pipe", tmp_path / "text", tmp_path / "absent", Path("a\0b")):
        assert not is_dicom_export(path)
    with pytest.raises(InputMissing, match="no such file"):
        load(tmp_path / "absent.nii.gz")
