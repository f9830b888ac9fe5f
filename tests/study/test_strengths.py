"""Bradley-Terry strengths with ties: closed forms, an oracle, and simulated studies."""

import math

import numpy as np
import pytest

from moediff.core.errors import DataError
from moediff.study.simulate import SimulatedStudy, simulate_counts
from moediff.study.strengths import estimate, fit, numpy_rng, probabilities

TRUTH = (-0.6, -0.2, 0.1, 0.7)
LOG_TIES = -0.5


def test_two_methods_have_a_closed_form():
    s_a, s_b, log_ties = fit(np.array([[[60.0, 20.0, 20.0]]]), prior_sd=1e4)[0]
    assert s_a - s_b == pytest.approx(math.log(3), abs=1e-3) and s_a + s_b == pytest.approx(0, abs=1e-6)
    assert log_ties == pytest.approx(math.log(20 / math.sqrt(60 * 20)), abs=1e-2)


def test_shares_give_their_own_strengths_back():
    s = fit(1e6 * probabilities(TRUTH, LOG_TIES)[None])[0]
    assert np.allclose(s, [*TRUTH, LOG_TIES], atol=1e-4)


def test_without_ties_it_is_bradley_terry_as_choix_fits_it():
    choix = pytest.importorskip("choix")
    study = SimulatedStudy(log_strength=TRUTH, log_ties=-math.inf, readers=3, cases=10)
    counts = simulate_counts(study, numpy_rng(1, "oracle")).sum((0, 1))
    assert counts[:, 1].sum() == 0
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    games = [
        game for (i, j), (a, _, b) in zip(pairs, counts, strict=True) for game in [(i, j)] * int(a) + [(j, i)] * int(b)
    ]
    expected = choix.opt_pairwise(4, games)
    found = fit(counts[None], ties=False, prior_sd=1e4)[0, :4]
    assert np.allclose(found, expected - expected.mean(), atol=1e-4)


def test_a_method_that_always_wins_gets_a_finite_strength():
    counts = np.zeros((2, 5, 1, 3))
    counts[..., 0] = 1
    strengths = estimate(counts, draws=50)
    (first, _) = strengths.log_strength
    assert 0.5 < first.value < 10 and math.isfinite(first.low) and math.isfinite(first.high)


def test_one_reader_is_a_fixed_one_and_one_case_too_few():
    counts = simulate_counts(SimulatedStudy(log_strength=TRUTH, log_ties=-1, readers=1, cases=8), numpy_rng(0))
    assert estimate(counts, draws=50).readers == "fixed"
    with pytest.raises(DataError, match="two or more"):
        estimate(counts[:, :1])


def test_differences_are_antisymmetric_and_readers_that_differ_widen_intervals():
    alike = SimulatedStudy(log_strength=TRUTH, log_ties=LOG_TIES, readers=6, cases=12)
    differ = SimulatedStudy(log_strength=TRUTH, log_ties=LOG_TIES, readers=6, cases=12, reader_sd=1.0)
    one, two = (estimate(simulate_counts(s, numpy_rng(3)), draws=200) for s in (alike, differ))
    assert one.difference[0][3].value == pytest.approx(-one.difference[3][0].value)
    assert one.difference[0][3].low == pytest.approx(-one.difference[3][0].high)
    assert one.difference[1][1].high == pytest.approx(0)
    assert two.reader_variance > 2 * one.reader_variance
    width = [s.log_strength[0].high - s.log_strength[0].low for s in (one, two)]
    assert width[1] > 1.5 * width[0]


def simulated(study, number, readers, key):
    """Errors and whether intervals hold the truth, of `number` simulated studies."""
    errors, held = [], []
    for seed in range(number):
        counts = simulate_counts(study, numpy_rng(seed, key))
        found = estimate(counts, readers=readers, draws=200, seed=seed).log_strength
        errors.append([one.value - truth for one, truth in zip(found, study.log_strength, strict=True)])
        held.append([one.low <= truth <= one.high for one, truth in zip(found, study.log_strength, strict=True)])
    return np.array(errors), np.array(held)


SETTINGS = {
    "two scripted readers": (SimulatedStudy(log_strength=TRUTH, log_ties=LOG_TIES, readers=2, cases=12), "fixed"),
    "readers and cases differ": (
        SimulatedStudy(log_strength=TRUTH, log_ties=LOG_TIES, readers=6, cases=20, reader_sd=0.25, case_sd=0.25),
        "random",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_simulated_studies_find_what_was_put_in(name):
    """Bias below 0.1 in log-strength; 95 % intervals hold the truth in 93 to 97 % of 200 studies."""
    errors, held = simulated(*SETTINGS[name][:1], 200, SETTINGS[name][1], name)
    assert np.abs(errors.mean(0)).max() < 0.1
    assert 0.93 <= held.mean() <= 0.97
