"""Bradley-Terry strengths with ties (Davidson 1970), with intervals over readers and cases.

P(i preferred to j) = exp(s_i) / (exp(s_i) + exp(s_j) + v exp((s_i + s_j) / 2)), and the last term is the share of ties.
Log-strengths s sum to zero.

Variances come from three bootstraps: readers, cases, and cells of one reader and one case are resampled. Readers and
cases are crossed, so their variances add and the one of the cells, which both contain, is subtracted (Cameron, Gelbach
and Miller 2011). Resampling both at once would count the cells three times (Owen 2007).

Axes: R readers, C cases, P pairs of methods, O outcomes (first preferred, no difference, second preferred), M methods,
K parameters (log-strengths, log v), B bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.special import stdtrit

from moediff.core.config import rng_for
from moediff.core.errors import DataError

FIRST, TIE, SECOND = range(3)
PRIOR_SD = 3.0  # of a log-strength: a method that always wins gets a finite one; otherwise it changes 1 % or less
TIE_PRIOR_SD = 5.0
DRAWS = 1000
STEPS, LONGEST_STEP, CONVERGED = 50, 2.0, 1e-9


def pairs_of(methods: int) -> list[tuple[int, int]]:
    """Pairs of methods in the order of axis P."""
    return list(combinations(range(methods), 2))


def numpy_rng(seed: int, *ids: object) -> np.random.Generator:
    """NumPy's generator keyed as `rng_for` is."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=rng_for(seed, *ids))))


def _features(methods: int) -> np.ndarray:
    """What each outcome of each pair depends on [P, O, K]."""
    pairs = pairs_of(methods)
    x_POK = np.zeros((len(pairs), 3, methods + 1))
    for p, (i, j) in enumerate(pairs):
        x_POK[p, FIRST, [i, j]] = 0.5, -0.5
        x_POK[p, SECOND, [i, j]] = -0.5, 0.5
    x_POK[:, TIE, methods] = 1
    return x_POK


def probabilities(strengths_M: Sequence[float], log_ties: float) -> np.ndarray:
    """Share of each outcome of each pair [P, O]; `log_ties` of -inf allows none."""
    s = np.asarray(strengths_M, dtype=float)
    first, second = (s[list(side)] for side in zip(*pairs_of(len(s)), strict=True))
    half = (first - second) / 2
    with np.errstate(under="ignore"):
        weights = np.exp(np.stack([half, np.full_like(half, log_ties), -half], -1))
    return weights / weights.sum(-1, keepdims=True)


