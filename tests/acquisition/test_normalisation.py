"""Foreground, scaling and noise against a phantom whose parts are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from moediff.acquisition.normalisation import BRAIN_MEDIAN, Scaling, brain_scaling, foreground
from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.core.statistics import quantile
from moediff.core.volume import Volume

SHAPE = (48, 56, 44)


def unit_axes(shape=SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    return x, y, z


def radius(shape=SHAPE) -> Tensor:
    """1 on the phantom's skin."""
    x, y, z = unit_axes(shape)
    return torch.sqrt((x / 0.85) ** 2 + (y / 0.95) ** 2 + (z / 0.9) ** 2)


def brain_median(volume: Volume) -> float:
    """Median of the phantom's grey and white matter."""
    inside = radius(volume.shape) < 0.7
    return float(volume.data_XYZ[inside & (volume.data_XYZ > 300)].median())


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e5), st.integers(0, 99))
def test_scaling_is_undone(offset, scale, seed):
    scaling = Scaling(offset, scale)
    data = torch.rand(50, generator=rng_for(seed), dtype=torch.float64) * 1000
    assert_close(scaling.undo(scaling.apply(data)), data, atol=1e-6, rtol=1e-9)


def test_scaling_known_answer():
    assert_close(Scaling(10.0, 20.0).apply(torch.tensor([10.0, 20.0, -10.0])), torch.tensor([0.0, 0.5, -1.0]))


def test_quantile_of_few_and_of_very_many_values():
    assert quantile(torch.arange(101.0), 0.25) == pytest.approx(25)
    assert quantile(torch.arange(5.0).repeat_interleave(4_000_000), 0.5) == 2  # torch.quantile refuses 20 million


def test_the_foreground_covers_the_head_and_leaves_air(phantom):
    mask = foreground(phantom.data_XYZ, phantom.spacing_mm)
    assert mask.dtype == torch.bool and mask.shape == phantom.data_XYZ.shape
    assert bool(mask[radius() < 1].all())
    assert not bool(mask[radius() > 1.25].any())
    for corner in ((0, 0, 0), (-1, 0, -1), (-1, -1, -1)):
        assert not bool(mask[corner])


def test_cavities_inside_the_head_are_filled(phantom):
    x, y, z = unit_axes()
    cavity = (x / 0.25) ** 2 + (y / 0.35) ** 2 + (z / 0.25) ** 2 < 1
    hollow = phantom.data_XYZ.masked_fill(cavity, 0.0)
    assert bool(foreground(hollow, phantom.spacing_mm)[cavity].all())


def test_a_hole_that_opens_to_the_air_is_not_the_head(phantom):
    x, _, z = unit_axes()
    trench = (x.abs() < 0.4) & (z > 0.2)
    mask = foreground(phantom.data_XYZ.masked_fill(trench, 0.0), phantom.spacing_mm)
    assert not bool(mask[(x.abs() < 0.15) & (z > 0.5)].any())


@pytest.mark.parametrize("noise", [5.0, 30.0])
def test_noise_in_the_air_is_not_the_head(noise, phantom):
    channel = torch.randn(2, *phantom.shape, generator=rng_for(0)) * noise
    noisy = torch.hypot(phantom.data_XYZ + channel[0], channel[1])
    mask = foreground(noisy, phantom.spacing_mm)
    assert bool(mask[radius() < 0.97].all()) and not bool(mask[radius() > 1.3].any())


def test_the_foreground_is_about_the_same_for_thick_slices(make_phantom):
    fine = make_phantom((96, 112, 88), (2.0, 2.0, 2.0))
    thick = fine.data_XYZ.unflatten(2, (-1, 4)).mean(3)
    found = foreground(thick, (2.0, 2.0, 8.0)).repeat_interleave(4, dim=2)
    assert float((found ^ foreground(fine.data_XYZ, (2.0, 2.0, 2.0))).float().mean()) < 0.06
    assert bool(found[radius((96, 112, 88)) < 0.98].all())


@pytest.mark.parametrize("level", [0.0, 7.0, -3.0])
def test_a_constant_scan_has_no_head(level):
    with pytest.raises(DataError, match="no head found"):
        foreground(torch.full((20, 20, 20), level), (4.0, 4.0, 4.0))


def test_the_brain_maps_to_one_half_whatever_the_scalp_does(phantom):
    mask = foreground(phantom.data_XYZ, phantom.spacing_mm)
    bright = torch.where((radius() > 0.92) & (radius() < 1), phantom.data_XYZ * 8, phantom.data_XYZ)
    for data in (phantom.data_XYZ, bright):
        scaling = brain_scaling(data, mask, phantom.spacing_mm)
        assert scaling.offset == 0
        assert (brain_median(phantom) - scaling.offset) / scaling.scale == pytest.approx(BRAIN_MEDIAN, rel=0.1)


@pytest.mark.parametrize("factor", [1e-6, 0.01, 3.7, 1e5])
def test_an_intensity_factor_moves_only_the_scale(factor, phantom):
    data = phantom.data_XYZ + 20 * torch.rand(phantom.shape, generator=rng_for(1))
    mask = foreground(data, phantom.spacing_mm)
    assert torch.equal(foreground(data * factor, phantom.spacing_mm), mask)
    plain, other = (brain_scaling(d, mask, phantom.spacing_mm) for d in (data, data * factor))
    assert other.scale == pytest.approx(plain.scale * factor, rel=1e-5)
    assert other.offset == pytest.approx(plain.offset * factor, abs=1e-6 * plain.scale * factor)


def test_an_air_level_well_above_zero_is_subtracted(phantom):
    data = phantom.data_XYZ + 500
    mask = foreground(data, phantom.spacing_mm)
    scaling = brain_scaling(data, mask, phantom.spacing_mm)
    assert scaling.offset == pytest.approx(500)
    assert scaling.scale == pytest.approx(brain_scaling(phantom.data_XYZ, mask, phantom.spacing_mm).scale, rel=1e-4)


def test_a_head_without_a_middle_is_refused(phantom):
    shell = phantom.data_XYZ.masked_fill(radius() < 0.9, 0.0)
    mask = radius() < 1
    with pytest.raises(DataError, match="the middle of the head is empty"):
        brain_scaling(shell, mask, phantom.spacing_mm)
