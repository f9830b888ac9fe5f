"""Morphology: known answers, and other routines of scipy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage

from moediff.core.config import rng_for
from moediff.core.morphology import closed, components, depth_mm, dilated, eroded, filled, reached_from, within

SHAPE = (17, 12, 15)


def blobs(share: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(SHAPE, generator=rng_for(seed, "blobs")) < share


@pytest.mark.parametrize("reach", [1, 2])
def test_dilation_erosion_and_closing_are_those_of_a_box(reach):
    mask, box = blobs(0.05), torch.ones((2 * reach + 1,) * 3).numpy()
    wanted = ndimage.binary_dilation(mask.numpy(), box)
    assert torch.equal(dilated(mask, reach), torch.from_numpy(wanted))
    grown = torch.from_numpy(wanted)
    assert torch.equal(eroded(grown, reach), torch.from_numpy(ndimage.binary_erosion(wanted, box)))
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


def test_diagonal_steps_leak_where_faces_do_not():
    free = torch.eye(4, dtype=torch.bool)[None].expand(2, 4, 4).contiguous()
    seeds = torch.zeros_like(free)
    seeds[0, 0, 0] = True
    assert int(reached_from(seeds, free).sum()) == 2 and torch.equal(reached_from(seeds, free, diagonal=True), free)
    ring = torch.ones(5, 5, 5, dtype=torch.bool)
    ring[2, 2, 2] = ring[1, 1, 1] = ring[0, 0, 0] = False
    assert bool(filled(ring)[2, 2, 2]) and not bool(filled(ring, diagonal=True)[2, 2, 2])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
def test_components_are_those_of_scipy(share):
    mask = torch.rand(12, 15, 11, generator=rng_for(1)) < share
    wanted, count = ndimage.label(mask.numpy(), structure=torch.ones(3, 3, 3).numpy())
    found = components(mask)
    assert int(found.max()) == count and torch.equal(found > 0, mask)
    pairs = {(int(a), int(b)) for a, b in zip(found[mask], torch.from_numpy(wanted)[mask], strict=True)}
    assert len(pairs) == count  # one to one


def test_no_group_in_an_empty_mask_and_one_in_a_full_one():
    assert int(components(torch.zeros(4, 4, 4, dtype=torch.bool)).max()) == 0
    assert torch.equal(components(torch.ones(4, 4, 4, dtype=torch.bool)), torch.ones(4, 4, 4, dtype=torch.int64))


def test_depth_counts_layers_from_the_surface():
    mask = torch.ones(7, 9, 9, dtype=torch.bool)
    mask[0] = False
    assert depth_mm(mask, (2.0, 2.0, 2.0), 6.0)[:, 4, 4].tolist() == [0, 2, 4, 6, 6, 4, 2]


@given(
    st.integers(0, 9999),
    st.floats(0.002, 0.3),
    st.sampled_from([0.4, 1.0, 1.5, 2.0, 3.0, 4.2]),
    st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 1.3, 3.0, 5.0])] * 3),
)
def test_within_is_the_euclidean_distance(seed, share, reach, spacing):
    mask = torch.rand(9, 11, 8, generator=rng_for(seed)) < share
    assume(bool(mask.any()))
    distance = ndimage.distance_transform_edt(~mask.numpy(), sampling=spacing)
    assert torch.equal(within(mask, reach, spacing), torch.from_numpy(distance <= reach + 1e-6))


def test_nothing_is_near_an_empty_mask():
    assert not within(torch.zeros(6, 6, 6, dtype=torch.bool), 3.0, (1.0, 1.0, 1.0)).any()