def fit(tally_BPO: np.ndarray, *, ties: bool = True, prior_sd: float = PRIOR_SD) -> np.ndarray:
    """Posterior modes [B, K] for counts of outcomes, by Newton's method on all samples at once."""
    pairs = tally_BPO.shape[1]
    methods = next(m for m in range(2, 200) if m * (m - 1) // 2 == pairs)
    x_POK = _features(methods)
    precision_K = np.full(methods + 1, prior_sd**-2.0)
    precision_K[methods] = TIE_PRIOR_SD**-2.0
    open_O = np.array([0.0, 0.0 if ties else -np.inf, 0.0])
    total_BP = tally_BPO.sum(-1)
    theta_BK = np.zeros((len(tally_BPO), methods + 1))
    for _ in range(STEPS):
        score_BPO = np.einsum("pok,bk->bpo", x_POK, theta_BK) + open_O
        score_BPO -= score_BPO.max(-1, keepdims=True)
        share_BPO = np.exp(score_BPO)
        share_BPO /= share_BPO.sum(-1, keepdims=True)
        gradient_BK = np.einsum("bpo,pok->bk", tally_BPO - total_BP[..., None] * share_BPO, x_POK)
        gradient_BK -= precision_K * theta_BK
        mean_BPK = np.einsum("bpo,pok->bpk", share_BPO, x_POK)
        hessian = np.einsum("bpo,pok,pol->bkl", total_BP[..., None] * share_BPO, x_POK, x_POK, optimize=True)
        hessian -= np.einsum("bp,bpk,bpl->bkl", total_BP, mean_BPK, mean_BPK, optimize=True)
        step_BK = np.linalg.solve(hessian + np.diag(precision_K), gradient_BK[..., None])[..., 0]
        theta_BK += np.clip(step_BK, -LONGEST_STEP, LONGEST_STEP)
        if np.abs(step_BK).max() < CONVERGED:
            break
    return theta_BK


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """The fitted model.

    Args:
        log_strength: of each method; they sum to zero.
        difference: [first][second], log-strength of the first minus that of the second.
        log_ties: log of v; None where ties were not allowed.
        readers: "random" (the intervals hold for readers like these) or "fixed" (for these readers).
        reader_variance, case_variance: of the strengths, over that of independent cells; 1 says that readers (cases)
            do not differ more than chance makes them.
        degrees_of_freedom: of the intervals' t distribution.
    """

    log_strength: tuple[Estimate, ...]
    difference: tuple[tuple[Estimate, ...], ...]
    log_ties: float | None
    readers: str
    reader_variance: float | None
    case_variance: float | None
    degrees_of_freedom: float


def estimate(
    tally_RCPO: np.ndarray, *, ties: bool = True, readers: str = "random", draws: int = DRAWS, seed: int = 0
) -> Strengths:
    """Strengths and their intervals.

    Args:
        tally_RCPO: how often each outcome was the answer; all zero where a reader did not see a pair of a case.
        readers: random or fixed; a single one is fixed.

    Raises:
        DataError: fewer than two cases.
    """
    readers_n, cases_n = tally_RCPO.shape[:2]
    if cases_n < 2:
        raise DataError(f"{cases_n} case(s) with forced choices: intervals need two or more")
    theta_K = fit(tally_RCPO.sum((0, 1))[None], ties=ties)[0]
    methods = len(theta_K) - 1
    rng = numpy_rng(seed, "bootstrap", readers_n, cases_n)
    cov, dof, ratios = combined_covariance(
        by_case=_resampled(tally_RCPO.sum(0), rng, draws, ties),
        by_cell=_resampled(tally_RCPO.reshape(-1, *tally_RCPO.shape[2:]), rng, draws, ties),
        by_reader=_resampled(tally_RCPO.sum(1), rng, draws, ties),
        units=(readers_n, cases_n),
        fixed=readers == "fixed",
    )
    return Strengths(
        log_strength=_estimates(theta_K[:methods], cov, dof),
        difference=_differences(theta_K[:methods], cov, dof),
        log_ties=float(theta_K[methods]) if ties else None,
        readers="fixed" if ratios is None else "random",
        reader_variance=None if ratios is None else ratios[0],
        case_variance=None if ratios is None else ratios[1],
        degrees_of_freedom=dof,
    )


def _resampled(tally_NPO: np.ndarray, rng: np.random.Generator, draws: int, ties: bool) -> np.ndarray:
    """Covariance [M, M] of the log-strengths when these N units are resampled."""
    n = len(tally_NPO)
    weights_BN = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    return bootstrap_covariance(fit(np.einsum("bn,npo->bpo", weights_BN, tally_NPO), ties=ties)[:, :-1], n)


def bootstrap_covariance(samples_BM: np.ndarray, units: int) -> np.ndarray:
    """Covariance of M numbers from bootstrap samples that draw as many units as there are; 0 of a single unit."""
    return np.cov(samples_BM, rowvar=False) * units / max(units - 1, 1)


def combined_covariance(
    *, by_case: np.ndarray, by_cell: np.ndarray, by_reader: np.ndarray, units: tuple[int, int], fixed: bool
) -> tuple[np.ndarray, float, tuple[float, float] | None]:
    """Covariance of M numbers over readers and cases from those of three bootstraps, and its degrees of freedom.

    Relative to the variance of cells, that of readers is r = 1 + what readers add, that of cases c = 1 + what cases
    add, and the sum of all is 1 + (r - 1) + (c - 1). Where r or c falls below 1 by chance, it adds nothing. The
    covariance of cells is multiplied by this one number, since a sum and difference of three estimated matrices may
    have negative variances; it supposes that readers and cases add alike to all methods.

    Args:
        by_case, by_cell, by_reader: covariances [M, M] when cases, cells and readers are resampled.
        units: numbers of readers and cases, for the degrees of freedom.
        fixed: the readers are those of whom one wants to know; a single reader always is.

    Returns:
        Covariance, degrees of freedom, and the variances of readers and cases over that of cells (None if fixed).
    """
    readers, cases = units
    if fixed or readers < 2:
        return by_case, cases - 1.0, None
    r, c = (float(np.trace(one) / max(np.trace(by_cell), 1e-300)) for one in (by_reader, by_case))
    factor = max(r, 1.0) + max(c, 1.0) - 1
    methods = len(by_case)
    free = [(n - 1) * (methods - 1) for n in units]
    spread = r**2 / free[0] + c**2 / free[1]
    dof = factor**2 / spread if spread else float(max(free))  # Satterthwaite 1946; 0: all readers and cases agree
    return by_cell * factor, dof, (r, c)


def _estimates(values_M: np.ndarray, cov: np.ndarray, dof: float) -> tuple[Estimate, ...]:
    reach = float(stdtrit(max(dof, 1.0), 0.975)) * np.sqrt(np.diag(cov))
    return tuple(
        Estimate(value=float(v), low=float(v - r), high=float(v + r)) for v, r in zip(values_M, reach, strict=True)
    )


def _differences(values_M: np.ndarray, cov: np.ndarray, dof: float) -> tuple[tuple[Estimate, ...], ...]:
    rows = []
    for i in range(len(values_M)):
        contrast = np.zeros((len(values_M), len(values_M)))
        contrast[:, i] += 1
        contrast -= np.eye(len(values_M))
        rows.append(_estimates(contrast @ values_M, contrast @ cov @ contrast.T, dof))
    return tuple(rows)
