"""Tissues of a brain whose labels are known, in three contrasts, and scans that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moediff.acquisition.degrade import bias_field
from moediff.anatomy.tissue import FLUID, GREY, WHITE, brain_of, tissue_map
from moediff.core.config import rng_for
from moediff.core.windows import gaussian_blur

TWO_MM = (2.0, 2.0, 2.0)
LABELS = {FLUID: (4, 24), GREY: (3,), WHITE: (2,)}
CONTRASTS = {"T1w": (250, 600, 900), "T2w": (1500, 800, 520), "FLAIR": (200, 1000, 760)}  # fluid, grey, white


def scan(labels_XYZ: Tensor, levels: tuple[int, int, int], *, noise: float = 20.0) -> Tensor:
    """Partial volume, a bias field of 20 % and noise; 0 outside."""
    data = torch.zeros(labels_XYZ.shape)
    for (_, numbers), level in zip(LABELS.items(), levels, strict=True):
        data[torch.isin(labels_XYZ, torch.tensor(numbers, dtype=labels_XYZ.dtype))] = float(level)
    x, y, z = data.shape
    data = gaussian_blur(data, 0.5, 2) * bias_field((x, y, z), 0.2, rng_for(3, "bias"))
    noisy = (data + noise * torch.randn(data.shape, generator=rng_for(3, "noise"))).clamp_min(1.0)
    return noisy * (labels_XYZ > 0)


def dice(a_XYZ: Tensor, b_XYZ: Tensor) -> float:
    return 2 * float((a_XYZ & b_XYZ).sum()) / float(a_XYZ.sum() + b_XYZ.sum())


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_tissues_are_found_whatever_their_order(contrast, brain_labels):
    found = tissue_map(scan(brain_labels, CONTRASTS[contrast]), TWO_MM)
    assert found is not None and found.dtype == torch.uint8
    for tissue, numbers in LABELS.items():
        truth = torch.isin(brain_labels, torch.tensor(numbers, dtype=torch.int32))
        assert dice(found == tissue, truth) > 0.85, f"tissue {tissue}"


def test_tissues_that_look_alike_are_not_named(brain_labels):
    assert tissue_map(scan(brain_labels, (200, 800, 800)), TWO_MM) is None


def test_a_head_with_skin_is_not_taken_for_a_brain(make_phantom):
    head = make_phantom((60, 70, 60), (3.5, 3.5, 3.5))
    assert brain_of(head.data_XYZ, head.spacing_mm) is None and tissue_map(head.data_XYZ, head.spacing_mm) is None


@pytest.mark.parametrize("size", [0.5, 4.0])
def test_nothing_of_another_size_is_taken_for_a_brain(size, brain_labels):
    assert tissue_map(scan(brain_labels, CONTRASTS["T1w"]), (size,) * 3) is None


def test_an_empty_scan_has_no_tissues():
    assert tissue_map(torch.zeros(20, 20, 20), TWO_MM) is None


def test_a_real_t1_weighted_average_has_plausible_tissues(mni_scan):
    """MNI152: white matter 25-50 % and grey matter 35-65 % of a stripped brain."""
    half = mni_scan.data_XYZ[::2, ::2, ::2]
    found = tissue_map(half, TWO_MM)
    assert found is not None
    share = torch.bincount(found[found > 0].long(), minlength=4).double() / int((found > 0).sum())
    assert 0.25 < share[WHITE] < 0.5 and 0.35 < share[GREY] < 0.65
    assert found[48, 68, 47] == WHITE  # genu of the corpus callosum, 2 mm from the midline
