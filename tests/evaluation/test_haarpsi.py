"""HaarPSI against a direct version with scipy's 2-D convolution."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from scipy.special import expit, logit

from moediff.core.resample import apply_axes
from moediff.evaluation.metrics.haarpsi import MEDICAL, STANDARD, _averaged, _slice_scores, haarpsi

L = 1000.0

# piq 0.8.0 (whose import of torchvision was stubbed), haarpsi of the slices below: its defaults; c=5, alpha=4.9. It
# places even windows as MATLAB does, so it was given the slices turned by 180 degrees and moved by one pixel.
PIQ = {(64, 80): (0.965766, 0.931102), (96, 112): (0.936815, 0.886025), (98, 114): (0.933403, 0.883063)}
MARGIN = 24  # of zeros around, since borders are treated in different ways


def plain_slice(x, y, inside, c, alpha):
    """HaarPSI of one slice on 0..255, written out as the paper defines it."""

    def coefficients(image):
        image = convolve2d(image, np.ones((2, 2)) / 4, mode="same")[::2, ::2]
        result = []
        for scale in (1, 2, 3):
            haar = 2.0**-scale * np.ones((2**scale, 2**scale))
            haar[: 2 ** (scale - 1)] *= -1
            result.append([np.abs(convolve2d(image, f, mode="same")) for f in (haar, haar.T)])
        return result

    p, q = coefficients(x), coefficients(y)
    total = weights = 0.0
    for way in (0, 1):
        alike = sum((2 * p[s][way] * q[s][way] + c) / (p[s][way] ** 2 + q[s][way] ** 2 + c) for s in (0, 1)) / 2
        weight = np.maximum(p[2][way], q[2][way]) * inside[::2, ::2]
        total += (expit(alpha * alike) * weight).sum()
        weights += weight.sum()
    return (logit(total / weights) / alpha) ** 2 if weights else 1.0


def plain(x, y, mask, c, alpha):
    directions = []
    for axis in range(3):
        pred, truth, inside = (np.moveaxis(t.double().numpy(), axis, 0) for t in (x, y, mask))
        counts = inside[:, ::2, ::2].sum(axis=(1, 2))
        scores = [
            plain_slice(a * 255 / L, b * 255 / L, m, c, alpha) for a, b, m in zip(pred, truth, inside, strict=True)
        ]
        directions.append(np.average(scores, weights=counts))
    return np.mean(directions)


@pytest.mark.parametrize("parameters", [STANDARD, MEDICAL], ids=["standard", "medical"])
def test_haarpsi_equals_a_direct_version(parameters, head, blurred):
    mask = torch.zeros(head.shape, dtype=torch.bool)
    mask[12:-12, 12:-12, 12:-12] = True  # beyond the reach of boundary handling, which the paper leaves open
    expected = plain(blurred, head.data_XYZ, mask, *parameters)
    assert haarpsi(blurred, head.data_XYZ, mask, L, parameters) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", PIQ)
def test_haarpsi_of_a_slice_is_piqs(shape, slices):
    x, y = (torch.nn.functional.pad(t.float(), (MARGIN,) * 4)[None] for t in slices(shape))
    halves = (None, _averaged(x.shape[1]), _averaged(x.shape[2]))
    half_x, half_y = (apply_axes(t * 255, halves) for t in (x, y))
    scores = _slice_scores(half_x, half_y, torch.ones(half_x.shape, dtype=torch.bool), (STANDARD, MEDICAL))
    assert [float(score) for score in scores] == pytest.approx(PIQ[shape], abs=1e-5)


def test_identical_volumes_score_one_and_noise_less(head, blurred, everywhere):
    assert haarpsi(head.data_XYZ, head.data_XYZ, everywhere, L) == pytest.approx(1.0, abs=1e-5)
    half = (head.data_XYZ + blurred) / 2
    scores = [haarpsi(t, head.data_XYZ, everywhere, L) for t in (half, blurred)]
    assert 1 > scores[0] > scores[1] > 0


def test_the_medical_setting_is_stricter(head, blurred, everywhere):
    assert haarpsi(blurred, head.data_XYZ, everywhere, L, MEDICAL) < haarpsi(blurred, head.data_XYZ, everywhere, L)


def test_the_direction_of_axes_does_not_matter(head, blurred, everywhere):
    turned = [t.permute(2, 0, 1) for t in (blurred, head.data_XYZ, everywhere)]
    assert haarpsi(*turned, L) == pytest.approx(haarpsi(blurred, head.data_XYZ, everywhere, L), abs=1e-6)


def test_slabs_change_nothing(head, blurred, everywhere, monkeypatch):
    whole = haarpsi(blurred, head.data_XYZ, everywhere, L)
    monkeypatch.setattr("moediff.evaluation.metrics.haarpsi.BATCH", 7)
    assert haarpsi(blurred, head.data_XYZ, everywhere, L) == pytest.approx(whole, abs=1e-6)
