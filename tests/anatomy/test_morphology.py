"""Morphology against scipy."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from moediff.anatomy.morphology import closed, dilated, filled, reached_from
from moediff.core.config import rng_for

SHAPE = (17, 12, 15)


def blobs(share: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(SHAPE, generator=rng_for(seed, "blobs")) < share


@pytest.mark.parametrize("reach", [1, 2])
def test_dilation_and_closing_are_scipys(reach):
    mask, box = blobs(0.05), torch.ones((2 * reach + 1,) * 3).numpy()
    wanted = ndimage.binary_dilation(mask.numpy(), box)
    assert torch.equal(dilated(mask, reach), torch.from_numpy(wanted))
    wanted = ndimage.binary_erosion(wanted, box, border_value=1)
    assert torch.equal(closed(mask, reach), torch.from_numpy(wanted))


@pytest.mark.parametrize("share", [0.3, 0.55, 0.75])
def test_holes_are_those_of_scipy(share):
    mask = blobs(share)
    assert torch.equal(filled(mask), torch.from_numpy(ndimage.binary_fill_holes(mask.numpy())))


@pytest.mark.parametrize("share", [0.2, 0.35, 0.6])
def test_what_can_be_reached_is_scipys(share):
    free, seeds = blobs(share), blobs(0.02, seed=1)
    wanted = ndimage.binary_propagation((seeds & free).numpy(), mask=free.numpy())
    assert torch.equal(reached_from(seeds, free), torch.from_numpy(wanted))


def test_a_winding_path_is_followed_and_inputs_stay():
    free = torch.zeros(9, 9, 1, dtype=torch.bool)
    for row in range(0, 9, 2):
        free[row] = True
    free[1, 8], free[3, 0], free[5, 8], free[7, 0] = True, True, True, True
    seeds = torch.zeros_like(free)
    seeds[0, 0] = True
    assert torch.equal(reached_from(seeds, free), free) and int(seeds.sum()) == 1
    free[5, 8] = False
    assert int(reached_from(seeds, free).sum()) == 3 * 9 + 2
