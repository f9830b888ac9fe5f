"""Free-response figure of merit (JAFROC): how well readers find outlined lesions, and mark nothing else.

The figure of merit is the probability that a lesion is rated higher than the highest false mark of a case, where what
was not marked is rated below everything and a tie counts half (Chakraborty and Berbaum 2004). It is the area under the
AFROC curve. False marks are taken from cases without lesions where there are enough of them ("AFROC"), else from all
cases ("AFROC1").

Axes: R readers, C cases, L lesions of a case (padded with NaN), M methods, B bootstrap samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from moediff.study.answers import GRADES
from moediff.study.records import Lesion, Stack
from moediff.study.strengths import DRAWS, Estimate, bootstrap_covariance, combined_covariance, numpy_rng

TOLERANCE_MM = 3.0  # a mark this close to a lesion's outline hits it
LEAST_NORMAL = 5  # cases without lesions that AFROC needs
UNMARKED = -math.inf


def judge_marks(
    marks: Sequence[Mapping[str, Any]], lesions: Sequence[Lesion], stack: Stack, tolerance_mm: float = TOLERANCE_MM
) -> tuple[list[float], list[float]]:
    """Highest rating of each lesion (`UNMARKED` where none hit it), and the ratings of all false marks."""
    lesion_ratings, false = [UNMARKED] * len(lesions), []
    for mark in marks:
        distances = [_distance_mm(mark, lesion, stack) for lesion in lesions]
        nearest = min(range(len(lesions)), key=distances.__getitem__, default=-1)
        if nearest >= 0 and distances[nearest] <= tolerance_mm:
            lesion_ratings[nearest] = max(lesion_ratings[nearest], float(mark["confidence"]))
        else:
            false.append(float(mark["confidence"]))
    return lesion_ratings, false


def _distance_mm(mark: Mapping[str, Any], lesion: Lesion, stack: Stack) -> float:
    runs = np.array(lesion.runs, dtype=float)
    across, down = mark["x"] * stack.width, mark["y"] * stack.height
    gaps = (
        (runs[:, 0] - mark["slice"]) * stack.gap_mm,
        _outside(down, runs[:, 1], runs[:, 1] + 1) * stack.height_mm / stack.height,
        _outside(across, runs[:, 2], runs[:, 3]) * stack.width_mm / stack.width,
    )
    return float(np.sqrt(sum(gap**2 for gap in gaps)).min())


def _outside(at: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.maximum(np.maximum(low - at, at - high), 0)


@dataclass(frozen=True)
class Ratings:
    """Ratings of one method: false marks by reader and case, and of each lesion."""

    false: list[list[list[float]]]
    lesion_RCL: np.ndarray

    @property
    def highest_false_RC(self) -> np.ndarray:
        """The highest false mark of each case."""
        return np.array([[max(marks, default=UNMARKED) for marks in row] for row in self.false])


def figure_of_merit(ratings: Ratings, weights_BRC: np.ndarray, normal_C: np.ndarray) -> np.ndarray:
    """The figure of merit of each reader [B, R] when cases count `weights`; false marks are those of `normal` cases."""
    false_RC, lesion_RCL = ratings.highest_false_RC, ratings.lesion_RCL
    lesions_C = (~np.isnan(lesion_RCL[0])).sum(-1)
    higher = lesion_RCL[:, None] > false_RC[:, :, None, None]
    equal = lesion_RCL[:, None] == false_RC[:, :, None, None]
    better_RCC = (higher + 0.5 * equal).sum(-1)  # [reader, case of the false mark, case of the lesion]
    normal_BRC = weights_BRC * normal_C
    top = np.einsum("bri,rij,brj->br", normal_BRC, better_RCC, weights_BRC)
    bottom = normal_BRC.sum(-1) * (weights_BRC * lesions_C).sum(-1)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One operating point: marks rated `confidence` or higher."""

    confidence: int
    lesions_found: float
    false_per_image: float


@dataclass(frozen=True, kw_only=True)
class FreeResponse:
    """The lesion search.

    Args:
        kind: AFROC or AFROC1.
        figure_of_merit: of each method, mean over readers.
        difference: [first][second].
        curves: FROC points of each method, all readers together.
    """

    kind: str
    figure_of_merit: tuple[Estimate, ...]
    difference: tuple[tuple[Estimate, ...], ...]
    curves: tuple[tuple[CurvePoint, ...], ...]
    lesions: int
    cases: int
    normal_cases: int
    tolerance_mm: float

    @property
    def has_intervals(self) -> bool:
        """Whether more than one case has lesions."""
        return all(math.isfinite(one.low) for one in self.figure_of_merit)


