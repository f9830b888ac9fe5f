"""Fidelity metrics: PSNR, SSIM and NRMSE of a volume against the truth, in original units; head mask and data range.

Conventions, the same everywhere in the project:
    mask   the head of the *truth* (`head_mask`), so a prediction cannot choose where it is judged;
    L      `data_range`: 99.9th percentile of the truth inside the mask, not its maximum, which one bright vessel sets;
    PSNR   10 log10(L^2 / MSE), MSE over the mask; infinite where nothing differs;
    SSIM   Wang et al. 2004 in three dimensions: 11-tap Gaussian window of sigma 1.5 voxels, K1 = 0.01, K2 = 0.03,
           population covariances, computed on the whole volume (mirrored at its faces), then averaged over the mask;
    NRMSE  root of the mask's summed squared error over the truth's summed square.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.core.errors import DataError, GeometryError
from moediff.core.morphology import closed, filled
from moediff.core.statistics import energy, exact_quantile, mean, picked
from moediff.core.windows import averaged, tiles

RANGE_QUANTILE = 0.999
HEAD_FRACTION = 0.05  # of the robust maximum; air lies below
CLOSING_VOX = 2
WINDOW_SIGMA_VOX = 1.5
WINDOW_REACH_VOX = 5  # 11 taps
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Scores:
    """One prediction against its truth.

    Args:
        psnr: dB, higher is better, may be infinite.
        ssim: -1..1, higher is better.
        nrmse: 0.., lower is better.
    """

    psnr: float
    ssim: float
    nrmse: float


def check_pair(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor) -> None:
    """Refuse volumes that no metric can judge.

    Raises:
        GeometryError: the three shapes differ or are not 3-D.
        DataError: NaN, or an empty mask.
    """
    shapes = {tuple(t.shape) for t in (pred_XYZ, truth_XYZ, mask_XYZ)}
    if len(shapes) != 1 or pred_XYZ.ndim != 3:
        shapes_text = ", ".join(str(tuple(t.shape)) for t in (pred_XYZ, truth_XYZ, mask_XYZ))
        raise GeometryError(f"expected prediction, truth and mask of one 3-D shape, got {shapes_text}; resample first")
    for name, data in (("prediction", pred_XYZ), ("truth", truth_XYZ)):
        if data.numel() and not all(math.isfinite(v) for v in torch.aminmax(data)):  # one quick pass; NaN shows too
            bad = data.numel() - int(torch.isfinite(data).sum())
            raise DataError(f"the {name} has {bad} voxels that are NaN or infinite; metrics need finite values")
    if mask_XYZ.dtype != torch.bool or not bool(mask_XYZ.any()):
        raise DataError(f"expected a boolean mask with at least one voxel, got {mask_XYZ.dtype}")


def check_range(data_range: float) -> None:
    """Refuse a range or an energy that is not a positive number."""
    if not (math.isfinite(data_range) and data_range > 0):
        raise DataError(f"data_range={data_range} must be positive; the truth is empty where it is judged")


def data_range(truth_XYZ: Tensor, mask_XYZ: Tensor) -> float:
    """99.9th percentile of the truth inside the mask, the L of PSNR and SSIM.

    Raises:
        DataError: the mask is empty or nothing inside it is positive.
    """
    check_pair(truth_XYZ, truth_XYZ, mask_XYZ)
    top = exact_quantile(picked(truth_XYZ, mask_XYZ), RANGE_QUANTILE)
    check_range(top)
    return top


def head_mask(truth_XYZ: Tensor) -> Tensor:
    """True where the head is: above 5 % of the 99.9th percentile, closed by two voxels, holes filled.

    Raises:
        GeometryError: not three axes.
        DataError: NaN, or no positive intensities.
    """
    everywhere = torch.ones_like(truth_XYZ, dtype=torch.bool)
    check_pair(truth_XYZ, truth_XYZ, everywhere)
    top = exact_quantile(truth_XYZ, RANGE_QUANTILE)
    check_range(top)
    return filled(closed(truth_XYZ > HEAD_FRACTION * top, CLOSING_VOX))


def psnr(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> float:
    """Peak signal-to-noise ratio over the mask, dB; `inf` where nothing differs.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    check_range(data_range)
    mse = energy(picked(pred_XYZ, mask_XYZ) - picked(truth_XYZ, mask_XYZ)) / int(mask_XYZ.sum())
    return math.inf if mse == 0 else 10 * math.log10(data_range**2 / mse)


def nrmse(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor) -> float:
    """Root of squared error over squared truth, both summed over the mask.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a truth that is zero all over it.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    truth = picked(truth_XYZ, mask_XYZ)
    power = energy(truth)
    check_range(power)
    return math.sqrt(energy(picked(pred_XYZ, mask_XYZ) - truth) / power)


def _similarity(x: Tensor, y: Tensor, windows: Sequence[Tensor]) -> Tensor:
    """Wang 2004, eq. 13, for intensities in units of L."""
    c1, c2 = K1**2, K2**2
    mean_x, mean_y, both, cross = averaged((x, y, x.square() + y.square(), x * y), windows)
    product = mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    variances, covariance = both - squares, cross - product
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def ssim_map(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> Tensor:
    """Structural similarity of every voxel of the mask, with a true 3-D window; float32, 0 outside.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    check_range(data_range)
    map_XYZ = torch.zeros(truth_XYZ.shape)
    for tile in tiles(mask_XYZ, WINDOW_SIGMA_VOX, WINDOW_REACH_VOX):
        x, y = (t[tile.outer].float() / data_range for t in (pred_XYZ, truth_XYZ))
        map_XYZ[tile.inner] = _similarity(x, y, tile.windows) * mask_XYZ[tile.inner]
    return map_XYZ


def ssim(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> float:
    """Mean of `ssim_map` over the mask.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    return ssims(pred_XYZ, truth_XYZ, mask_XYZ, data_range, (mask_XYZ,))[0]


def ssims(
    pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float, parts: Iterable[Tensor]
) -> list[float]:
    """Means of one `ssim_map` over several masks, each inside `mask_XYZ`.

    Raises:
        GeometryError, DataError: see `ssim_map`.
    """
    map_XYZ = ssim_map(pred_XYZ, truth_XYZ, mask_XYZ, data_range)
    return [mean(picked(map_XYZ, part)) for part in parts]


def score(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor | None = None) -> Scores:
    """PSNR, SSIM and NRMSE of a prediction inside the truth's head (or a mask of your own).

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or an empty truth.
    """
    mask_XYZ = head_mask(truth_XYZ) if mask_XYZ is None else mask_XYZ
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    top = data_range(truth_XYZ, mask_XYZ)
    return Scores(
        psnr=psnr(pred_XYZ, truth_XYZ, mask_XYZ, top),
        ssim=ssim(pred_XYZ, truth_XYZ, mask_XYZ, top),
        nrmse=nrmse(pred_XYZ, truth_XYZ, mask_XYZ),
    )
