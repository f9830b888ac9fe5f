"""Least squares over several scans, against a dense solution of the same problem."""

import math

import numpy as np
import torch
from torch.testing import assert_close

from moediff.acquisition import combine
from moediff.acquisition.combine import ErrorPrior, Measurement, consistent, weighted_mean
from moediff.acquisition.degrade import degrade
from moediff.acquisition.placed import placed_acquisition
from moediff.acquisition.recipe import AxisRecipe, Recipe, recipe_for
from moediff.acquisition.wiener import CORRELATION_VOX, VARIANCE, wiener
from moediff.core.geometry import axis_positions, resample, with_spacing
from moediff.core.volume import Grid, Volume
from moediff.registration.rigid import Rigid, grid_centre_mm

SHAPE = (10, 9, 8)
COMMON = Grid(SHAPE, torch.eye(4, dtype=torch.float64))
SIZE = math.prod(SHAPE)


def dense(operator, n_in, shape) -> np.ndarray:
    """A matrix from its action on unit vectors."""
    columns = []
    for index in range(n_in):
        unit = torch.zeros(n_in)
        unit[index] = 1
        columns.append(operator(unit.reshape(shape)).flatten().numpy())
    return np.stack(columns, 1).astype(float)


def test_the_step_is_the_posterior_mean_of_a_dense_solution(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    mean, deviation = torch.rand(SHAPE, generator=rng), 0.05 + 0.1 * torch.rand(SHAPE, generator=rng)
    turned = Rigid.of((2, -3, 4), (0.3, 0.2, -0.4), grid_centre_mm(COMMON)).placed_grid(with_spacing(COMMON, (3, 1, 1)))
    scans = [with_spacing(COMMON, (1, 1, 4)), turned]
    measurements = [
        Measurement(Volume(torch.rand(scan.shape, generator=rng), scan.affine), noise, COMMON)
        for scan, noise in zip(scans, (0.02, 0.03), strict=True)
    ]
    prior = ErrorPrior(deviation)
    to_field = dense(prior.field, SIZE, SHAPE)
    covariance = to_field @ np.diag(prior.power_XYZ.flatten().double().numpy()) @ to_field.T
    normal, right = np.linalg.inv(covariance), np.zeros(SIZE)
    for m in measurements:
        model = placed_acquisition(COMMON, m.scan.grid)
        matrix = dense(model.apply, SIZE, SHAPE)
        weight = m.precision().flatten().double().numpy()
        normal += matrix.T @ (weight[:, None] * matrix)
        right += matrix.T @ (weight * m.gap(mean).flatten().double().numpy())
    expected = mean + torch.from_numpy(np.linalg.solve(normal, right)).reshape(SHAPE).float()
    assert float((expected - mean).abs().max()) > 0.1
    few = consistent(mean, deviation, measurements).result_XYZ
    assert float((few - expected).norm()) < 0.5 * float((mean - expected).norm())
    monkeypatch.setattr(combine, "CLOSE_ENOUGH", 0.0)
    assert_close(consistent(mean, deviation, measurements, steps=150).result_XYZ, expected, atol=2e-3, rtol=0)


def test_the_prior_is_an_exponential_correlation_away_from_the_ends():
    shape = (33, 1, 1)
    prior = ErrorPrior(torch.ones(shape))
    unit = torch.zeros(shape)
    unit[16] = 1
    row = prior.field(prior.power_XYZ * prior.coefficients(unit))[:, 0, 0]
    expected = torch.exp(-(torch.arange(33) - 16).abs() / CORRELATION_VOX)
    assert_close(row / row[16], expected, atol=2e-3, rtol=0)


def test_the_weighted_mean_follows_precision_and_skips_what_was_not_measured():
    means = [torch.tensor([[[1.0, 1.0, 1.0]]]), torch.tensor([[[3.0, 3.0, 3.0]]])]
    precisions = [torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[3.0, 2.0, 0.0]]])]
    mean, precision = weighted_mean(means, precisions)
    assert_close(mean, torch.tensor([[[2.5, 3.0, 2.0]]]))
    assert_close(precision, torch.tensor([[[2.0, 2.0, 0.0]]]))