def analyse_search(
    ratings: Sequence[Ratings], tolerance_mm: float, *, readers: str, seed: int = 0, draws: int = DRAWS
) -> FreeResponse | None:
    """Figures of merit with intervals from a bootstrap over readers and cases; None where no case has a lesion.

    Of fixed readers the degrees of freedom are those of the smaller group of cases, else few lesions gave intervals too
    narrow; of random readers they are few anyway. The intervals are NaN where a single case has lesions.
    """
    lesions_C = (~np.isnan(ratings[0].lesion_RCL[0])).sum(-1)
    normal_C = lesions_C == 0
    if not lesions_C.sum():
        return None
    kind = "AFROC" if normal_C.sum() >= LEAST_NORMAL else "AFROC1"
    used_C = normal_C if kind == "AFROC" else np.ones_like(normal_C)
    readers_n, cases_n = ratings[0].lesion_RCL.shape[:2]

    def merits(weights_BRC: np.ndarray) -> np.ndarray:
        return np.stack([figure_of_merit(one, weights_BRC, used_C) for one in ratings], -1)  # [B, R, M]

    each_RM = merits(np.ones((1, readers_n, cases_n)))[0]
    value_M = each_RM.mean(0)
    rng = numpy_rng(seed, "free response", readers_n, cases_n)
    cells_BRC = _case_weights(normal_C, readers_n, draws, rng)
    picks_BR = rng.integers(readers_n, size=(draws, readers_n))
    lesion_cases, normal_cases = int((~normal_C).sum()), int(normal_C.sum())
    fewer = lesion_cases if kind == "AFROC1" else min(lesion_cases, normal_cases)
    fixed = readers == "fixed" or readers_n < 2
    covariance, dof, _ = combined_covariance(
        by_case=np.cov(merits(np.repeat(cells_BRC[:, :1], readers_n, axis=1)).mean(1), rowvar=False),
        by_cell=np.cov(merits(cells_BRC).mean(1), rowvar=False),
        by_reader=bootstrap_covariance(each_RM[picks_BR].mean(1), readers_n),
        units=(readers_n, max(fewer, 2) if fixed else cases_n),
        fixed=fixed,
    )
    reach = float(stdtrit(max(dof, 1.0), 0.975)) if lesion_cases > 1 else math.nan
    return FreeResponse(
        kind=kind,
        figure_of_merit=_bounded(value_M, reach * np.sqrt(np.diag(covariance))),
        difference=tuple(_against(value_M, covariance, reach, i) for i in range(len(value_M))),
        curves=tuple(_curve(one) for one in ratings),
        lesions=int(lesions_C.sum()),
        cases=cases_n,
        normal_cases=normal_cases,
        tolerance_mm=tolerance_mm,
    )


def _case_weights(normal_C: np.ndarray, readers: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of cases [B, R, C] in bootstrap samples; every sample has cases with and without lesions, as the study.

    One case fewer than a group has is drawn, and the weights are scaled up to the group's size: variances are then
    unbiased without a factor n / (n - 1), which would differ between groups (Rao and Wu 1988). A single case stays.
    """
    weights_BRC = np.ones((draws, readers, len(normal_C)))
    for group_C in (normal_C, ~normal_C):
        n = int(group_C.sum())
        if n > 1:
            drawn = rng.multinomial(n - 1, np.full(n, 1 / n), size=(draws, readers))
            weights_BRC[..., group_C] = drawn * (n / (n - 1))
    return weights_BRC


def _bounded(values: np.ndarray, reach: np.ndarray) -> tuple[Estimate, ...]:
    """Estimates between 0 and 1; a reach of NaN stays NaN."""
    lows, highs = np.clip(values - reach, 0, 1), np.clip(values + reach, 0, 1)
    return tuple(
        Estimate(value=float(v), low=float(low), high=float(high))
        for v, low, high in zip(values, lows, highs, strict=True)
    )


def _against(values: np.ndarray, covariance: np.ndarray, reach: float, i: int) -> tuple[Estimate, ...]:
    row = []
    for j in range(len(values)):
        spread = reach * math.sqrt(max(0.0, covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]))
        gap = float(values[i] - values[j])
        row.append(Estimate(value=gap, low=gap - spread, high=gap + spread))
    return tuple(row)


def _curve(ratings: Ratings) -> tuple[CurvePoint, ...]:
    lesion = ratings.lesion_RCL[~np.isnan(ratings.lesion_RCL)]
    images = len(ratings.false) * len(ratings.false[0])
    false = np.array([mark for row in ratings.false for marks in row for mark in marks])
    return tuple(
        CurvePoint(
            confidence=grade,
            lesions_found=float((lesion >= grade).mean()),
            false_per_image=float((false >= grade).sum() / images),
        )
        for grade in range(GRADES, 0, -1)
    )
