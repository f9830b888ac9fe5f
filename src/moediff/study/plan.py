"""Sample size of a reader study by simulation: power for each number of readers and cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moediff.core.errors import ConfigError
from moediff.study.agreement import wilson
from moediff.study.simulate import SimulatedStudy, simulate_counts
from moediff.study.strengths import Estimate, estimate, numpy_rng

DRAWS = 200  # of the bootstrap in each simulated study
MOST = 200  # readers, cases


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is expected of the study.

    Args:
        preference: share of comparisons, without ties, that the better method wins.
        ties: share of "no difference" between equal methods.
        methods: the better one, and others that are equal to each other.
        reader_sd, case_sd: standard deviation of log-strengths between readers and between cases.
        simulations: studies for each size.
        seed: of the simulation.
    """

    preference: float = 0.65
    ties: float = 0.2
    methods: int = 2
    reader_sd: float = 0.3
    case_sd: float = 0.3
    simulations: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.preference < 1 or not 0 <= self.ties < 1:
            raise ConfigError(
                f"preference={self.preference}, ties={self.ties}: expected 0.5 to 1, and 0 to 1, without 1"
            )
        if not 2 <= self.methods <= 10 or self.simulations < 1 or min(self.reader_sd, self.case_sd) < 0:
            raise ConfigError(
                f"methods={self.methods}, simulations={self.simulations}, standard deviations {self.reader_sd} and "
                f"{self.case_sd}: expected 2 to 10, at least 1, and no negative number"
            )

    @property
    def difference(self) -> float:
        """Log-strength of the better method minus that of the others."""
        return math.log(self.preference / (1 - self.preference))

    @property
    def log_ties(self) -> float:
        """Davidson's log v."""
        return math.log(2 * self.ties / (1 - self.ties)) if self.ties else -math.inf


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One size of study.

    Args:
        answers: forced choices of one reader, without training, repetitions and catch trials.
        power: share of simulated studies whose 95 % interval of the difference lies above 0.
        half_width: mean half width of that interval, in log-strength.
    """

    readers: int
    cases: int
    answers: int
    power: Estimate
    half_width: float


def plan_sizes(
    assumptions: Assumptions, readers: Sequence[int], cases: Sequence[int], progress: Callable[[float, str], None]
) -> list[PlanRow]:
    """The power of every combination.

    Raises:
        ConfigError: a number is too small or too large.
    """
    lists = ((readers, 1), (cases, 2))
    if not all(numbers and least <= min(numbers) and max(numbers) <= MOST for numbers, least in lists):
        raise ConfigError(f"readers {list(readers)}, cases {list(cases)}: expected 1 to {MOST} and 2 to {MOST}")
    sizes = [(r, c) for r in readers for c in cases]
    rows = []
    for position, (r, c) in enumerate(sizes):
        progress(position / len(sizes), f"{r} readers, {c} cases")
        rows.append(_row(assumptions, r, c))
    return rows


def _row(assumptions: Assumptions, readers: int, cases: int) -> PlanRow:
    gap, methods = assumptions.difference, assumptions.methods
    study = SimulatedStudy(
        log_strength=[gap, *[0.0] * (methods - 1)],
        log_ties=assumptions.log_ties,
        readers=readers,
        cases=cases,
        reader_sd=assumptions.reader_sd,
        case_sd=assumptions.case_sd,
    )
    detected, width = 0, 0.0
    for number in range(assumptions.simulations):
        tallies = simulate_counts(study, numpy_rng(assumptions.seed, "plan", readers, cases, number))
        one = estimate(tallies, ties=assumptions.ties > 0, draws=DRAWS, seed=number).difference[0][1]
        detected += one.low > 0
        width += (one.high - one.low) / 2
    power = wilson(detected, assumptions.simulations)
    assert power is not None
    answers = cases * methods * (methods - 1) // 2
    return PlanRow(
        readers=readers, cases=cases, answers=answers, power=power, half_width=width / assumptions.simulations
    )


def smallest(rows: Sequence[PlanRow], power: float) -> PlanRow | None:
    """The size that needs the fewest answers altogether and reaches this power."""
    enough = [row for row in rows if row.power.value >= power]
    return min(enough, key=lambda row: (row.readers * row.answers, row.readers), default=None)