def test_nothing_changes_where_nothing_may():
    mean = torch.rand(SHAPE)
    measurement = Measurement(Volume(torch.rand(SHAPE), COMMON.affine), 0.01, COMMON)
    deviation = torch.zeros(SHAPE)
    assert consistent(mean, deviation, [measurement]).result_XYZ is mean
    deviation[:5] = 0.1
    result = consistent(mean, deviation, [measurement]).result_XYZ
    assert_close(result[5:], mean[5:], atol=0, rtol=0)
    assert not torch.allclose(result[:5], mean[:5], atol=1e-3)


def test_distrusted_samples_have_no_say():
    mean, deviation = torch.full(SHAPE, 0.5), torch.full(SHAPE, 0.1)
    scan = torch.full(SHAPE, 0.5)
    scan[..., 4] = 2.0
    trust = torch.ones(SHAPE)
    trust[..., 4] = 0
    measurement = Measurement(Volume(scan, COMMON.affine), 0.01, COMMON, trust)
    assert_close(consistent(mean, deviation, [measurement]).result_XYZ, mean, atol=1e-5, rtol=0)


def test_with_one_scan_the_step_is_that_of_a_single_scan(phantom, monkeypatch):
    """Data consistency of one scan is the closed form of this step, under a deviation that is the same everywhere."""
    truth, variance = phantom.with_data(phantom.data_XYZ / phantom.data_XYZ.max()), 1e-3
    low = degrade(truth, recipe_for("thick5"), torch.Generator().manual_seed(0))
    start_XYZ = resample(low, truth.grid, "cubic").data_XYZ
    measurement = Measurement(low, 0.01, truth.grid)
    deviation_XYZ = torch.full(truth.shape, variance**0.5)
    monkeypatch.setattr(combine, "CLOSE_ENOUGH", 0.0)
    step_XYZ = consistent(start_XYZ, deviation_XYZ, [measurement], steps=30).result_XYZ - start_XYZ
    positions = axis_positions(low.grid, truth.grid)
    assert positions is not None
    closed_XYZ = wiener(measurement.gap(start_XYZ), positions, 0.01 * (VARIANCE / variance) ** 0.5)
    inner = tuple(slice(8, -8) for _ in range(3))  # the ends of the field of view are mirrored in one of them only
    assert float(closed_XYZ[inner].norm()) > 0.5
    assert float((step_XYZ - closed_XYZ)[inner].norm()) < 0.05 * float(closed_XYZ[inner].norm())


def test_ringing_whose_sign_scans_have_lost_is_no_contradiction():
    """A bright block in air, truncated along two axes: the truth explains both magnitudes and is left alone."""
    truth_XYZ = torch.zeros(32, 32, 32)
    truth_XYZ[8:22, 9:23, 8:22] = 0.7
    truth = Volume(truth_XYZ, torch.eye(4, dtype=torch.float64))
    half, none = AxisRecipe(method="truncate", factor=2), AxisRecipe()
    measurements = []
    for axes in ((half, half, none), (none, half, half)):
        low = degrade(truth, Recipe(axes=axes, noise=1e-6), torch.Generator().manual_seed(0), reference=1.0)
        assert float(low.data_XYZ.min()) >= 0
        measurements.append(Measurement(low, 0.002, truth.grid))
    for one in measurements:
        again_XYZ = one.acquired(truth_XYZ)
        assert float(again_XYZ.min()) < -0.02
        assert float(one.gap(truth_XYZ).abs().max()) < 1e-4
    deviation_XYZ = torch.full(truth.shape, 0.03)
    moved_XYZ = consistent(truth_XYZ, deviation_XYZ, measurements).result_XYZ - truth_XYZ
    assert float(moved_XYZ.abs().max()) < 1e-3
