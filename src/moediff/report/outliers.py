"""Which of many scans stand out in a number: robust z-scores over the cohort."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

LIMIT = 3.5  # Iglewicz & Hoaglin 1993
LEAST = 5  # scans; fewer say nothing about what is usual
MAD_TO_SD, MEAN_TO_SD = 1.4826, 1.2533  # of a normal distribution


def robust_z(values: Sequence[float | None]) -> list[float | None]:
    """(value - median) over the cohort's robust standard deviation; None for absent values and too small cohorts.

    The deviation is 1.4826 x the median absolute one. Where more than half of all values are equal it is 0, and the
    mean absolute deviation x 1.2533 takes its place (Iglewicz & Hoaglin 1993).
    """
    known = [v for v in values if v is not None]
    if len(known) < LEAST:
        return [None] * len(values)
    middle = statistics.median(known)
    away = [abs(v - middle) for v in known]
    spread = MAD_TO_SD * statistics.median(away) or MEAN_TO_SD * statistics.fmean(away)
    if not spread:
        return [None if v is None else 0.0 for v in values]
    return [None if v is None else (v - middle) / spread for v in values]
