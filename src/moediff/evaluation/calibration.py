"""Does a map of standard deviations tell how wrong a prediction is? Coverage, rank correlation and sparsification.

Errors are taken as Gaussian with the standard deviation of their voxel; what is measured is how far that holds.

Axes: V voxels of the mask, F fractions left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.statistics import kth, picked
from moediff.evaluation.alignment import correlation
from moediff.evaluation.per_region import LEAST_VOXELS, Parts

LEVELS = (50, 80, 90, 95)  # per cent
AIMED = 90
LEFT_OUT = 20  # fractions 0, 1/20, ... 19/20 of the sparsification curves


def half_width(level: int) -> float:
    """Half width, in standard deviations, of the interval that holds this percentage of a Gaussian."""
    return float(torch.special.ndtri(torch.tensor(0.5 + level / 200, dtype=torch.float64)))


def _ranks(values_V: Tensor) -> Tensor:
    """Ranks from 0, equal values sharing their mean."""
    order = values_V.argsort()
    counts = values_V[order].unique_consecutive(return_counts=True)[1]
    middle = counts.cumsum(0) - (counts + 1) / 2
    ranks = torch.empty(values_V.shape, dtype=torch.float64)
    ranks[order] = middle.double().repeat_interleave(counts)
    return ranks


def spearman(x_V: Tensor, y_V: Tensor) -> float:
    """Rank correlation; 0 where one of them is constant."""
    a, b = _ranks(x_V), _ranks(y_V)
    return correlation(a / max(len(a) - 1, 1), b / max(len(b) - 1, 1))


def _sparsified(error_V: Tensor, order_V: Tensor) -> Tensor:
    """Mean error over all of it once the first fraction in this order is left out [F]."""
    left = error_V[order_V].double().flip(0).cumsum(0)  # sums of the last 1, 2, ... voxels
    kept = torch.tensor([max(1, round(len(error_V) * (1 - f / LEFT_OUT))) for f in range(LEFT_OUT)])
    return left[kept - 1] / kept / (left[-1] / len(error_V)).clamp_min(1e-300)


def _judged(error_V: Tensor, sd_V: Tensor) -> dict[str, float]:
    ratio = torch.where(error_V > 0, error_V / sd_V, torch.zeros(()))  # infinite where no doubt was said but wrong
    oracle = _sparsified(error_V, error_V.argsort(descending=True))
    found: dict[str, float] = {"voxels": len(error_V)}
    found |= {f"coverage_{level}": float((ratio <= half_width(level)).double().mean()) for level in LEVELS}
    needed = kth(ratio, max(1, -(-len(ratio) * AIMED // 100)))
    return found | {
        f"scale_{AIMED}": needed / half_width(AIMED),
        "spearman": spearman(sd_V, error_V),
        "ause": float((_sparsified(error_V, sd_V.argsort(descending=True)) - oracle).mean()),
        "ause_of_chance": float((1 - oracle).mean()),
    }


def calibration(
    error_XYZ: Tensor,
    sd_XYZ: Tensor,
    mask_XYZ: Tensor,
    parts: Parts | None = None,
) -> dict[str, dict[str, float]]:
    """How well standard deviations tell errors, for "all" of the mask and every part of 100 voxels or more.

    coverage_N     share of voxels whose truth lies in the central N % interval; N / 100 is right;
    scale_90       factor on the standard deviations that brings coverage_90 to 0.9; 1 is right;
    spearman       rank correlation of standard deviation and absolute error; -1..1, up;
    ause           area between the curves of the mean absolute error left when the voxels of largest standard
                   deviation, or of largest error, are left out, over the overall error (Ilg et al. 2018); 0 is best,
                   `ause_of_chance` what a map that knows nothing has.

    Args:
        error_XYZ: prediction minus truth.
        sd_XYZ: standard deviations in the same units, 0 or more.
        mask_XYZ: where to judge.
        parts: see `parts.named_parts`.

    Raises:
        DataError: standard deviations that are negative, NaN, or zero all over the mask.
    """
    inside = picked(sd_XYZ, mask_XYZ)
    if not bool(torch.isfinite(inside).all()) or float(inside.min()) < 0:
        raise DataError("the uncertainty holds negative, NaN or infinite values; expected standard deviations")
    if float(inside.max()) == 0:
        raise DataError("the uncertainty is 0 all over the mask; expected standard deviations")
    found = {"all": _judged(picked(error_XYZ, mask_XYZ).abs().float(), inside.float())}
    number_XYZ, names = parts or (mask_XYZ, {})
    for number, name in names.items():
        part = mask_XYZ & (number_XYZ == number)
        if int(part.sum()) >= LEAST_VOXELS:
            found[name] = _judged(picked(error_XYZ, part).abs().float(), picked(sd_XYZ, part).float())
    return found
