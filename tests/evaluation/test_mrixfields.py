"""The challenge's metrics, against a plain version with NumPy and scikit-image, as its script has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from moediff.core.errors import DataError
from moediff.evaluation.metrics.mrixfields import mrixfields


def plain(pred, truth, axial):
    """PSNR, NRMSE and SSIM; both scaled by the truth."""
    pred, truth = (np.moveaxis(t.double().numpy(), axial, 2) for t in (pred, truth))
    top = np.percentile(truth, 99.5)
    pred, truth = (np.clip(t, 0, top) / top for t in (pred, truth))
    slices = [z for z in range(truth.shape[2]) if np.ptp(truth[..., z]) >= 1e-10]
    span = truth.max() - truth.min()
    ssims = [structural_similarity(pred[..., z], truth[..., z], data_range=span) for z in slices]
    nrmse = np.linalg.norm(pred - truth) / np.linalg.norm(truth)
    return peak_signal_noise_ratio(truth, pred, data_range=1), nrmse, np.mean(ssims)


@pytest.mark.parametrize("axial", [0, 1, 2])
@pytest.mark.parametrize("offset", [0.0, -40.0])
def test_the_challenges_metrics_are_its_scripts(head, blurred, axial, offset):
    truth = head.data_XYZ.clone() + offset
    truth.movedim(axial, 0)[:3] = 0  # flat slices, which the script leaves out
    assert mrixfields(blurred, truth, axial) == pytest.approx(plain(blurred, truth, axial), rel=1e-5)


def test_a_scan_in_its_range_is_taken_as_it_is(head, blurred):
    truth = (head.data_XYZ / float(np.percentile(head.data_XYZ.numpy(), 99.5))).clamp(0, 1)
    pred = (blurred / 1000).clamp(0, 1)
    expected = np.linalg.norm((pred - truth).double().numpy()) / np.linalg.norm(truth.double().numpy())
    assert mrixfields(pred, truth, 2)[1] == pytest.approx(expected, rel=1e-6)


def test_identical_and_thin_volumes(head):
    assert mrixfields(head.data_XYZ, head.data_XYZ, 2) == (math.inf, 0, pytest.approx(1))
    thin = head.data_XYZ[18:20, 16:21]
    assert mrixfields(thin, thin, 2)[2] == pytest.approx(1)


@pytest.mark.parametrize("truth", [torch.zeros(9, 9, 9), torch.full((9, 9, 9), math.nan)])
def test_a_truth_without_intensities_is_refused(truth):
    with pytest.raises(DataError):
        mrixfields(torch.ones(9, 9, 9), truth, 2)
