"""Samples that contradict the other scans count less, where they do and nowhere else."""

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.combine import Measurement, consistent
from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.inference.local_trust import is_doubted, with_local_trust
from moediff.inference.several import SECOND_ROUND, _updated

NOISE = 0.005
BALL = (slice(20, 28), slice(24, 32), slice(18, 26))  # of the common grid


@pytest.fixture
def start(still_stacks):
    """A start between the scans: their mean."""
    truth = still_stacks.truth
    scale = float(truth.data_XYZ.max())
    scans = [scan.with_data(scan.data_XYZ / scale) for scan in still_stacks.scans]
    mean = torch.stack([resample(scan, truth.grid, "linear").data_XYZ for scan in scans]).mean(0)
    return mean, torch.full(truth.shape, 0.1), [Measurement(scan, NOISE, truth.grid) for scan in scans]


def brightened(measurement: Measurement) -> Measurement:
    """The scan, as if fluid in the ball had shone when it was taken."""
    bright = torch.zeros(measurement.common.shape)
    bright[BALL] = 0.6
    change = measurement.model(measurement.common).apply(bright)
    scan = measurement.scan
    return Measurement(Volume(scan.data_XYZ + change, scan.affine), NOISE, measurement.common)


def roughness(data_XYZ: torch.Tensor) -> float:
    """RMS of second differences along the axes, in the ball."""
    inner = data_XYZ[BALL]
    return float(sum(inner.diff(n=2, dim=axis).square().mean() for axis in range(3)) ** 0.5)


def test_scans_that_agree_are_trusted(start):
    mean_XYZ, deviation_XYZ, measurements = start
    result_XYZ = consistent(mean_XYZ, deviation_XYZ, measurements).result_XYZ
    assert not any(is_doubted(with_local_trust(one, result_XYZ)) for one in measurements)


def test_a_contradiction_leaves_no_pattern_of_single_voxels(start):
    mean_XYZ, deviation_XYZ, (first, second, third) = start
    measurements = [first, brightened(second), third]
    believed = consistent(mean_XYZ, deviation_XYZ, measurements).result_XYZ
    believed = consistent(believed, SECOND_ROUND * deviation_XYZ, measurements).result_XYZ
    result_XYZ, left = _updated(mean_XYZ, deviation_XYZ, measurements)
    assert roughness(result_XYZ) < 0.6 * roughness(believed)
    assert isinstance(left, torch.Tensor) and float(left[BALL].mean()) > 2 * float(left.median())  # less is known there
    agreeing, _ = _updated(mean_XYZ, deviation_XYZ, [first, second, third])
    far = (slice(0, 10), slice(0, 12), slice(0, 10))
    assert_close(result_XYZ[far], agreeing[far], atol=0.02, rtol=0)


def test_ringing_whose_sign_a_scan_has_lost_takes_no_trust():
    """Around a bright block a magnitude scan is above zero where the truth, acquired again, rings below it."""
    truth_XYZ = torch.zeros(32, 32, 32)
    truth_XYZ[8:22, 9:23, 8:22] = 0.7
    truth = Volume(truth_XYZ, torch.eye(4, dtype=torch.float64))
    half = AxisRecipe(method="truncate", factor=2)
    low = degrade(truth, Recipe(axes=(half,) * 3, noise=1e-6), torch.Generator().manual_seed(0), reference=1.0)
    judged = with_local_trust(Measurement(low, NOISE, truth.grid), truth_XYZ)
    assert judged.weight_XYZ is not None and float(judged.weight_XYZ.min()) == 1
