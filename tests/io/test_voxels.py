"""Faults of voxel values: not finite, constant, huge, negative, outliers (rows 32, 33, 38, 42)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.core.errors import DataError
from moediff.io.scans import load
from moediff.io.voxels import fill_from_neighbours


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=lambda b: f"row32_{b}")
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_isolated_voxels_take_the_median_of_their_neighbours(bad, dtype, nifti, voxels):
    data = voxels(dtype)
    data[8, 7, 6] = data[0, 0, 0] = data[3, 13, 5] = bad
    loaded = load(nifti(data))
    read_XYZ = loaded.stored.data_XYZ.numpy()
    assert "3 voxels that were NaN, infinite or beyond float32" in loaded.warnings[0]
    around = np.sort(np.delete(voxels("f4")[7:10, 6:9, 5:8].ravel(), 13))
    assert around[12] <= read_XYZ[8, 7, 6] <= around[13]
    finite = np.isfinite(data)
    assert np.array_equal(read_XYZ[finite], data[finite].astype("f4")) and np.isfinite(read_XYZ).all()


def test_a_hole_is_filled_from_its_edge_inwards():
    data = torch.full((9, 9, 9), 7.0)
    hole = torch.zeros(9, 9, 9, dtype=torch.bool)
    hole[2:7, 2:7, 2:7] = True
    assert torch.equal(fill_from_neighbours(data.masked_fill(hole, torch.inf), hole), data)


def test_row32_a_float64_outlier_beyond_float32_counts_as_not_finite(nifti, voxels):
    data = voxels("<f8")
    data[8, 7, 6] = 1e300
    loaded = load(nifti(data))
    assert "1 voxels" in loaded.warnings[0] and float(loaded.stored.data_XYZ.max()) <= 1020


def spoiled(share: float, data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data.ravel()[np.random.default_rng(1).permutation(data.size)[: round(share * data.size)]] = np.nan
    return data


def test_row33_the_limit_is_five_percent(nifti, voxels):
    assert np.isfinite(load(nifti(spoiled(0.049, voxels("f4")))).stored.data_XYZ.numpy()).all()
    with pytest.raises(DataError, match=r"5\.1 % of the voxels are NaN"):
        load(nifti(spoiled(0.051, voxels("f4"))))


REFUSED = {
    "row33_all_nan": (np.nan, "f4", "no voxel holds a finite number"),
    "row33_all_infinite": (np.inf, "f4", "no voxel holds a finite number"),
    "row33_constant": (7, "i2", "all voxels have the value 7"),
    "row33_empty": (0, "i2", "all voxels have the value 0"),
    "row38_all_beyond_float32": (1e300, "f8", "no voxel holds a finite number"),
}


@pytest.mark.parametrize(("value", "dtype", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_without_contrast_is_refused(value, dtype, words, nifti, voxels):
    with pytest.raises(DataError) as caught:
        load(nifti(np.full_like(voxels(), value, dtype=dtype)))
    assert words in str(caught.value)


def test_row33_constant_but_for_nan_is_refused(nifti, voxels):
    data = np.full_like(voxels(), 7, dtype="f4")
    data[8, 7, 6] = np.nan
    with pytest.raises(DataError, match="all voxels have the value 7"):
        load(nifti(data))


@pytest.mark.parametrize("scale", [1e-9, 1e6, 1e15, 1e30], ids=lambda s: f"row38_{s:g}")
def test_huge_and_tiny_values_are_read(scale, nifti, voxels):
    data = voxels("<f8") * scale
    loaded = load(nifti(data))
    assert loaded.warnings == () and np.allclose(loaded.stored.data_XYZ.numpy(), data, rtol=1e-6, atol=0)


def test_row42_negative_intensities_give_a_warning(nifti, voxels):
    assert any("% of the voxels are negative, down to -1000" in w for w in load(nifti(voxels() - 1000)).warnings)


def test_row42_outliers_stay_with_a_warning(nifti, voxels):
    data = voxels()
    data[8, 7, 6] = 32000
    loaded = load(nifti(data))
    assert "outlier intensities: 1 voxels, up to 3.2e+04" in loaded.warnings[0]
    assert float(loaded.stored.data_XYZ[8, 7, 6]) == 32000
