"""Parts of the augmentation with a known answer; the rest is tested through the examples."""

from __future__ import annotations

import pytest
import torch

from moediff.training.augment import blur_axis


def test_blur_axis_is_a_unit_gaussian_along_one_axis():
    impulse = torch.zeros(21, 5, 5)
    impulse[10, 2, 2] = 1
    blurred = blur_axis(impulse, 0, 1.5)
    line = blurred[:, 2, 2]
    place = torch.arange(21.0) - 10
    assert float(blurred.sum()) == pytest.approx(1) and float(line.sum()) == pytest.approx(1)
    assert float((line * place**2).sum().sqrt()) == pytest.approx(1.5, rel=0.03)
    assert torch.equal(blur_axis(impulse, 1, 0.04), impulse)
