"""Picked voxels, exact sums and order statistics against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.statistics import (
    RUN,
    energy,
    even_step,
    exact_quantile,
    kth,
    mean,
    median,
    picked,
    quantile,
    runs,
)

MANY = 100_003  # more than are sorted at once, and no multiple of a run


@pytest.fixture(params=["even", "ties", "far", "sorted"])
def values(request) -> torch.Tensor:
    uniform = torch.rand(MANY, generator=rng_for(0, "values"))
    return {
        "even": uniform,
        "ties": (uniform * 5).round(),  # most values are one of six
        "far": torch.where(uniform > 0.5, uniform * 1e6, uniform),
        "sorted": uniform.sort().values,
    }[request.param]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.5, 0.999, 1.0])
def test_the_kth_value_is_that_of_sorting(values, share):
    k = max(1, round(share * MANY))
    assert kth(values, k) == float(values.sort().values[k - 1])


def test_a_misleading_sample_changes_nothing():
    values = torch.ones(MANY)
    values[:: even_step(MANY, 1 << 14)] = 0  # all that the sample sees
    assert kth(values, MANY) == 1 and median(values) == 1
    assert kth(values, 1) == 0


def test_quantiles_and_medians_of_few_values():
    few = torch.tensor([3.0, 1.0, 2.0, 4.0])
    assert median(few) == float(few.median()) == 2
    assert exact_quantile(few, 0.999) == 4 and exact_quantile(few, 0.0) == 1 and exact_quantile(few, 0.5) == 2
    assert quantile(few, 0.5) == 2.5 and quantile(few, 1.0) == 4 and quantile(few, 0.1) == pytest.approx(1.3)


@pytest.mark.parametrize("shape", [(64, 64, 32), (64, 60, 45), (256, 256, 60), (128, 128, 105)])
def test_a_subset_holds_as_much_of_every_plane(shape):
    count, most = math.prod(shape), 2 * shape[0] * shape[1]  # a plain step reads two slices, or three
    step = even_step(count, most)
    assert count / step == pytest.approx(most, rel=0.1)
    index = np.unravel_index(np.arange(0, count, step), shape)
    for n, at in zip(shape, index, strict=True):
        planes = np.bincount(at, minlength=n)
        assert planes.max() - planes.min() <= max(2, 0.1 * planes.max())


def test_few_values_are_all_read():
    assert {even_step(count, 1000) for count in (0, 1, 999, 1000, 1999)} == {1}


def test_quantiles_see_all_slices(monkeypatch):
    monkeypatch.setattr("moediff.core.statistics.MAX_SAMPLES", 2_048)
    data = torch.arange(32.0).expand(64, 64, 32)  # every slice its number; a step of 64 reads the first alone
    assert quantile(data, 0.5) == pytest.approx(15.5, abs=1)
    assert quantile(data, 1.0) == 31


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_sums_are_numpys_and_leave_the_values_alone(values, kind):
    values = values.to(kind)
    before, exact = values.clone(), values.double().numpy()
    assert mean(values) == pytest.approx(exact.mean(), rel=1e-12)
    assert energy(values, 0.5) == pytest.approx(np.square(exact - 0.5).sum(), rel=1e-12)
    assert sum(len(run) for run in runs(values, 2.0)) == MANY > RUN
    assert torch.equal(values, before)


def test_picked_voxels_keep_their_order():
    data = torch.rand((5, 6, 7), generator=rng_for(0)).permute(2, 0, 1)  # not in one piece
    mask = data > 0.3
    assert torch.equal(picked(data, mask), data[mask])
