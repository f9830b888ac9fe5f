"""Outlier voxels: one or fifty of them, dark or bright, must not change the rest of the result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.voxels import without_outliers

OPTIONS = EnhanceOptions(voxel_size=(3.0,))
LEVELS = (-30.0, -200.0, -1000.0, -10_000.0, -32_768.0, -1e30, 1e5, 1e9, 1e15, 1e30)
pytestmark = pytest.mark.fault(42)


@pytest.fixture(scope="module")
def low(make_phantom) -> Volume:
    truth = make_phantom((60, 64, 60), (3.0, 3.0, 3.0))
    return degrade(truth, thick_slices(4, 0.01, "thick4"), rng_for(0))


@pytest.fixture(scope="module")
def clean(low, enhancer):
    return enhancer(low, OPTIONS)


def spoiled(volume: Volume, level: float, count: int) -> Volume:
    """Voxels of the air at the volume's first corner take this level."""
    data_XYZ = volume.data_XYZ.clone()
    data_XYZ[0, :count, 0] = level
    return volume.with_data(data_XYZ)


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("level", LEVELS)
def test_outliers_in_air_leave_the_head_alone(enhancer: Enhancer, low, clean, level, count):
    result = enhancer(spoiled(low, level, count), OPTIONS)
    head = clean.volume.data_XYZ > 100
    change = (result.volume.data_XYZ - clean.volume.data_XYZ)[head]
    assert float(change.abs().max()) < 0.01 * float(clean.volume.data_XYZ[head].mean())
    new = [warning for warning in result.sidecar.warnings if warning not in clean.sidecar.warnings]
    assert len(new) == 1 and f"outlier intensities: {count} voxels" in new[0]


def test_an_outlier_in_the_head_takes_the_median_of_its_neighbours(low):
    data_XYZ = low.data_XYZ.clone()
    data_XYZ[30, 32, 7] = -1000.0
    around = torch.cat([low.data_XYZ[29:32, 31:34, 6:9].flatten()[:13], low.data_XYZ[29:32, 31:34, 6:9].flatten()[14:]])
    assert float(without_outliers(data_XYZ)[30, 32, 7]) == float(around.median())


TAILS = {
    "zero air": np.maximum(np.random.default_rng(1).normal(0, 300, 100_000), 0),
    "standardised": np.random.default_rng(2).normal(0, 1, 2_000_000),
    "long dark tail": -np.random.default_rng(3).exponential(1, 2_000_000),
    "air at a level": np.random.default_rng(4).normal(1000, 5, 100_000),
}


@pytest.mark.parametrize("values", TAILS.values(), ids=TAILS.keys())
def test_natural_tails_are_no_outliers(values):
    data_XYZ = torch.from_numpy(values.astype(np.float32)).reshape(50, 50, -1)
    assert without_outliers(data_XYZ) is data_XYZ
