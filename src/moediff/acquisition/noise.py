"""Noise estimation: how noisy a scan is, from its quietest tissue or from the median of its finest detail.

A median over all voxels counts cortex as noise and air as quiet: by how much depends on how coarse the scan is, and on
how much air there is around the head. The quietest blocks of tissue tell noise from structure better, in any crop. The
network reads the estimate that it was trained with.

Axes: X Y Z voxels, N blocks.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.geometry import centre_crop
from moediff.core.statistics import quantile_tensor
from moediff.core.volume import Volume

Estimator: TypeAlias = Literal["median", "quiet"]
ESTIMATORS: tuple[Estimator, ...] = ("median", "quiet")
MAD = 0.6745  # median absolute value of a standard normal distribution
TISSUE = 0.2  # scaled, the brain's median being 0.5: magnitudes of air hold less noise than tissue's
BLOCK = 3  # second differences along a side
QUIET = 0.05  # of the tissue's blocks
LEAST_BLOCKS = 20
EXPECTED = 0.3619  # mean square in such a block of white noise of variance 1
CORNER = 10  # a corner's sides are this part of the scan's
BRIGHT_AIR, GRAINY = 0.2, 0.3  # scaled level of such air; its noise over its level (uniform noise has 0.6, tissue 0.1)
MIDDLE = 192  # samples of the middle along every axis; the rest of a larger scan says no more


def quiet_noise(scaled_XYZ: Tensor) -> Tensor:
    """Noise sigma from the blocks of tissue whose second differences are smallest; a scalar tensor, scaled.

    Structure still leaks into it, least where tissue is smooth. A scan with hardly any block of tissue is read
    everywhere. Nothing waits for the device that holds it. (Quiet blocks: Pyatykh et al. 2013; differences instead of
    smoothing: Immerkaer 1996.)

    Args:
        scaled_XYZ: the brain's median at 0.5.
    """
    scaled_XYZ = centre_crop(Volume(scaled_XYZ, torch.eye(4, dtype=torch.float64)), MIDDLE).data_XYZ.float()
    energy = _differences(scaled_XYZ).square()
    sides = [min(BLOCK, n) for n in energy.shape]
    steps = [min(2, n) for n in sides]
    energy_N = F.avg_pool3d(energy[None, None], sides, steps).flatten()
    reach = [side + n - m for side, n, m in zip(sides, scaled_XYZ.shape, energy.shape, strict=True)]
    tissue = (scaled_XYZ > TISSUE).float()
    inside_N = F.avg_pool3d(tissue[None, None], reach, steps).flatten() > 0.999
    inside_N = inside_N | (inside_N.sum() < LEAST_BLOCKS)
    ordered = torch.where(inside_N, energy_N, torch.inf).sort().values
    rank = (inside_N.sum() * QUIET).long()
    quiet = ordered.index_select(0, rank.reshape(1))[0]  # indexing by brackets would wait for the device
    return (quiet.double() / EXPECTED).sqrt()


def _differences(data_XYZ: Tensor) -> Tensor:
    """Second differences along all three axes, of unit variance for white noise of unit variance.

    An axis of fewer than three samples is left as it is.
    """
    for axis, n in enumerate(data_XYZ.shape):
        if n >= 3:
            before, here, after = (data_XYZ.narrow(axis, first, n - 2) for first in (0, 1, 2))
            data_XYZ = (before - 2 * here + after) * 6**-0.5
    return data_XYZ


def median_noise(data_XYZ: Tensor, mask_XYZ: Tensor | None) -> Tensor:
    """Noise sigma from the median absolute value of 2x2x2 Haar details, in the unit of the data; a scalar tensor.

    Without a mask all voxels count, and nothing waits for the device that holds them. Structure leaks into it, and air
    lowers it. (Donoho & Johnstone 1994, median estimator; Coupe 2010 for MRI.)
    """
    x, y, z = ((n // 2) * 2 for n in data_XYZ.shape)
    detail = data_XYZ[:x, :y, :z].float()
    for axis in range(3):
        pairs = detail.unflatten(axis, (-1, 2))
        detail = (pairs.select(axis + 1, 0) - pairs.select(axis + 1, 1)) * math.sqrt(0.5)
    inside = detail if mask_XYZ is None else detail[mask_XYZ[0:x:2, 0:y:2, 0:z:2]]
    if inside.numel() < 8:
        inside = detail
    return quantile_tensor(inside.abs(), 0.5).double() / MAD


def has_noisy_air(scaled_XYZ: Tensor) -> bool:
    """Whether air is as bright as tissue and all noise, as in the uniform image of MP2RAGE (UNI).

    That image is a ratio of two, so air, where both hold noise only, takes any value (O'Brien et al. 2014). It is read
    in the eight corners.

    Args:
        scaled_XYZ: the brain's median at 0.5.
    """
    ends = [(slice(0, max(2, n // CORNER)), slice(-max(2, n // CORNER), None)) for n in scaled_XYZ.shape]
    corners = [scaled_XYZ[x, y, z] for x in ends[0] for y in ends[1] for z in ends[2]]
    grainy = [
        median > BRIGHT_AIR and float(median_noise(corner, None)) > GRAINY * median
        for corner, median in ((corner, float(corner.median())) for corner in corners)
    ]
    return sum(grainy) > len(corners) // 2


def middle_of(mask_XYZ: Tensor) -> Tensor:
    """The part of a mask in the middle third of every axis, where there is brain and no air."""
    result_XYZ = torch.zeros_like(mask_XYZ)
    part = tuple(slice(n // 3, max(n - n // 3, n // 3 + 2)) for n in mask_XYZ.shape)
    result_XYZ[part] = mask_XYZ[part]
    return result_XYZ


def noise_sigma(data_XYZ: Tensor, mask_XYZ: Tensor) -> float:
    """`median_noise` as a number."""
    return float(median_noise(data_XYZ, mask_XYZ))


def estimated_noise(scaled_XYZ: Tensor, mask_XYZ: Tensor | None, estimator: Estimator) -> Tensor:
    """Noise sigma of a scaled scan by one of the ESTIMATORS; a scalar tensor. Only the median reads the mask."""
    return quiet_noise(scaled_XYZ) if estimator == "quiet" else median_noise(scaled_XYZ, mask_XYZ)
