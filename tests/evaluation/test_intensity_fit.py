"""The fitted intensities: known gains found again, outliers resisted, nonsense refused."""

import math

import pytest
import torch
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.evaluation.intensity_fit import Fit, fit_intensities

TRUTH = torch.rand(20_000, generator=rng_for(0)) * 900 + 50


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.01, -3.0), (250.0, 4000.0)])
def test_a_known_gain_and_offset_are_undone(gain, offset):
    pred = gain * TRUTH + offset
    fit = fit_intensities(pred, TRUTH)
    assert fit.gain == pytest.approx(1 / gain, rel=1e-4)
    assert_close(fit.apply(pred), TRUTH, atol=0.05, rtol=1e-4)


def test_outliers_hardly_move_the_fit():
    noisy = TRUTH + 5 * torch.randn(TRUTH.shape, generator=rng_for(1))
    spoilt = noisy.clone()
    spoilt[::20] += 2000  # 5 %, far off
    clean, robust = fit_intensities(noisy, TRUTH), fit_intensities(spoilt, TRUTH)
    x, y = spoilt.double(), TRUTH.double()
    plain = float(((x - x.mean()) * (y - y.mean())).mean() / (x - x.mean()).square().mean())
    assert robust.gain == pytest.approx(clean.gain, rel=0.02)
    assert abs(plain - clean.gain) > 0.5  # plain least squares fails here


def test_gaussian_errors_give_nearly_least_squares():
    pred = TRUTH + 50 * torch.randn(TRUTH.shape, generator=rng_for(2))
    x, y = pred.double(), TRUTH.double()
    plain = float(((x - x.mean()) * (y - y.mean())).mean() / (x - x.mean()).square().mean())
    assert fit_intensities(pred, TRUTH).gain == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize(
    ("pred", "truth", "match"),
    [
        (torch.ones(100), TRUTH[:100], "prediction is constant"),
        (TRUTH[:100], torch.ones(100), "reference is constant"),
        (-TRUTH, TRUTH, "gain -1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(pred, truth, match):
    with pytest.raises(DataError, match=match):
        fit_intensities(pred, truth)


def test_no_fit_changes_nothing():
    assert torch.equal(Fit().apply(TRUTH), TRUTH)
    assert math.isclose(Fit(2.0, 1.0).apply(torch.tensor(3.0)).item(), 7.0)
