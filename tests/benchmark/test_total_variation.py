"""Total variation: known minimisers, a falling energy, and a better result than interpolation where it should win."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.degrade import degrade
from moediff.acquisition.operators import sampling_matrix
from moediff.acquisition.recipe import thick_slices
from moediff.benchmark import total_variation as tv
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, GeometryError
from moediff.core.geometry import resample
from moediff.core.resample import apply_axes, sample_positions
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import psnr

EVERY = (1.0, 1.0, 1.0)
NO_OPERATOR = (None, None, None)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng_for(0, "tv", *shape))


def boxes(n: int = 30) -> torch.Tensor:
    """Two nested boxes, 0 outside, 1 and 0.5 inside."""
    data = torch.zeros(n, n, n)
    data[6:-6, 6:-6, 6:-6] = 1
    data[12:-12, 12:-12, 14:-12] = 0.5
    return data


def test_the_adjoint_is_the_transpose():
    spacing = (1.0, 0.5, 2.0)
    x, field = noise(5, 6, 7).double(), noise(3, 5, 6, 7).double()
    assert_close((tv.gradient(x, spacing) * field).sum(), (x * tv.gradient_adjoint(field, spacing)).sum())


def test_total_variation_of_a_step_is_its_area_times_its_height():
    data = torch.zeros(8, 5, 6)
    data[4:] = 3
    assert tv.total_variation(data, EVERY) == pytest.approx(3 * 5 * 6)
    assert tv.total_variation(data, (2.0, 1.0, 1.0)) == pytest.approx(3 * 5 * 6 / 2)


def test_without_weight_the_measured_scan_is_the_answer():
    measured = noise(8, 9, 10)
    result = tv.minimise(tv.Problem(measured, NO_OPERATOR, EVERY, 0.0), torch.zeros_like(measured))
    assert_close(result.data_XYZ, measured, atol=1e-4, rtol=0)


def test_without_weight_the_answer_acquired_again_is_the_measured_scan():
    matrix = sampling_matrix(12, sample_positions(8, 1.5, 0.25), "truncate", 1.5)
    measured = noise(8, 6, 6)
    result = tv.minimise(tv.Problem(measured, (matrix, None, None), EVERY, 0.0), torch.zeros(12, 6, 6))
    assert_close(apply_axes(result.data_XYZ, (matrix, None, None)), measured, atol=1e-3, rtol=0)


def test_a_step_moves_together_by_the_weight_over_its_widths(monkeypatch):
    """The closed form in one dimension: levels a < b of n1 and n2 samples become a + w / n1 and b - w / n2."""
    monkeypatch.setattr(tv, "CONVERGED", 0.0)
    measured = torch.zeros(12, 4, 4)
    measured[4:] = 1
    result = tv.minimise(tv.Problem(measured, NO_OPERATOR, EVERY, 0.4), measured, iterations=1000)
    expected = torch.full((12, 4, 4), 1 - 0.4 / 8)
    expected[:4] = 0.4 / 4
    assert_close(result.data_XYZ, expected, atol=5e-3, rtol=0)


def test_a_constant_scan_stays():
    measured = torch.full((6, 7, 8), 2.5)
    assert_close(tv.minimise(tv.Problem(measured, NO_OPERATOR, EVERY, 0.3), measured).data_XYZ, measured)


@pytest.mark.parametrize("weight", [0.003, 0.03])
def test_the_energy_only_falls_and_ends_near_that_of_a_long_run(weight, monkeypatch):
    matrix = sampling_matrix(18, sample_positions(12, 1.5, 0.25), "truncate", 1.5)
    truth = boxes(30)[:18, :18, :18]
    measured = apply_axes(truth, (matrix,) * 3) + 0.05 * noise(12, 12, 12)
    problem = tv.Problem(measured, (matrix,) * 3, EVERY, weight)
    start = apply_axes(measured, (matrix.T,) * 3)
    short = tv.minimise(problem, start)
    assert all(after < before for before, after in zip(short.energies, short.energies[1:], strict=False))
    assert problem.energy(short.data_XYZ) == pytest.approx(short.energies[-1])
    monkeypatch.setattr(tv, "CONVERGED", 0.0)
    long = tv.minimise(problem, start, iterations=800)
    assert short.energies[-1] < 1.02 * long.energies[-1]


def test_a_piecewise_constant_head_is_restored_better_than_by_cubic():
    truth = Volume(boxes() * 1000, torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64)))
    low = degrade(truth, thick_slices(3, 0.02, "thick"), rng_for(0, "boxes"))
    everywhere = torch.ones(truth.shape, dtype=torch.bool)
    ours, cubic = (
        psnr(v.data_XYZ, truth.data_XYZ, everywhere, 1000.0)
        for v in (tv.super_resolve(low, truth.grid), resample(low, truth.grid))
    )
    assert ours > cubic + 1


def test_impossible_problems_are_refused():
    measured = torch.zeros(4, 4, 4)
    with pytest.raises(ConfigError, match="weight"):
        tv.Problem(measured, NO_OPERATOR, EVERY, -1.0)
    with pytest.raises(GeometryError, match="expected the measured"):
        tv.minimise(tv.Problem(measured, NO_OPERATOR, EVERY, 1.0), torch.zeros(5, 4, 4))
