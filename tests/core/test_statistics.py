"""Picked voxels, exact sums and order statistics against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.statistics import (
    RUN,
    energy,
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
    values[:: MANY // (1 << 14)] = 0  # all that the sample sees
    assert kth(values, MANY) == 1 and median(values) == 1
    assert kth(values, 1) == 0


def test_quantiles_and_medians_of_few_values():
    few = torch.tensor([3.0, 1.0, 2.0, 4.0])
    assert median(few) == float(few.median()) == 2
    assert exact_quantile(few, 0.999) == 4 and exact_quantile(few, 0.0) == 1 and exact_quantile(few, 0.5) == 2
    assert quantile(few, 0.5) == 2.5 and quantile(few, 1.0) == 4 and quantile(few, 0.1) == pytest.approx(1.3)


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
