"""Structural metrics in three dimensions: MS-SSIM, GMSD and VIF. Conventions (mask, L) as in `fidelity`.

The published definitions are for 8-bit pictures; constants given there on 0..255 are divided by 255 here, because
intensities are in units of L.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.resample import apply_axes
from moediff.core.windows import Moments, gaussian_matrix, moments, tap_matrix, tiles
from moediff.evaluation.metrics.fidelity import K1, K2, WINDOW_REACH_VOX, WINDOW_SIGMA_VOX, check_pair, check_range

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, fine to coarse
GMSD_C = 170 / 255**2  # Xue 2014
VIF_NOISE = 2 / 255**2  # variance of the visual noise; Sheikh & Bovik 2006, pixel domain
VIF_REACH_VOX = (8, 4, 2, 1)  # windows of 17, 9, 5 and 3 taps, fine to coarse
TINY = 1e-10


def _halved(data_XYZ: Tensor) -> Tensor:
    """Means over 2x2x2 voxels; an odd last layer is dropped."""
    return F.avg_pool3d(data_XYZ[None, None], 2)[0, 0]


def _halved_mask(mask_XYZ: Tensor) -> Tensor:
    """True where more than half of the 2x2x2 voxels are."""
    return _halved(mask_XYZ.float()) > 0.5


def scale_terms(x_XYZ: Tensor, y_XYZ: Tensor, mask_XYZ: Tensor) -> tuple[float, float]:
    """SSIM and its contrast-structure factor, both averaged over the mask, for intensities in units of L."""
    c1, c2 = K1**2, K2**2
    ssim_sum = structure_sum = 0.0
    for tile in tiles(mask_XYZ, WINDOW_SIGMA_VOX, WINDOW_REACH_VOX):
        m = moments(x_XYZ[tile.outer], y_XYZ[tile.outer], tile.windows)
        structure = (2 * m.covariance + c2) / (m.variance_x + m.variance_y + c2)
        luminance = (2 * m.mean_x * m.mean_y + c1) / (m.mean_x.square() + m.mean_y.square() + c1)
        inside = mask_XYZ[tile.inner]
        structure_sum += float(structure[inside].double().sum())
        ssim_sum += float((luminance * structure)[inside].double().sum())
    voxels = int(mask_XYZ.sum())
    return ssim_sum / voxels, structure_sum / voxels


def scale_count(shape: tuple[int, ...]) -> int:
    """How many of the five scales leave every axis at least one window (11 voxels) long; at least one."""
    room = min(shape) / (2 * WINDOW_REACH_VOX + 1)
    return max(1, min(len(SCALE_WEIGHTS), 1 + math.floor(math.log2(max(room, 1)))))


def ms_ssim(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli & Bovik 2003) in 3-D; 0..1, higher is better.

    Small volumes have fewer scales (`scale_count`), their weights brought back to a sum of one.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    check_range(data_range)
    weights = SCALE_WEIGHTS[: scale_count(tuple(truth_XYZ.shape))]
    x, y = (t.float() / data_range for t in (pred_XYZ, truth_XYZ))
    terms: list[tuple[float, float]] = []
    for _ in weights:
        if terms:
            x, y, mask_XYZ = _halved(x), _halved(y), _halved_mask(mask_XYZ)
        if not bool(mask_XYZ.any()):  # a mask of a few voxels is gone at coarse scales
            break
        terms.append(scale_terms(x, y, mask_XYZ))
    factors = [structure for _, structure in terms[:-1]] + [terms[-1][0]]
    total = sum(weights[: len(terms)])
    return math.prod(max(f, 0.0) ** (w / total) for f, w in zip(factors, weights, strict=False))


def _gradient(data_XYZ: Tensor) -> Tensor:
    """Magnitude of the 3-D Prewitt gradient: differences over two voxels, averaged over 3x3."""
    third = torch.full((3,), 1 / 3)
    mean = [tap_matrix(n, third, -1) for n in data_XYZ.shape]
    step = [tap_matrix(n, torch.tensor([-1.0, 0.0, 1.0]), -1) for n in data_XYZ.shape]
    total = torch.zeros_like(data_XYZ)
    for axis in range(3):
        matrices = [step[a] if a == axis else mean[a] for a in range(3)]
        total += apply_axes(data_XYZ, matrices).square()
    return total.sqrt_()


def gmsd(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014) in 3-D, at half resolution; 0.., lower is better.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    check_range(data_range)
    if min(truth_XYZ.shape) > 1 and bool(_halved_mask(mask_XYZ).any()):
        pred_XYZ, truth_XYZ, mask_XYZ = (
            _halved(pred_XYZ.float()),
            _halved(truth_XYZ.float()),
            _halved_mask(mask_XYZ),
        )
    g, h = (_gradient(t.float() / data_range)[mask_XYZ].double() for t in (pred_XYZ, truth_XYZ))
    similarity = (2 * g * h + GMSD_C) / (g.square() + h.square() + GMSD_C)
    return float(similarity.std(correction=0))


def _information(m: Moments) -> tuple[Tensor, Tensor]:
    """Information of prediction and truth about the scene, per voxel, nats; Sheikh & Bovik 2006, eq. 13 and 14."""
    truth, pred = m.variance_y.clamp_min(0), m.variance_x.clamp_min(0)
    gain = m.covariance / (truth + TINY)
    rest = pred - gain * m.covariance  # part of the prediction that the gain does not explain
    unrelated = (truth < TINY) | (pred < TINY) | (gain < 0)
    gain = gain.masked_fill(unrelated, 0)
    rest = torch.where(unrelated, pred, rest).clamp_min(TINY)
    seen = torch.log1p(gain.square() * truth / (rest + VIF_NOISE))
    return seen, torch.log1p(truth / VIF_NOISE)


def vif(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> float:
    """Visual information fidelity (Sheikh & Bovik 2006, pixel domain, four scales) in 3-D.

    0.. with 1 for identity; above 1 where contrast is enhanced; 0 where nothing of the truth is left.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, a range that is not positive, or a truth without any structure in the mask.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    check_range(data_range)
    x, y = (t.float() / data_range for t in (pred_XYZ, truth_XYZ))
    seen = present = 0.0
    for scale, reach in enumerate(VIF_REACH_VOX):
        sigma = (2 * reach + 1) / 5
        if scale:
            coarser = [gaussian_matrix(n, sigma, reach)[::2] for n in y.shape]
            x, y, mask_XYZ = apply_axes(x, coarser), apply_axes(y, coarser), mask_XYZ[::2, ::2, ::2]
        for tile in tiles(mask_XYZ, sigma, reach):
            inside = mask_XYZ[tile.inner]
            parts = _information(moments(x[tile.outer], y[tile.outer], tile.windows))
            seen += float(parts[0][inside].double().sum())
            present += float(parts[1][inside].double().sum())
    check_range(present)
    return seen / present
