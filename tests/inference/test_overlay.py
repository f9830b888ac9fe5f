"""Overlay: the enhanced scan overlays the truth to a tenth of a voxel, whatever the affine.

The judge is independent of the code under test: scipy reads the truth on the result's grid, skimage measures the shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.registration import phase_cross_correlation

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.inference.options import EnhanceOptions

SHAPE = (44, 48, 38)
LIMIT_VOX = 0.1


@dataclass(frozen=True)
class Scene:
    """A sharp scan on a random affine, and the same head in thick slices along a random axis."""

    truth: Volume
    low: Volume


def random_affine(rng: np.random.Generator) -> torch.Tensor:
    """Any rotation, either hand, voxels of 1.8..2.4 mm, offsets up to 500 mm."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=rng.integers(2**31)).as_matrix() * rng.uniform(1.8, 2.4, 3)
    if rng.random() < 0.5:
        affine[:3, 0] *= -1
    affine[:3, 3] = rng.uniform(-500, 500, 3)
    return torch.from_numpy(affine)


def scene(make_phantom, seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    truth = make_phantom(SHAPE, affine=random_affine(rng), seed=seed)
    recipe = thick_slices(3, 0.005, "thick3", axis=int(rng.integers(3)))
    return Scene(truth, degrade(truth, recipe, rng_for(seed)))


def shift_vox(moved: Volume, fixed: Volume) -> np.ndarray:
    """Sub-voxel shift between two scans in the same array order, per axis."""
    assert moved.shape == fixed.shape
    np.testing.assert_allclose(moved.affine.numpy(), fixed.affine.numpy(), atol=1e-4)
    # Unnormalised: with normalization="phase" the frequencies that thick slices lost would count as much as the rest.
    shift, *_ = phase_cross_correlation(
        fixed.data_XYZ.numpy(), moved.data_XYZ.numpy(), upsample_factor=20, normalization=None
    )
    return shift


def read_by_scipy(volume: Volume, onto: Volume) -> Volume:
    """The volume on another scan's grid."""
    between = np.linalg.inv(volume.affine.numpy()) @ onto.affine.numpy()
    data = ndimage.affine_transform(
        volume.data_XYZ.numpy(), between[:3, :3], between[:3, 3], output_shape=onto.shape, order=1, mode="nearest"
    )
    return onto.with_data(torch.from_numpy(data))


@pytest.mark.parametrize("seed", range(20))
def test_the_enhanced_scan_overlays_the_truth(seed, enhancer, make_phantom):
    given = scene(make_phantom, seed)
    like = enhancer(given.low, EnhanceOptions(like=given.truth.grid)).stored
    assert np.abs(shift_vox(like, given.truth)).max() < LIMIT_VOX
    own = enhancer(given.low, EnhanceOptions(voxel_size=(2.0,))).volume
    assert own.spacing_mm == pytest.approx((2, 2, 2))
    assert np.abs(shift_vox(own, read_by_scipy(given.truth, own))).max() < LIMIT_VOX


def brightest_mm(volume: Volume) -> np.ndarray:
    """Place of the ball: the middle of what is brighter than any tissue."""
    index = ndimage.center_of_mass(volume.data_XYZ.numpy() > 1300)
    return (volume.affine.numpy() @ [*index, 1])[:3]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_mirrored(seed, enhancer, make_phantom):
    """A nearly symmetric head would hide a flip, so a bright ball on one side marks right, front and top."""
    centre = np.array([32.0, 31.0, 25.0])  # a flip along any axis would move it by 13 voxels or more
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    ball = 2500 * np.exp(-((index - centre) ** 2).sum(-1) / (2 * 3.0**2))
    plain = scene(make_phantom, seed).truth
    truth = plain.with_data(plain.data_XYZ + torch.from_numpy(ball).float())
    low = degrade(truth, thick_slices(3, 0.005, "thick3", axis=seed % 3), rng_for(seed))
    expected = brightest_mm(truth)
    for options in (EnhanceOptions(like=truth.grid), EnhanceOptions(voxel_size=(2.0,))):
        measured = enhancer(low, options).volume
        np.testing.assert_allclose(brightest_mm(measured), expected, atol=1.5, rtol=0)


@pytest.mark.parametrize("axis", range(3))
def test_the_check_sees_a_shift_of_three_tenths_of_a_voxel(axis, enhancer, make_phantom):
    given = scene(make_phantom, seed=axis)
    like = enhancer(given.low, EnhanceOptions(like=given.truth.grid)).stored
    offset = [0.0, 0.0, 0.0]
    offset[axis] = 0.3
    moved = ndimage.shift(like.data_XYZ.numpy(), offset, order=3, mode="nearest")
    measured = shift_vox(like.with_data(torch.from_numpy(moved)), given.truth)
    assert np.abs(measured).max() > LIMIT_VOX
    np.testing.assert_allclose(measured, -np.array(offset), atol=0.06)


def test_the_check_sees_a_scan_whose_affine_is_off_by_a_third_of_a_voxel(enhancer, make_phantom):
    given = scene(make_phantom, seed=0)
    wrong = given.low.affine.clone()
    wrong[:3, 3] += given.truth.affine[:3, :3] @ torch.tensor([0.33, 0.0, 0.0], dtype=torch.float64)
    like = enhancer(Volume(given.low.data_XYZ, wrong), EnhanceOptions(like=given.truth.grid)).stored
    np.testing.assert_allclose(shift_vox(like, given.truth), (-0.33, 0, 0), atol=0.08)
