"""FSIM against piq's numbers, a direct version in numpy, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.evaluation.metrics.fsim import fsim, phase_congruency

L = 1000.0

# piq 0.8.0 (whose import of torchvision was stubbed), fsim(chromatic=False) in double precision of the slices below.
PIQ = {(64, 80): 0.967354, (65, 80): 0.966240, (63, 81): 0.967533, (97, 113): 0.956532}


def kovesi(image: np.ndarray) -> np.ndarray:
    """Phase congruency as Kovesi's and Zhang's code has it, in float64 and without any short cut."""
    (rows, cols), scales, orientations = image.shape, 4, 4
    y, x = (np.arange(-(n // 2), n - n // 2) / (n - n % 2) for n in (rows, cols))
    down, across = np.meshgrid(y, x, indexing="ij")
    radius = np.fft.ifftshift(np.hypot(down, across))
    theta = np.fft.ifftshift(np.arctan2(-across, down))
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1
    spectrum = np.fft.fft2(image)
    energy_all, size_all = np.zeros(image.shape), np.zeros(image.shape)
    for o in range(orientations):
        angle = o * np.pi / orientations
        gap = np.abs(np.arctan2(np.sin(theta - angle), np.cos(theta - angle)))
        spread = np.exp(-(gap**2) / (2 * (np.pi / orientations / 1.2) ** 2))
        responses, kernels, first = [], [], None
        for s in range(scales):
            gabor = np.exp(-(np.log(radius * 6 * 2**s) ** 2) / (2 * np.log(0.55) ** 2)) * low_pass
            gabor[0, 0] = 0
            first = gabor * spread if first is None else first
            responses.append(np.fft.ifft2(spectrum * gabor * spread))
            kernels.append(np.fft.ifft2(gabor * spread).real * math.sqrt(image.size))
        mean = sum(responses) / (np.abs(sum(responses)) + 1e-12)
        energy = sum(
            r.real * mean.real + r.imag * mean.imag - np.abs(r.real * mean.imag - r.imag * mean.real) for r in responses
        )
        noise = -np.median(np.abs(responses[0]) ** 2) / np.log(0.5) / (first**2).sum()
        pairs = sum((kernels[i] * kernels[j]).sum() for i in range(scales) for j in range(i + 1, scales))
        tau = np.sqrt((2 * noise * sum((k**2).sum() for k in kernels) + 4 * noise * pairs) / 2)
        level = (tau * np.sqrt(np.pi / 2) + 2 * np.sqrt((2 - np.pi / 2) * tau**2)) / 1.7
        energy_all += np.maximum(energy - level, 0)
        size_all += sum(np.abs(r) for r in responses)
    return energy_all / (size_all + 1e-12)


@pytest.mark.parametrize("shape", PIQ)
def test_phase_congruency_is_kovesis(shape, slices):
    pred, _ = slices(shape)
    result = phase_congruency(255 * pred[None].float())[0].double().numpy()
    assert np.abs(result - kovesi(255 * pred.numpy())).max() < 5e-4  # of even counts our median is the lower middle


@pytest.mark.parametrize("shape", PIQ)
def test_fsim_of_a_slice_is_piqs(shape, slices, monkeypatch):
    """A stack of equal slices; the two directions across it are kept out by looking at the first one alone."""
    pred, truth = (L * t.float()[None].expand(3, -1, -1) for t in slices(shape))
    monkeypatch.setattr("moediff.evaluation.metrics.fsim.DIRECTIONS", (0,))
    mask = torch.ones(pred.shape, dtype=torch.bool)
    assert fsim(pred, truth, mask, L) == pytest.approx(PIQ[shape], abs=2e-4)


def test_identical_volumes_score_one_and_noise_less(head, blurred, everywhere):
    truth = head.data_XYZ
    assert fsim(truth, truth, everywhere, L) == pytest.approx(1.0, abs=1e-5)
    mild, strong = (fsim(truth + k * (blurred - truth), truth, everywhere, L) for k in (0.3, 1.0))
    assert 0.999 > mild > strong + 0.005 > 0


def test_the_direction_of_axes_hardly_matters(head, blurred, everywhere):
    """Filters have directions, so a quarter turn of a slice changes the last digits."""
    turned = [t.permute(2, 0, 1) for t in (blurred, head.data_XYZ, everywhere)]
    assert fsim(*turned, L) == pytest.approx(fsim(blurred, head.data_XYZ, everywhere, L), abs=2e-3)


@pytest.mark.parametrize("period", [3, 4, 5])
def test_slices_left_out_do_not_bias_thick_slices(head, everywhere, monkeypatch, period):
    """Every third, fourth or fifth slice is noisy; had the slices judged all or none of these, 0.1 would be missed."""
    noise = torch.zeros(head.shape)
    noise[:, :, ::period] = 60 * torch.randn(head.shape, generator=rng_for(0))[:, :, ::period]
    few = fsim(head.data_XYZ + noise, head.data_XYZ, everywhere, L)
    monkeypatch.setattr("moediff.evaluation.metrics.fsim.TAKEN", range(7))
    assert few == pytest.approx(fsim(head.data_XYZ + noise, head.data_XYZ, everywhere, L), abs=0.04)


def test_large_slices_are_averaged_first():
    fine = torch.rand((2, 390, 390), generator=rng_for(0)).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :, :400]
    mask = torch.zeros(fine.shape, dtype=torch.bool)
    mask[0, 100:200, 100:200] = True
    assert fsim(fine, fine, mask, 1.0) == pytest.approx(1.0, abs=1e-5)


def test_nothing_to_see_is_alike(everywhere, head):
    flat = torch.full(head.shape, 5.0)
    assert fsim(flat, flat, everywhere, L) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("broken", ["nan", "mask", "range"])
def test_what_cannot_be_judged_is_refused(broken):
    pred = torch.full((4, 4, 4), math.nan if broken == "nan" else 1.0)
    mask = torch.full((4, 4, 4), broken != "mask")
    with pytest.raises(DataError):
        fsim(pred, torch.ones(4, 4, 4), mask, 0.0 if broken == "range" else 1.0)
