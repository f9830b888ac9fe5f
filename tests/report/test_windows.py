"""Windows that a reader can choose: the brain's is not stretched by fat, the narrow one doubles the contrast."""

from __future__ import annotations

import torch

from moediff.core.volume import Volume
from moediff.report.windows import presets


def head(fat: float) -> Volume:
    """A ball of 60..100 in a shell of fat, 2 mm voxels."""
    axis = torch.linspace(-1, 1, 80)
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    brain = 60 + 40 * torch.rand(80, 80, 80, generator=torch.Generator().manual_seed(0))
    data = torch.where(radius < 0.7, brain, torch.where(radius < 0.9, torch.tensor(fat), torch.tensor(1.0)))
    return Volume(data, torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64)))


def test_the_brains_window_holds_the_brain_and_not_the_fat():
    brain, lesion, full = presets(head(1000.0))
    assert (brain.name, lesion.name, full.name) == ("brain", "lesion", "full")
    assert 58 < brain.low < 62 and 98 < brain.high < 104
    assert full.low == 0.0 and full.high == 1000.0


def test_the_lesion_window_is_half_as_wide_around_the_middle():
    brain, lesion, _ = presets(head(300.0))
    assert abs(lesion.width - brain.width / 2) < 1e-6
    assert abs((lesion.low + lesion.high) / 2 - 80) < 1


def test_a_stripped_brain_is_taken_as_it_is(mni_scan):
    inside = mni_scan.data_XYZ[mni_scan.data_XYZ > 0.1 * mni_scan.data_XYZ.max()]
    brain, _, full = presets(mni_scan)
    assert brain.low < inside.quantile(0.05) and inside.quantile(0.98) < brain.high <= 1.1 * full.high


def test_half_a_scan_of_one_value_still_has_a_window(phantom):
    data = torch.zeros(phantom.shape)
    data[0, 0, 0] = 5.0
    brain, *_ = presets(phantom.with_data(data))
    assert brain.width > 0
