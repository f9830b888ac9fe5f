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
