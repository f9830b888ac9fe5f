"""Random draws: range, one number each, and the distribution."""

from __future__ import annotations

import math

import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.random import log_uniform, uniform


def test_draws_lie_in_their_range_and_spread_evenly():
    rng = rng_for(0)
    plain = [uniform(rng, -2, 4) for _ in range(4000)]
    logs = [math.log(log_uniform(rng, 0.01, 100)) for _ in range(4000)]
    for values, low, high in ((plain, -2, 4), (logs, math.log(0.01), math.log(100))):
        assert low <= min(values) and max(values) <= high
        assert sum(values) / 4000 == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_every_draw_takes_one_number():
    one, other = rng_for(1), rng_for(1)
    uniform(one, 3, 5), log_uniform(one, 3, 5)
    torch.rand(2, generator=other)
    assert uniform(one) == uniform(other)
