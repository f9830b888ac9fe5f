"""Spectra of waves whose power is known."""

import math

import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.evaluation.metrics.spectrum import high_frequency_ratio, radial_spectral_distance, taper

N = 32
MASK = torch.ones((N, N, N), dtype=torch.bool)


def wave(cycles, axis=0):
    """A cosine with this many periods along one axis."""
    line = torch.cos(2 * torch.pi * cycles * torch.arange(N) / N)
    return line.reshape([N if a == axis else 1 for a in range(3)]).expand(N, N, N)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.5])
def test_the_ratio_is_the_squared_share_of_fine_detail(axis, share):
    truth = wave(2, axis) + wave(12, axis)  # 12 periods in 32 voxels: 0.75 of Nyquist
    pred = 7 * wave(2, axis) + share * wave(12, axis)
    assert high_frequency_ratio(pred, truth, MASK) == pytest.approx(share**2, abs=1e-4)


def test_power_equals_numpys_full_transform():
    pred, truth = (torch.randn((14, 15, 16), generator=rng_for(0, name)) for name in "ab")
    x, y, z = torch.meshgrid(*(torch.fft.fftfreq(n) * 2 for n in truth.shape), indexing="ij")
    high = torch.sqrt(x**2 + y**2 + z**2) >= 0.5
    a, b = (float(torch.fft.fftn((t - t.mean()).double()).abs().square()[high].sum()) for t in (pred, truth))
    mask = torch.ones(truth.shape, dtype=torch.bool)
    assert high_frequency_ratio(pred, truth, mask) == pytest.approx(a / b, rel=1e-5)


def test_doubled_contrast_is_six_decibels_in_every_shell():
    truth = torch.randn((N, N, N), generator=rng_for(0))
    assert radial_spectral_distance(2 * truth, truth, MASK) == pytest.approx(20 * math.log10(2), abs=1e-4)
    assert radial_spectral_distance(truth + 5, truth, MASK) == pytest.approx(0.0, abs=1e-3)


def test_the_distance_counts_shells_alike():
    truth = torch.randn((N, N, N), generator=rng_for(0))
    spectrum = torch.fft.fftn(truth)
    rho = torch.sqrt(sum((f * 2) ** 2 for f in torch.meshgrid(*[torch.fft.fftfreq(N)] * 3, indexing="ij")))
    pred = torch.fft.ifftn(
        torch.where(rho >= 0.5, 10**0.5, 1.0) * spectrum
    ).real  # 10 dB in the upper half of 16 shells
    assert radial_spectral_distance(pred, truth, MASK) == pytest.approx(10 * math.sqrt(8 / 15), abs=0.05)


def test_blur_and_noise_move_the_ratio_apart(head, blurred, everywhere):
    noisy = head.data_XYZ + 100 * torch.randn(head.shape, generator=rng_for(1))
    assert high_frequency_ratio(blurred, head.data_XYZ, everywhere) < 0.5
    assert high_frequency_ratio(noisy, head.data_XYZ, everywhere) > 1.2


def test_what_lies_outside_the_mask_does_not_count(head, blurred):
    mask = torch.zeros(head.shape, dtype=torch.bool)
    mask[10:30, 10:30, 10:30] = True
    other = torch.where(mask, blurred, blurred + 500)
    for measure in (high_frequency_ratio, radial_spectral_distance):
        assert measure(other, head.data_XYZ, mask) == pytest.approx(measure(blurred, head.data_XYZ, mask), abs=1e-6)


def test_the_taper_is_one_inside_and_zero_at_the_rim():
    mask = torch.zeros((N, N, N), dtype=torch.bool)
    mask[4:28, 4:28, 4:28] = True
    weight = taper(mask)
    assert float(weight[16, 16, 16]) == pytest.approx(1.0, abs=1e-5)
    assert float(weight[4, 16, 16]) < 0.2 and float(weight[~mask].max()) == 0
    assert float(taper(MASK).min()) > 0.9999
    thin = torch.zeros_like(mask)
    thin[16, 16, 16] = True
    assert torch.equal(taper(thin), thin.float())


@pytest.mark.parametrize("measure", [high_frequency_ratio, radial_spectral_distance])
def test_a_truth_without_contrast_is_refused(measure):
    with pytest.raises(DataError, match="expected a scan"):
        measure(wave(3), torch.zeros(N, N, N), MASK)


@pytest.mark.fault(38)
@pytest.mark.parametrize("times", [1e-38, 1e-22, 1e-3, 700.0, 1e15, 1e17, 1e25, 3e34])
def test_row38_the_unit_of_intensities_does_not_matter(times, head, blurred, everywhere):
    """Squares of such values leave float32, whose largest number is 3e38, on either side."""
    for measure in (high_frequency_ratio, radial_spectral_distance):
        plain = measure(blurred, head.data_XYZ, everywhere)
        assert measure(blurred * times, head.data_XYZ * times, everywhere) == pytest.approx(plain, rel=1e-6)


def test_scans_of_one_power_of_two_give_the_same_bits(head, blurred, everywhere):
    for measure in (high_frequency_ratio, radial_spectral_distance):
        plain = measure(blurred, head.data_XYZ, everywhere)
        assert measure(blurred * 2.0**100, head.data_XYZ * 2.0**100, everywhere) == plain


@pytest.mark.fault(38)
def test_row38_whole_numbers_and_doubles_are_judged_alike(head, blurred, everywhere):
    pred, truth = blurred.round(), head.data_XYZ.round()
    for measure in (high_frequency_ratio, radial_spectral_distance):
        for dtype in (torch.int16, torch.float64):
            result = measure(pred.to(dtype), truth.to(dtype), everywhere)
            assert result == pytest.approx(measure(pred, truth, everywhere), rel=1e-6)
