"""Slice positions that a program rounded lie on one line; a missing or shifted slice does not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
from dicom_maker import OBLIQUE, known_voxels, slices, write

from moediff.core.errors import GeometryError
from moediff.io.scans import load

pytestmark = pytest.mark.fault(43)
AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
ROUNDED = {"0.4688 mm": (0.4688, 2), "1.25 mm": (1.25, 1), "1.33 mm": (1.33, 1)}


def rounded(directions: np.ndarray, step_mm: float, decimals: int) -> list:
    datasets, normal = slices(directions), np.cross(directions[0], directions[1])
    for z, one in enumerate(datasets):
        one.ImagePositionPatient = [round(float(v), decimals) for v in [-20, -30, -15] + z * step_mm * normal]
        one.PixelSpacing = [14.0, 14.0]
    return datasets


@pytest.mark.parametrize("directions", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize(("step_mm", "decimals"), ROUNDED.values(), ids=ROUNDED.keys())
def test_rounded_positions_are_accepted(tmp_path, directions, step_mm, decimals, monkeypatch):
    monkeypatch.setattr("moediff.io.dicom.reader.check_plausible", lambda *args: None)  # nine slices are no head
    loaded = load(write(tmp_path / "export", rounded(directions, step_mm, decimals)))
    np.testing.assert_array_equal(loaded.stored.data_XYZ.numpy(), known_voxels())
    assert np.linalg.norm(loaded.stored.affine[:3, 2]) == pytest.approx(step_mm, abs=2 * 10**-decimals / 8)


def test_a_missing_slice_among_rounded_ones_is_refused(tmp_path):
    datasets = rounded(AXIAL, 1.25, 1)
    last = datasets[-1].ImagePositionPatient
    datasets[-1].ImagePositionPatient = [last[0], last[1], float(last[2]) + 1.2]
    with pytest.raises(GeometryError, match=r"missing|apart"):
        load(write(tmp_path / "export", datasets))


def test_a_shifted_slice_is_refused(tmp_path):
    datasets = rounded(AXIAL, 1.25, 1)
    first = datasets[4].ImagePositionPatient
    datasets[4].ImagePositionPatient = [first[0], first[1], float(first[2]) + 0.4]
    with pytest.raises(GeometryError, match="expected equal spacing"):
        load(write(tmp_path / "export", datasets))


def test_a_negative_distance_of_slices_is_no_contradiction(tmp_path):
    assert load(write(tmp_path / "export", slices(SpacingBetweenSlices=-8.0))).warnings == ()
