"""Sampling told from a spectrum: lines drawn with the spectrum of heads are the known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.acquisition.point_spread import Sampling
from moediff.acquisition.sampling_estimate import (
    BANDS,
    LOG_POWER,
    estimate_axis,
    estimated_sampling,
    line_power,
)
from moediff.core.config import rng_for
from moediff.core.resample import sample_positions

N = 96
CYCLES = (np.arange(BANDS) + 0.5) / (2 * BANDS)


def lines(sampling: Sampling, noise: float, slope: float = 0.0, seed: int = 0) -> torch.Tensor:
    """A volume whose first axis has the spectrum of a head under a sampling, inside a bright block."""
    rng = rng_for(seed, "lines")
    cycles = np.fft.rfftfreq(N)
    power = np.exp(np.interp(cycles, CYCLES, LOG_POWER)) * (np.maximum(cycles, CYCLES[0]) / CYCLES[3]) ** slope
    shape = torch.from_numpy(np.sqrt(power) * sampling.transfer(cycles)).float()
    white = torch.randn(N, 24, 24, generator=rng)
    data = torch.fft.irfft(torch.fft.rfft(white, dim=0) * shape[:, None, None], n=N, dim=0) * 0.12 + 1.0
    return data + noise * torch.randn(data.shape, generator=rng)


@pytest.mark.parametrize("noise", [0.001, 0.003])
@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("name", ["hamming", "tukey", "fermi"])
@pytest.mark.parametrize("width", [1.0, 1.4])
def test_a_window_is_told_with_its_width(name, width, slope, noise):
    """Neighbouring windows look alike, so what is compared is how strongly half of the Nyquist band is weakened."""
    power = line_power(lines(Sampling(name, width), noise, slope), 0)
    assert power is not None
    found = estimate_axis(power, noise)
    assert found is not None
    at = np.linspace(0.05, 0.45, 9)
    assert np.abs(found.transfer(at) - Sampling(name, width).transfer(at)).mean() < 0.1


@pytest.mark.parametrize("width", [1.3, 1.7])
def test_zero_filling_is_told_with_its_width(width):
    power = line_power(lines(Sampling("truncate", width), 0.005), 0)
    assert power is not None
    found = estimate_axis(power, 0.005)
    assert found is not None and found.transfer([0.55 / width])[0] < 0.3 and found.transfer([0.3 / width])[0] > 0.6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sampling", [Sampling("truncate"), Sampling("box"), Sampling("bicubic"), Sampling("gaussian")])
def test_what_heads_differ_by_is_not_taken_for_a_window(sampling, seed):
    for slope in (-0.6, 0.0, 0.6):
        power = line_power(lines(sampling, 0.01, slope, seed), 0)
        assert power is not None and estimate_axis(power, 0.01) is None


def test_white_noise_has_its_variance_in_every_band():
    data = 0.5 + 0.1 * torch.randn(200, 40, 40, generator=rng_for(3))
    power = line_power(data, 0)
    assert power is not None and power == pytest.approx(np.full(BANDS, 0.01), rel=0.05)


def test_short_or_few_lines_tell_nothing():
    assert line_power(torch.rand(20, 40, 40) + 0.5, 0) is None
    assert line_power(torch.rand(96, 4, 4) + 0.5, 0) is None
    assert line_power(torch.zeros(96, 40, 40), 0) is None


def test_only_coarse_axes_of_the_plane_are_judged():
    filtered = lines(Sampling("hamming"), 0.005)
    coarse, fine = sample_positions(2 * N, 0.5, -0.25), sample_positions(24, 1.0, 0.0)
    other = sample_positions(48, 0.5, -0.25)
    found = estimated_sampling(filtered, (coarse, other, fine), 0.005)
    assert found is not None and found[0].method in ("hamming", "tukey")
    assert found[1:] == (Sampling("truncate"), Sampling())
    assert estimated_sampling(filtered, (sample_positions(N, 1.0, 0.0), other, fine), 0.005) is None
    thick = sample_positions(4 * N, 0.25, -0.375)
    assert estimated_sampling(filtered, (thick, fine, fine), 0.005) is None
