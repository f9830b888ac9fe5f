"""Known answers for schedule, noise levels and sampler."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.diffusion.samplers import sample
from moediff.diffusion.schedule import ProcessConfig, draw_sigma, loss_weight, schedule


def test_sampler_returns_the_answer_of_a_perfect_denoiser():
    truth = torch.rand(2, 8, 8, 8)
    x = truth + 80 * torch.randn(truth.shape)
    assert_close(sample(lambda x, sigma: truth, x, [80.0, 5.0, 0.0]), truth)


def test_sampler_draws_the_right_spread_from_a_gaussian():
    """For data N(0, s^2) the exact D is c_skip x, and samples must end near standard deviation s."""
    spread, sigmas = 0.05, schedule(40, 0.05, ProcessConfig())
    x = sigmas[0] * torch.randn(200_000, generator=rng_for(0))
    drawn = sample(lambda x, sigma: x * spread**2 / (spread**2 + sigma**2), x, sigmas)
    assert float(drawn.std()) == pytest.approx(spread, rel=0.1)


def test_few_steps_come_nearer_to_the_right_spread_than_first_order_ones():
    """Between two noise levels of a Gaussian the exact x shrinks by sqrt of the ratio of variances."""
    spread, sigmas = 0.05, schedule(8, 0.05, ProcessConfig())[:-1]
    exact = math.sqrt((spread**2 + sigmas[-1] ** 2) / (spread**2 + sigmas[0] ** 2))

    def gain(solve) -> float:
        return float(solve(lambda x, sigma: x * spread**2 / (spread**2 + sigma**2), torch.ones(1), sigmas))

    def first_order(denoise, x, levels):
        for sigma, after in pairwise(levels):
            x = denoise(x, sigma) + (after / sigma) * (x - denoise(x, sigma))
        return x

    assert abs(gain(sample) / exact - 1) < 0.5 * abs(gain(first_order) / exact - 1)


def test_schedule_falls_to_zero():
    sigmas = schedule(6, 0.05, ProcessConfig())
    assert len(sigmas) == 7
    assert sigmas[0] == pytest.approx(20 * 0.05)
    assert sigmas[-2] == pytest.approx(0.05 * 0.05)
    assert sigmas[-1] == 0
    assert sigmas == sorted(sigmas, reverse=True)
    with pytest.raises(ConfigError):
        schedule(0, 0.05, ProcessConfig())


def test_noise_levels_have_the_share_at_the_top():
    drawn = draw_sigma(20_000, 0.05, ProcessConfig(share_at_max=0.6), rng_for(0))
    assert float((drawn == 1.0).float().mean()) == pytest.approx(0.6, abs=0.02)
    rest = (drawn[drawn < 1.0] / 0.05).log()
    assert float(rest.mean()) == pytest.approx(-0.3, abs=0.05)


def test_loss_weight_is_karras():
    assert float(loss_weight(torch.tensor([0.1]), 0.05)) == pytest.approx((0.1**2 + 0.05**2) / (0.1 * 0.05) ** 2)
    assert math.isclose(float(loss_weight(torch.tensor([1e3]), 0.05)), 1 / 0.05**2, rel_tol=1e-3)


@pytest.mark.parametrize("values", [{"sigma_min": 0}, {"sigma_min": 30}, {"share_at_max": 2}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError):
        ProcessConfig(**values)
