"""Regions are where distances say, on label maps and on scans."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moediff.anatomy.regions import BACKGROUND, REGIONS, region_map, scan_regions
from moediff.core.config import rng_for

DEEP, CORTEX, JUNCTION, REST = range(4)
NONE = BACKGROUND


def slab(labels: list[int], axis: int) -> Tensor:
    """Labels along one axis, the same over a 5 x 5 face."""
    view, shape = [1, 1, 1], [5, 5, 5]
    view[axis] = shape[axis] = len(labels)
    return torch.tensor(labels, dtype=torch.int32).reshape(view).expand(shape).contiguous()


HALVES = [0, 0, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 10, 10]
RIGHT = [0, 0, 42, 42, 42, 42, 41, 41, 41, 41, 41, 41, 49, 49]
ONE_MM = [NONE] * 2 + [CORTEX] * 3 + [JUNCTION] + [JUNCTION] * 3 + [DEEP] * 3 + [REST] * 2
TWO_MM = [NONE] * 2 + [CORTEX] * 4 + [JUNCTION] + [DEEP] * 5 + [REST] * 2
HALF_MM = [NONE] * 2 + [CORTEX] * 2 + [JUNCTION] * 2 + [JUNCTION] * 6 + [REST] * 2


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("labels", [HALVES, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize(("spacing", "expected"), [(1.0, ONE_MM), (2.0, TWO_MM), (0.5, HALF_MM)])
def test_regions_of_a_slab(axis, labels, spacing, expected):
    """White matter up to 3 mm from cortex and cortex up to 1 mm from white matter make the junction."""
    size = [1.0, 1.0, 1.0]
    size[axis] = spacing
    found = region_map(slab(labels, axis), size)
    assert found.dtype == torch.uint8
    assert torch.equal(found.int(), slab(expected, axis))


def test_a_corner_is_measured_along_the_diagonal():
    labels = torch.full((9, 9, 9), 2, dtype=torch.int32)
    labels[4, 4, 4] = 3
    found = region_map(labels, (1.0, 1.0, 1.0))
    assert found[4, 4, 7] == JUNCTION and found[4, 4, 8] == DEEP
    assert found[6, 6, 5] == JUNCTION  # 2, 2, 1: exactly 3 mm
    assert found[6, 6, 6] == DEEP  # 3.46 mm
    assert found[4, 4, 4] == JUNCTION
    assert int((found == JUNCTION).sum()) == 123  # lattice points within 3 of the origin


def test_regions_have_names_in_the_order_of_their_numbers():
    assert REGIONS[DEEP] == "deep white matter" and REGIONS[CORTEX] == "cortex"
    assert REGIONS[JUNCTION] == "junction" and REGIONS[REST] == "rest"


def test_regions_of_a_scan_are_those_of_its_labels(brain_labels):
    levels = torch.zeros(25)
    levels[[2, 3, 4, 24]] = torch.tensor([900.0, 600.0, 250.0, 250.0])
    data = levels[brain_labels.long()] + 15 * torch.randn(brain_labels.shape, generator=rng_for(1))
    found = scan_regions(data.clamp_min(1) * (brain_labels > 0), (2.0, 2.0, 2.0))
    truth = region_map(brain_labels, (2.0, 2.0, 2.0))
    assert found is not None
    known = found != BACKGROUND
    assert float(known[brain_labels > 0].float().mean()) > 0.6
    for region in range(len(REGIONS)):
        assert float((found == truth)[known & (truth == region)].float().mean()) > 0.9, REGIONS[region]


@pytest.mark.parametrize(("grey", "white"), [(8, 7), (47, 46)])
def test_the_cerebellum_has_the_regions_of_its_tissues(brain_labels, grey, white):
    """As in a scan, where cortex and cerebellum look alike: two regions for one tissue would teach the gate neither."""
    cerebellum = torch.zeros_like(brain_labels)
    for there, of in ((3, grey), (2, white), (41, white), (42, grey)):
        cerebellum[brain_labels == there] = of
    tissue = torch.zeros_like(brain_labels)
    for of, there in ((grey, 3), (white, 2)):
        tissue[cerebellum == of] = there
    assert set(tissue.unique().tolist()) == {0, 2, 3}
    assert torch.equal(region_map(cerebellum, (2.0,) * 3), region_map(tissue, (2.0,) * 3))
    stem = torch.full((9, 9, 9), 16, dtype=torch.int32)
    assert set(region_map(stem, (1.0,) * 3).unique().tolist()) == {DEEP}


def test_a_scan_whose_tissues_cannot_be_told_has_no_regions():
    assert scan_regions(torch.rand(30, 30, 30), (1.0, 1.0, 1.0)) is None
