"""Parts of the augmentation with a known answer; the rest is tested through the examples."""

from __future__ import annotations

import pytest
import torch

from moediff.training.augment import Sharpness


def test_a_blurred_truth_is_seen_through_a_unit_gaussian():
    impulse = torch.zeros(21, 21, 21)
    impulse[10, 10, 10] = 1
    blurred = Sharpness(1.5).apply(impulse)
    line = blurred.sum((1, 2))
    place = torch.arange(21.0) - 10
    assert float(blurred.sum()) == pytest.approx(1)
    assert float((line * place**2).sum().sqrt()) == pytest.approx(1.5, rel=0.03)
    assert torch.equal(Sharpness(0.04).apply(impulse), impulse)
