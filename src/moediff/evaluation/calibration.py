"""Calibration of a map of standard deviations: coverage, rank correlation with errors, and sparsification.

Errors are taken as Gaussian with the standard deviation of their voxel; what is measured is how far that holds.

Axes: V voxels of the mask, F fractions left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.statistics import kth, picked
from moediff.evaluation.alignment import correlation
from moediff.evaluation.per_region import Regions

TARGET_PERCENT = 90  # per cent, of the interval that `scale_90` is about
LEFT_OUT = 20  # fractions 0, 1/20, ... 19/20 of the sparsification curves


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How well standard deviations predict errors.

    Args:
        voxels: that were judged.
        coverage_50, coverage_80, coverage_90, coverage_95: share of voxels whose truth lies in the central 50 %, ...
            interval; 0.5, ... is right.
        scale_90: factor on the standard deviations that brings coverage_90 to 0.9; 1 is right.
        spearman: rank correlation of standard deviation and absolute error; -1..1, up.
        ause: area between the curves of the mean absolute error left when the voxels of largest standard deviation, or
            of largest error, are left out, over the overall error (Ilg et al. 2018); 0 is best.
        ause_of_chance: the same for a map that knows nothing.
    """

    voxels: int
    coverage_50: float
    coverage_80: float
    coverage_90: float
    coverage_95: float
    scale_90: float
    spearman: float
    ause: float
    ause_of_chance: float


def half_width(percent: int) -> float:
    """Half width, in standard deviations, of the interval that holds this percentage of a Gaussian."""
    return float(torch.special.ndtri(torch.tensor(0.5 + percent / 200, dtype=torch.float64)))


def _ranks(values_V: Tensor) -> Tensor:
    """Ranks from 0, equal values sharing their mean."""
    order = values_V.argsort()
    ties = values_V[order].unique_consecutive(return_counts=True)[1]
    middle = ties.cumsum(0) - (ties + 1) / 2
    ranks = torch.empty(values_V.shape, dtype=torch.float64)
    ranks[order] = middle.double().repeat_interleave(ties)
    return ranks


def spearman(x_V: Tensor, y_V: Tensor) -> float:
    """Rank correlation; 0 where one of them is constant."""
    a, b = _ranks(x_V), _ranks(y_V)
    return correlation(a / max(len(a) - 1, 1), b / max(len(b) - 1, 1))


def _sparsified(error_V: Tensor, order_V: Tensor) -> Tensor:
    """Mean error over all of it once the first fraction in this order is left out [F]."""
    left = error_V[order_V].double().flip(0).cumsum(0)  # sums of the last 1, 2, ... voxels
    number_left = torch.tensor([max(1, round(len(error_V) * (1 - f / LEFT_OUT))) for f in range(LEFT_OUT)])
    return left[number_left - 1] / number_left / (left[-1] / len(error_V)).clamp_min(1e-300)


def _calibration(error_V: Tensor, sd_V: Tensor) -> Calibration:
    """Of absolute errors and standard deviations of the same voxels."""
    ratio = torch.where(error_V > 0, error_V / sd_V, torch.zeros(()))  # infinite where sd is 0 but there is an error
    oracle = _sparsified(error_V, error_V.argsort(descending=True))
    needed = kth(ratio, max(1, -(-len(ratio) * TARGET_PERCENT // 100)))

    def coverage(percent: int) -> float:
        return float((ratio <= half_width(percent)).double().mean())

    return Calibration(
        voxels=len(error_V),
        coverage_50=coverage(50),
        coverage_80=coverage(80),
        coverage_90=coverage(90),
        coverage_95=coverage(95),
        scale_90=needed / half_width(TARGET_PERCENT),
        spearman=spearman(sd_V, error_V),
        ause=float((_sparsified(error_V, sd_V.argsort(descending=True)) - oracle).mean()),
        ause_of_chance=float((1 - oracle).mean()),
    )


def calibration(
    error_XYZ: Tensor, sd_XYZ: Tensor, mask_XYZ: Tensor, regions: Regions | None = None
) -> dict[str, Calibration]:
    """Calibration of standard deviations, for "all" of the mask and every region of 100 voxels or more.

    Args:
        error_XYZ: prediction minus truth.
        sd_XYZ: standard deviations in the same units, 0 or more.
        mask_XYZ: where to judge.
        regions: see `per_region.regions_of`.

    Raises:
        DataError: standard deviations that are negative, NaN, or zero all over the mask.
    """
    inside = picked(sd_XYZ, mask_XYZ)
    if not bool(torch.isfinite(inside).all()) or float(inside.min()) < 0:
        raise DataError("the uncertainty holds negative, NaN or infinite values; expected standard deviations")
    if float(inside.max()) == 0:
        raise DataError("the uncertainty is 0 all over the mask; expected standard deviations")
    masks = {"all": mask_XYZ} | (dict(regions.inside(mask_XYZ)) if regions is not None else {})
    return {
        name: _calibration(picked(error_XYZ, mask).abs().float(), picked(sd_XYZ, mask).float())
        for name, mask in masks.items()
    }
