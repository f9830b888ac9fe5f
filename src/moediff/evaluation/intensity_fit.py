"""Intensity fit of a prediction to the reference: one declared rule, the same for every method.

Gain and offset minimise Huber's loss of gain * prediction + offset - reference inside the mask, by iteratively
reweighted least squares. Methods are so compared at their best; a fit also forgives a wrong brightness or contrast.

Axes: X Y Z voxels, V voxels of the mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.statistics import median, runs

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


def _weighted(x_V: Tensor, y_V: Tensor, before: Fit, width: float) -> Fit:
    """Weighted least squares of y on x; residuals to `before` beyond `width` count as if they were that large."""
    first_x, first_y = float(x_V[0]), float(y_V[0])  # near zero squares do not cancel, and constants are exactly zero
    offset = before.offset + before.gain * first_x - first_y
    sums = torch.zeros(5, dtype=torch.float64)
    for x, y in zip(runs(x_V, first_x), runs(y_V, first_y), strict=True):
        residual = (x * before.gain).add_(offset).sub_(y).abs_()
        weight = residual.clamp_min_(TINY_RESIDUAL).reciprocal_().mul_(width).clamp_max_(1)
        along = weight * x
        terms = (weight, along, weight * y, along * x, along * y)
        sums += torch.stack([term.sum() for term in terms])
    total, of_x, of_y, squares, products = sums.tolist()
    power = squares - of_x**2 / total
    if not power > 0:
        raise DataError("the prediction is constant where it is judged; expected a scan with contrast")
    gain = (products - of_x * of_y / total) / power
    return Fit(gain, first_y + of_y / total - gain * (first_x + of_x / total))


def _reweighted(x_V: Tensor, y_V: Tensor, start: Fit, spread: float) -> Fit:
    """Rounds of weighted least squares, the first one with weights from `start`, until gain and offset converge."""
    fit, largest = start, max(abs(float(v)) for v in torch.aminmax(x_V))
    for _ in range(ROUNDS):
        sigma = max(median(fit.apply(x_V).sub_(y_V).abs_()) / 0.6745, LEAST_SIGMA * spread)
        before, fit = fit, _weighted(x_V, y_V, fit, HUBER * sigma)
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
    low, high = (float(v) for v in torch.aminmax(y))
    spread = float(y.std(correction=0))
    if low == high or not spread > 0:
        raise DataError("the reference is constant where it is judged; expected a scan with contrast")
    few = slice(None, None, max(1, x.numel() // FIRST_VOXELS))
    plain = _weighted(x[few], y[few], Fit(), math.inf)
    fit = _reweighted(x, y, _reweighted(x[few], y[few], plain, spread), spread)
    if not (math.isfinite(fit.gain) and fit.gain > 0):
        raise DataError(
            f"the prediction's intensities fall where the reference's rise (gain {fit.gain:.3g}): another contrast "
            "or another head? Give matching scans, or --no-intensity-fit to judge the intensities as they are"
        )
    return fit
