"""Bringing a prediction to the reference's intensities: one declared rule, the same for every method.

Gain and offset minimise Huber's loss of gain * prediction + offset - reference inside the mask, by iteratively
reweighted least squares. Methods are so compared at their best; a fit also forgives a wrong brightness or contrast.

Axes: X Y Z voxels, V voxels of the mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.errors import DataError

RULE = "gain and offset by Huber's loss inside the mask"
HUBER = 1.345  # residuals beyond this many sigma count linearly; 95 % efficient for Gaussian errors (Huber 1981)
ROUNDS = 20
FIRST_VOXELS = 200_000  # an even subset of about this many is fitted first; all voxels then need a few rounds only
CONVERGED = 1e-6  # relative change of gain and offset
LEAST_SIGMA = 1e-6  # of the reference's spread
TINY_RESIDUAL = 1e-30  # keeps 0 / 0 out of the weights


@dataclass(frozen=True)
class Fit:
    """Fitted = gain * raw + offset."""

    gain: float = 1.0
    offset: float = 0.0

    def apply(self, data: Tensor) -> Tensor:
        """Raw intensities to fitted ones."""
        return data * self.gain + self.offset


def _median(values: Tensor) -> float:
    return float(values.kthvalue((values.numel() + 1) // 2).values)


def _weighted(x_V: Tensor, y_V: Tensor, weight_V: Tensor) -> Fit:
    """Weighted least squares of y on x."""
    total = float(weight_V.sum(dtype=torch.float64))
    mean_x, mean_y = (float((weight_V * t).sum(dtype=torch.float64)) / total for t in (x_V, y_V))
    x, y = x_V - mean_x, y_V - mean_y
    power = float((weight_V * x.square()).sum(dtype=torch.float64))
    if not power > 0:
        raise DataError("the prediction is constant where it is judged; expected a scan with contrast")
    gain = float((weight_V * x * y).sum(dtype=torch.float64)) / power
    return Fit(gain, mean_y - gain * mean_x)


def _reweighted(x_V: Tensor, y_V: Tensor, start: Fit, spread: float) -> Fit:
    """Rounds of weighted least squares, the first one with weights from `start`, until gain and offset stay."""
    fit, largest = start, float(x_V.abs().max())
    for _ in range(ROUNDS):
        residual = (fit.apply(x_V) - y_V).abs_()
        sigma = max(_median(residual) / 0.6745, LEAST_SIGMA * spread)
        before, fit = fit, _weighted(x_V, y_V, (HUBER * sigma / residual.clamp_min(TINY_RESIDUAL)).clamp_max(1))
        moved = abs(fit.gain - before.gain) * largest + abs(fit.offset - before.offset)
        if moved < CONVERGED * spread:
            break
    return fit


def fit_intensities(pred_V: Tensor, ref_V: Tensor) -> Fit:
    """Gain and offset that bring predicted values to reference values.

    Args:
        pred_V: predicted values inside the mask.
        ref_V: reference values of the same voxels.

    Raises:
        DataError: a constant prediction or reference, or a gain that is not positive (inverted or unrelated contrast).
    """
    x, y = pred_V.float(), ref_V.float()
    spread = float(y.double().std(correction=0))
    if not spread > 0:
        raise DataError("the reference is constant where it is judged; expected a scan with contrast")
    few = slice(None, None, max(1, x.numel() // FIRST_VOXELS))
    fit = _weighted(x[few], y[few], torch.ones_like(x[few]))
    fit = _reweighted(x, y, _reweighted(x[few], y[few], fit, spread), spread)
    if not (math.isfinite(fit.gain) and fit.gain > 0):
        raise DataError(
            f"the prediction's intensities fall where the reference's rise (gain {fit.gain:.3g}): another contrast "
            "or another head? Give matching scans, or --no-fit to judge the intensities as they are"
        )
    return fit
