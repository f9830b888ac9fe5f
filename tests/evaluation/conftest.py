"""A small head and a blurred, noisy version of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moediff.config import rng_for
from moediff.evaluation.windows import gaussian_matrix
from moediff.volume.resample import apply_axes
from moediff.volume.volume import Volume

SHAPE = (40, 44, 36)


@pytest.fixture(scope="session")
def head(make_phantom) -> Volume:
    """4 mm phantom head."""
    return make_phantom(SHAPE)


@pytest.fixture(scope="session")
def blurred(head: Volume) -> Tensor:
    """The head blurred by one voxel with 2 % noise."""
    data = apply_axes(head.data_XYZ, [gaussian_matrix(n, 1.0, 3) for n in SHAPE])
    return data + 20 * torch.randn(SHAPE, generator=rng_for(0, "blurred"))


@pytest.fixture(scope="session")
def everywhere() -> Tensor:
    """A mask of the whole volume."""
    return torch.ones(SHAPE, dtype=torch.bool)


@pytest.fixture(scope="session")
def brain_labels() -> Tensor:
    """A stripped brain of 2 mm voxels, 1.1 litres: white 2, cortex 3, ventricles 4, outer fluid 24; int32."""
    lines = [torch.linspace(-1.04, 1.04, n) for n in (68, 82, 62)]
    x, y, z = torch.meshgrid(*lines, indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    folds = 0.06 * torch.sin(13 * torch.atan2(y, x)) * torch.cos(8 * z)
    labels = torch.zeros(radius.shape, dtype=torch.int32)
    labels[radius < 1] = 24
    labels[radius + 0.4 * folds < 0.94] = 3
    labels[radius + folds < 0.78] = 2
    labels[((x.abs() - 0.16) / 0.12) ** 2 + (y / 0.4) ** 2 + (z / 0.2) ** 2 < 1] = 4
    return labels
