"""Grids and volumes: voxel size from the affine, and what is refused at birth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from moediff.core.errors import GeometryError
from moediff.core.volume import Grid, Volume

SHEAR_AND_FLIP = [[0.0, -3.0, 0.0, 5.0], [2.0, 0.0, 0.0, -7.0], [0.0, 4.0, -1.5, 9.0], [0.0, 0.0, 0.0, 1.0]]


def test_spacing_is_the_length_of_each_column():
    grid = Grid((2, 3, 4), torch.tensor(SHEAR_AND_FLIP))
    assert grid.spacing_mm == pytest.approx((2.0, 5.0, 1.5))
    assert Volume(torch.zeros(2, 3, 4), grid.affine).spacing_mm == pytest.approx((2.0, 5.0, 1.5))


@given(
    st.lists(st.floats(0.2, 12), min_size=3, max_size=3),
    st.lists(st.floats(-180, 180), min_size=3, max_size=3),
    st.sampled_from([-1.0, 1.0]),
)
def test_spacing_survives_any_rotation_and_mirroring(spacing, angles, hand):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * [spacing[0], spacing[1], spacing[2]]
    affine[:3, 0] *= hand
    affine[:3, 3] = (400, -30, 7)
    assert Grid((5, 5, 5), torch.from_numpy(affine)).spacing_mm == pytest.approx(spacing)


def test_the_affine_is_kept_in_double_precision():
    volume = Volume(torch.zeros(2, 3, 4), torch.tensor(SHEAR_AND_FLIP, dtype=torch.float32))
    assert volume.affine.dtype == torch.float64 and volume.grid.affine.dtype == torch.float64
    assert_close(volume.affine, torch.tensor(SHEAR_AND_FLIP, dtype=torch.float64))


def test_a_volume_and_its_grid_agree():
    volume = Volume(torch.zeros(2, 3, 4), torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    assert volume.shape == volume.grid.shape == (2, 3, 4)
    assert torch.equal(volume.affine, volume.grid.affine)


def spoiled(row: int, column: int, value: float) -> torch.Tensor:
    affine = torch.eye(4)
    affine[row, column] = value
    return affine


REFUSED = {
    "3x3": (torch.eye(3), "finite 4x4"),
    "3x4": (torch.eye(4)[:3], "finite 4x4"),
    "nan": (spoiled(0, 3, float("nan")), "finite 4x4"),
    "infinite": (spoiled(2, 2, float("inf")), "finite 4x4"),
    "no_thickness": (spoiled(1, 1, 0.0), "no inverse"),
    "two_axes_alike": (torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "no inverse"),
}


@pytest.mark.parametrize(("affine", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_unusable_affines_are_refused(affine, words):
    with pytest.raises(GeometryError, match=words):
        Grid((2, 2, 2), affine)
    with pytest.raises(GeometryError, match=words):
        Volume(torch.zeros(2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(4,), (4, 4), (2, 2, 2, 1)])
def test_other_than_three_axes_are_refused(shape):
    with pytest.raises(GeometryError, match=rf"expected 3 axes, got shape \({shape[0]}"):
        Volume(torch.zeros(shape), torch.eye(4))


def test_with_data_keeps_the_grid_and_refuses_another_shape():
    volume = Volume(torch.zeros(2, 3, 4), torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    other = volume.with_data(torch.ones(2, 3, 4))
    assert torch.equal(other.affine, volume.affine)
    assert float(other.data_XYZ.sum()) == 24 and float(volume.data_XYZ.sum()) == 0
    with pytest.raises(GeometryError, match=r"expected shape \(2, 3, 4\), got \(4, 3, 2\)"):
        volume.with_data(torch.ones(4, 3, 2))


def test_volumes_are_frozen():
    volume = Volume(torch.zeros(2, 3, 4), torch.eye(4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        volume.affine = torch.eye(4)  # type: ignore[misc]
