"""Voxel metrics by the conventions of the MRIxFields2026 challenge (its published evaluation script).

The truth is cut off at 0 and at its 99.5th percentile and divided by the latter; the whole volume counts, without a
mask; SSIM is that of axial slices with scikit-image's defaults. The challenge takes predictions as they come, in
[0, 1]; here they are divided by the same percentile of the truth and cut off at 0 and 1, which changes nothing for a
prediction in [0, 1] of a truth that is scaled already. PSNR is not among its metrics; it follows the same conventions.

Axes: X Y Z voxels, N slices, A B the in-plane axes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.statistics import kth
from moediff.evaluation.metrics.fidelity import K1, K2, check_pair, check_range, nrmse, psnr

TOP = 0.995
SIDE_VOX = 7  # of a square, uniform window
FLAT = 1e-10  # slices of the truth with less contrast are left out
BATCH = 16  # slices at once, which bounds memory


def _top(data_XYZ: Tensor) -> float:
    """Percentile with linear interpolation, of any number of voxels."""
    values = data_XYZ.flatten().float()
    at = TOP * (values.numel() - 1)
    low, high = (kth(values, 1 + k) for k in (math.floor(at), math.ceil(at)))
    return low + (at - math.floor(at)) * (high - low)


def _slice_ssims(x_NAB: Tensor, y_NAB: Tensor, span: float) -> Tensor:
    """Mean SSIM of every slice where windows fit, sample covariances; Wang 2004, eq. 13."""
    side = min(SIDE_VOX, *x_NAB.shape[1:])
    side -= 1 - side % 2
    share = side**2 / max(1, side**2 - 1)

    def mean(t_NAB: Tensor) -> Tensor:
        return F.avg_pool2d(t_NAB[:, None], side, stride=1)[:, 0]

    mean_x, mean_y = mean(x_NAB), mean(y_NAB)
    variances = share * (mean(x_NAB.square() + y_NAB.square()) - mean_x.square() - mean_y.square())
    covariance = share * (mean(x_NAB * y_NAB) - mean_x * mean_y)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).flatten(1).mean(1, dtype=torch.float64)


def mrixfields(pred_XYZ: Tensor, truth_XYZ: Tensor, axial: int) -> tuple[float, float, float]:
    """PSNR (dB, range 1), NRMSE and SSIM by the conventions above.

    Args:
        pred_XYZ, truth_XYZ: one shape; the truth mostly positive.
        axial: the voxel axis that slices are counted along, foot to head.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, or a truth whose 99.5th percentile is not positive.
    """
    everywhere = torch.ones_like(truth_XYZ, dtype=torch.bool)
    check_pair(pred_XYZ, truth_XYZ, everywhere)
    top = _top(truth_XYZ)
    check_range(top)
    pred, truth = (((t.float() / top).clamp(0, 1)) for t in (pred_XYZ, truth_XYZ))
    by_slice = [t.movedim(axial, 0) for t in (pred, truth)]
    flat_N = by_slice[1].flatten(1)
    contrasted_N = (flat_N.amax(1) - flat_N.amin(1) >= FLAT).nonzero().flatten()
    span = float(truth.max() - truth.min())
    batches = contrasted_N.split(BATCH) if span >= FLAT else ()
    alike = [_slice_ssims(by_slice[0][some], by_slice[1][some], span) for some in batches]
    ssim = float(torch.cat(alike).mean()) if alike else 1.0
    return psnr(pred, truth, everywhere, 1.0), nrmse(pred, truth, everywhere), ssim
