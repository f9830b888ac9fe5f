"""Simulated reader studies: answers drawn from known strengths, to check the analysis and to plan studies.

Axes: R readers, C cases, P pairs of methods, O outcomes, M methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moediff.study.strengths import pairs_of


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """What answers are drawn from.

    Args:
        log_strength: of each method.
        log_ties: log of Davidson's v; -inf for no ties.
        readers, cases: how many.
        reader_sd, case_sd: standard deviation, between readers and between cases, of each log-strength.
    """

    log_strength: Sequence[float]
    log_ties: float
    readers: int
    cases: int
    reader_sd: float = 0.0
    case_sd: float = 0.0


def simulate_counts(study: SimulatedStudy, rng: np.random.Generator) -> np.ndarray:
    """One answer of every reader to every pair of every case [R, C, P, O]."""
    strength_M = np.asarray(study.log_strength, dtype=float)
    by_reader = rng.normal(0, study.reader_sd, (study.readers, 1, len(strength_M)))
    by_case = rng.normal(0, study.case_sd, (1, study.cases, len(strength_M)))
    s_RCM = strength_M + by_reader + by_case
    first, second = (list(side) for side in zip(*pairs_of(len(strength_M)), strict=True))
    half_RCP = (s_RCM[..., first] - s_RCM[..., second]) / 2
    weights = np.exp(np.stack([half_RCP, np.full_like(half_RCP, study.log_ties), -half_RCP], -1))
    edges = np.cumsum(weights / weights.sum(-1, keepdims=True), -1)
    outcome = (rng.random(half_RCP.shape)[..., None] > edges).sum(-1).clip(0, 2)
    return np.eye(3)[outcome]
