"""Known answers for schedule, noise levels and samplers."""

import math

import pytest
import torch
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.diffusion.samplers import DEFAULT_SAMPLER, SAMPLERS, dpm_solver, euler, evaluations, heun
from moediff.diffusion.schedule import DiffusionConfig, draw_sigma, loss_weight, schedule


def gaussian(spread):
    """The exact denoiser of data N(0, spread^2)."""
    return lambda x, sigma: x * spread**2 / (spread**2 + sigma**2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_returns_the_answer_of_a_perfect_denoiser(name):
    truth = torch.rand(2, 8, 8, 8)
    x = truth + 80 * torch.randn(truth.shape)
    assert_close(SAMPLERS[name](lambda x, sigma: truth, x, [80.0, 5.0, 0.0]), truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "off"), [("dpm-solver++", 0.1), ("heun", 0.1), ("euler", 0.2)])
def test_every_sampler_draws_the_right_spread_from_a_gaussian(name, off):
    spread, sigmas = 0.05, schedule(40, 0.05, DiffusionConfig())
    x = sigmas[0] * torch.randn(200_000, generator=rng_for(0))
    assert float(SAMPLERS[name](gaussian(spread), x, sigmas).std()) == pytest.approx(spread, rel=off)


def test_second_order_comes_nearer_to_the_right_spread_than_first_order():
    """Between two noise levels of a Gaussian the exact x shrinks by sqrt of the ratio of variances."""
    spread, sigmas = 0.05, schedule(8, 0.05, DiffusionConfig())[:-1]
    exact = math.sqrt((spread**2 + sigmas[-1] ** 2) / (spread**2 + sigmas[0] ** 2))
    off = {f: abs(float(f(gaussian(spread), torch.ones(1), sigmas)) / exact - 1) for f in (dpm_solver, heun, euler)}
    assert off[dpm_solver] < 0.5 * off[euler] and off[heun] < 0.5 * off[euler]


def test_one_euler_step_by_hand():
    """Half way down, x loses half of what the denoiser takes for noise."""
    x = euler(lambda x, sigma: torch.full_like(x, 1.0), torch.tensor([5.0]), [2.0, 1.0])
    assert float(x) == 3.0


def test_how_often_each_sampler_calls_the_denoiser():
    sigmas = [4.0, 2.0, 1.0, 0.0]
    assert {name: evaluations(f, sigmas) for name, f in SAMPLERS.items()} == {"dpm-solver++": 3, "heun": 5, "euler": 3}
    assert SAMPLERS[DEFAULT_SAMPLER] is dpm_solver


def test_schedule_falls_to_zero():
    sigmas = schedule(6, 0.05, DiffusionConfig())
    assert len(sigmas) == 7
    assert sigmas[0] == pytest.approx(20 * 0.05)
    assert sigmas[-2] == pytest.approx(0.05 * 0.05)
    assert sigmas[-1] == 0
    assert sigmas == sorted(sigmas, reverse=True)
    with pytest.raises(ConfigError):
        schedule(0, 0.05, DiffusionConfig())


def test_noise_levels_have_the_share_at_the_top():
    drawn = draw_sigma(20_000, 0.05, DiffusionConfig(probability_sigma_max=0.6), rng_for(0))
    assert float((drawn == 1.0).float().mean()) == pytest.approx(0.6, abs=0.02)
    rest = (drawn[drawn < 1.0] / 0.05).log()
    assert float(rest.mean()) == pytest.approx(-0.3, abs=0.05)


def test_loss_weight_is_karras():
    assert float(loss_weight(torch.tensor([0.1]), 0.05)) == pytest.approx((0.1**2 + 0.05**2) / (0.1 * 0.05) ** 2)
    assert math.isclose(float(loss_weight(torch.tensor([1e3]), 0.05)), 1 / 0.05**2, rel_tol=1e-3)


@pytest.mark.parametrize("values", [{"sigma_min": 0}, {"sigma_min": 30}, {"probability_sigma_max": 2}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError):
        DiffusionConfig(**values)
