"""The noise that the network is told: right in smooth tissue, whatever lies around it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moediff.acquisition.degrade import rician
from moediff.acquisition.noise import MIDDLE, median_noise, noise_sigma, quiet_noise
from moediff.acquisition.normalisation import foreground
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.core.geometry import centre_crop
from moediff.core.volume import Volume

SIGMA = 0.03


def head(shape: tuple[int, int, int] = (64, 64, 48), sigma: float = SIGMA) -> torch.Tensor:
    """Air, a smooth ball at the brain's median, a rough shell around its core, Rician noise everywhere."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = (x**2 + y**2 + z**2).sqrt()
    smooth = 0.5 + 0.1 * torch.sin(2 * x + y) * torch.cos(z)
    rough = smooth * (1 + 0.5 * torch.rand(shape, generator=rng_for(1)).round())
    sharp = torch.where(radius < 0.6, smooth, rough) * (radius < 0.9)
    return rician(sharp, sigma, rng_for(2))


@pytest.mark.parametrize("sigma", [0.005, 0.03, 0.1])
def test_the_noise_of_quiet_tissue_is_found_beside_rough_tissue_and_air(sigma):
    """A little high: where only a third of the tissue is quiet, its twentieth is the sixth part of that third."""
    assert sigma < float(quiet_noise(head(sigma=sigma))) < 1.35 * sigma


def test_air_does_not_count_as_it_does_in_a_median():
    """Magnitudes of air hold two thirds of the noise of tissue."""
    scan = head()
    scan[32:] = rician(torch.zeros_like(scan[32:]), SIGMA, rng_for(6))
    around = F.pad(scan, (0, 0, 0, 0, 0, 96))
    around[64:] = rician(torch.zeros_like(around[64:]), SIGMA, rng_for(7))
    assert float(quiet_noise(around)) == pytest.approx(float(quiet_noise(scan)), rel=0.05)
    assert float(median_noise(around, None)) < 0.8 * SIGMA


def test_structure_does_not_count_as_it_does_in_a_median():
    inner = centre_crop(Volume(head(sigma=0.005), torch.eye(4, dtype=torch.float64)), 44).data_XYZ
    assert float(quiet_noise(inner)) < 1.35 * 0.005
    assert float(median_noise(inner, None)) > 1.5 * 0.005


@pytest.mark.parametrize("shape", [(40, 40, 6), (40, 6, 40), (30, 30, 2), (24, 1, 24)])
def test_few_slices_are_enough(shape):
    noisy = 0.5 + SIGMA * torch.randn(shape, generator=rng_for(3))
    assert float(quiet_noise(noisy)) == pytest.approx(SIGMA, rel=0.25)


def test_without_tissue_everything_is_read():
    noisy = 0.01 * torch.randn(40, 40, 40, generator=rng_for(3))
    assert float(quiet_noise(noisy)) == pytest.approx(0.01, rel=0.08)


def test_a_ramp_has_no_noise():
    x, y, z = torch.meshgrid(*(torch.linspace(0.3, 0.6, 32) for _ in range(3)), indexing="ij")
    assert float(quiet_noise(x + y - z)) == pytest.approx(0, abs=1e-6)


def test_of_a_large_scan_the_middle_is_read():
    scan = 0.5 + 0.5 * torch.randn(MIDDLE + 40, 24, 24, generator=rng_for(4))
    scan[20:-20] = 0.5 + SIGMA * torch.randn(MIDDLE, 24, 24, generator=rng_for(5))
    assert float(quiet_noise(scan)) == pytest.approx(float(quiet_noise(scan[20:-20])))


def test_settings_choose_the_estimate_and_a_known_noise_replaces_it():
    volume = Volume(head(), torch.eye(4, dtype=torch.float64))
    quiet, median = (
        prepare(volume, volume.grid, PrepareSettings(noise_estimator=name)) for name in ("quiet", "median")
    )
    scaled = quiet.source.data_XYZ
    assert quiet.noise == pytest.approx(float(quiet_noise(scaled)))
    assert median.noise == pytest.approx(noise_sigma(scaled, foreground(volume.data_XYZ, volume.spacing_mm)))
    assert median.noise != pytest.approx(quiet.noise, rel=0.05)
    assert prepare(volume, volume.grid, PrepareSettings(), noise=torch.tensor(0.07)).noise == pytest.approx(0.07)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ConfigError, match=r"prepare\.noise_estimator='mean' is unknown; choose from median, quiet"):
        PrepareSettings(noise_estimator="mean")  # type: ignore[arg-type]


def unit_axes(n: int) -> tuple[torch.Tensor, ...]:
    return torch.meshgrid(*[torch.linspace(-1, 1, n)] * 3, indexing="ij")


@pytest.mark.parametrize("sigma", [0.5, 5.0, 50.0])
def test_the_noise_of_a_smooth_scan_is_recovered(sigma):
    x, y, z = unit_axes(64)
    smooth = 400 + 300 * torch.sin(2 * x + y) * torch.cos(z)
    noisy = smooth + sigma * torch.randn(64, 64, 64, generator=rng_for(3))
    assert noise_sigma(noisy, torch.ones(64, 64, 64, dtype=torch.bool)) == pytest.approx(sigma, rel=0.02)


def test_noise_is_measured_inside_the_mask_only():
    noise = torch.randn(41, 40, 39, generator=rng_for(4))
    noise[:20] *= 10
    mask = torch.zeros(41, 40, 39, dtype=torch.bool)
    mask[20:] = True
    assert noise_sigma(noise, mask) == pytest.approx(1, rel=0.05)
    assert noise_sigma(noise, ~mask) == pytest.approx(10, rel=0.05)


def test_a_smooth_scan_has_no_noise():
    x, y, z = unit_axes(32)
    assert noise_sigma(x + 2 * y - z, torch.ones(32, 32, 32, dtype=torch.bool)) == pytest.approx(0, abs=1e-5)
