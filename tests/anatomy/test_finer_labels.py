"""Label maps on finer voxels: the same anatomy, with smooth borders."""

from __future__ import annotations

import pytest
import torch

from moediff.anatomy.finer_labels import finer_label_map
from moediff.core.errors import ConfigError, DataError
from moediff.core.volume import Volume

EYE = torch.eye(4, dtype=torch.float64)


def ball(side: int, radius: float) -> torch.Tensor:
    """A ball of label 3 about the middle of a cube of `side` voxels, int32."""
    at = torch.arange(side) - (side - 1) / 2
    distance = (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt()
    return (distance <= radius).int() * 3


def test_a_ball_keeps_its_place_and_is_rounder_than_copied_voxels():
    coarse = ball(24, 8.3)
    finer = finer_label_map(Volume(coarse, EYE), 0.5)
    copied = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    exact = ball(48, 16.6)
    assert finer.shape == (48, 48, 48) and finer.spacing_mm == pytest.approx((0.5, 0.5, 0.5))
    corner = finer.affine[:3, 3] - 0.25
    assert torch.allclose(corner, torch.full((3,), -0.5, dtype=torch.float64))  # the field of view stays
    wrong, wrong_copied = (float((one != exact).sum()) for one in (finer.data_XYZ, copied))
    assert wrong < 0.8 * wrong_copied
    assert torch.equal(finer.data_XYZ, finer.data_XYZ.flip(0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sheet_of_one_voxel_stays_between_two_labels(axis):
    labels = torch.full((12, 12, 12), 2, dtype=torch.int32)
    labels.narrow(axis, 6, 6).fill_(41)
    labels.narrow(axis, 6, 1).fill_(24)
    finer = finer_label_map(Volume(labels, EYE), 0.5).data_XYZ.movedim(axis, 0)
    assert finer[:, 5, 5].tolist() == [2] * 12 + [24] * 2 + [41] * 10


def test_voxels_of_unequal_sizes_become_equal_ones():
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    labels = torch.zeros(10, 10, 8, dtype=torch.int32)
    labels[:, :, 4:] = 3
    finer = finer_label_map(Volume(labels, affine), 1.0)
    assert finer.shape == (10, 10, 16) and finer.data_XYZ[4, 4].tolist() == [0] * 8 + [3] * 8


def test_the_own_voxel_size_changes_nothing():
    labels = ball(16, 5.0)
    assert torch.equal(finer_label_map(Volume(labels.float(), EYE), 1.0).data_XYZ, labels)


@pytest.mark.parametrize("size", [1.5, 0.0, -0.5])
def test_coarser_voxels_are_refused(size):
    with pytest.raises(ConfigError, match="cannot be drawn from a label map of 1 mm; name that or a finer size"):
        finer_label_map(Volume(ball(8, 3.0), EYE), size)


def test_numbers_that_are_not_whole_are_refused():
    with pytest.raises(DataError, match="whole"):
        finer_label_map(Volume(torch.full((4, 4, 4), 0.5), EYE), 0.5)
