"""Sharpness and noise of volumes where both are known."""

import math

import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.evaluation.metrics.no_reference import noise, sharpness

MASK = torch.ones((40, 16, 16), dtype=torch.bool)
WAVE = torch.sin(2 * torch.pi * torch.arange(40) / 20 - torch.pi / 20)[:, None, None].expand(40, 16, 16)


@pytest.mark.parametrize("spacing_mm", [1.0, 2.5])
@pytest.mark.parametrize("contrast", [1.0, 300.0])
def test_sharpness_of_a_wave(spacing_mm, contrast):
    mask = MASK.clone()
    mask[:5] = mask[-15:] = False  # one whole period
    result = sharpness(100 + contrast * WAVE, mask, (spacing_mm, 1.0, 1.0))
    assert result == pytest.approx(math.sin(2 * math.pi / 20) / spacing_mm, rel=1e-4)


def test_blur_lowers_sharpness(head, blurred):
    mask = torch.ones(head.shape, dtype=torch.bool)
    assert sharpness(blurred, mask, head.spacing_mm) < 0.9 * sharpness(head.data_XYZ, mask, head.spacing_mm)


@pytest.mark.parametrize("sigma", [2.0, 10.0])
def test_noise_on_a_smooth_scan_is_measured(sigma):
    data = 500 + 50 * WAVE + sigma * torch.randn(MASK.shape, generator=rng_for(0, sigma))
    assert noise(data, MASK, 1000.0) == pytest.approx(sigma / 1000, rel=0.08)


def test_a_constant_volume_has_no_sharpness():
    with pytest.raises(DataError):
        sharpness(torch.ones(8, 8, 8), torch.ones((8, 8, 8), dtype=torch.bool), (1.0, 1.0, 1.0))
