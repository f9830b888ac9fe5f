"""Agreement of readers with each other and with themselves: Krippendorff's alpha, ICC, shares with Wilson intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from moediff.study.strengths import Estimate

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(successes: float, total: float) -> Estimate | None:
    """A share with Wilson's score interval (1927); None of nothing. `successes` may count halves."""
    if total <= 0:
        return None
    share, spread = successes / total, Z * Z / total
    centre = (share + spread / 2) / (1 + spread)
    reach = Z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return Estimate(value=share, low=max(0.0, centre - reach), high=min(1.0, centre + reach))


def krippendorff_alpha(ratings_RU: np.ndarray, scale: str) -> float | None:
    """Krippendorff's alpha of ratings [readers, units], NaN where one is missing; None where it is not defined.

    Args:
        ratings_RU: numbers.
        scale: nominal, ordinal or interval.
    """
    values = np.unique(ratings_RU[~np.isnan(ratings_RU)])
    if len(values) < 2:
        return None
    tally_UV = (ratings_RU[:, :, None] == values).sum(0).astype(float)
    raters_U = tally_UV.sum(1)
    tally_UV, raters_U = tally_UV[raters_U > 1], raters_U[raters_U > 1]  # single ratings cannot be paired
    if not len(raters_U):
        return None
    together = (tally_UV[:, :, None] * tally_UV[:, None, :]) / (raters_U - 1)[:, None, None]
    own = np.einsum("uv,vw->uvw", tally_UV, np.eye(len(values))) / (raters_U - 1)[:, None, None]
    observed = (together - own).sum(0)
    total_V = observed.sum(0)
    expected = (np.outer(total_V, total_V) - np.diag(total_V)) / (total_V.sum() - 1)
    distance = _DISTANCES[scale](values, total_V)
    denominator = float((expected * distance).sum())
    return 1 - float((observed * distance).sum()) / denominator if denominator > 0 else None


def _nominal(values: np.ndarray, total_V: np.ndarray) -> np.ndarray:
    return 1 - np.eye(len(values))


def _ordinal(values: np.ndarray, total_V: np.ndarray) -> np.ndarray:
    rank = np.cumsum(total_V) - total_V / 2
    return (rank[:, None] - rank) ** 2


def _interval(values: np.ndarray, total_V: np.ndarray) -> np.ndarray:
    return (values[:, None] - values) ** 2


_DISTANCES = {"nominal": _nominal, "ordinal": _ordinal, "interval": _interval}


@dataclass(frozen=True, kw_only=True)
class IntraclassCorrelation:
    """Intraclass correlations of Shrout and Fleiss (1979), two-way, each image judged by each reader.

    Args:
        single, average: ICC(2,1) and ICC(2,k), absolute agreement, readers random.
        single_fixed: ICC(3,1), consistency, readers fixed.
        images, readers: of the table.
    """

    single: float
    average: float
    single_fixed: float
    images: int
    readers: int


def icc(table_NR: np.ndarray) -> IntraclassCorrelation | None:
    """ICC of a table [images, readers]; rows with a missing value are left out, None where nothing varies."""
    table = table_NR[~np.isnan(table_NR).any(1)]
    n, k = table.shape
    if n < 2 or k < 2:
        return None
    grand = table.mean()
    rows = k * ((table.mean(1) - grand) ** 2).sum() / (n - 1)
    columns = n * ((table.mean(0) - grand) ** 2).sum() / (k - 1)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + grand
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    if rows + error <= 0:
        return None
    return IntraclassCorrelation(
        single=float((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n)),
        average=float((rows - error) / (rows + (columns - error) / n)),
        single_fixed=float((rows - error) / (rows + (k - 1) * error)),
        images=n,
        readers=k,
    )
