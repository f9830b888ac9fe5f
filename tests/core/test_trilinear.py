"""Trilinear reading on all threads, and its transpose: both against torch's own, one volume at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moediff.core.trilinear import PART, _touched, read_trilinear, spread_trilinear

SHAPE = (40, 13, 9)


def lattice(planes: int, tilt: float, shift: float = 0.0) -> torch.Tensor:
    """Coordinates [planes, 7, 5, 3] of a lattice that is tilted against the volume by so many radians."""
    x, y, z = torch.meshgrid(
        torch.linspace(-1, 1, planes), torch.linspace(-1, 1, 7), torch.linspace(-1, 1, 5), indexing="ij"
    )
    return torch.stack([z, y, shift + x + tilt * y - tilt * z], -1)


@pytest.mark.parametrize("outside", ["zeros", "border"])
def test_reading_is_that_of_grid_sample_to_the_bit(outside):
    data = torch.rand(SHAPE)
    at = lattice(11, 0.3)
    expected = F.grid_sample(data[None, None], at[None], padding_mode=outside, align_corners=False)[0, 0]
    assert torch.equal(read_trilinear(data, at[:, None], outside)[:, 0], expected)


@pytest.mark.parametrize("planes", [1, PART - 1, PART, 3 * PART + 5])
@pytest.mark.parametrize("tilt", [0.0, 0.2, 2.0])
@pytest.mark.parametrize("shift", [0.0, 1.2, -3.0])
def test_spreading_is_the_gradient_of_reading(planes, tilt, shift):
    """Also where points lie outside, in part or all of them."""
    at, values = lattice(planes, tilt, shift), torch.rand(planes, 7, 5)
    data = torch.rand(SHAPE, requires_grad=True)
    (F.grid_sample(data[None, None], at[None], align_corners=False)[0, 0] * values).sum().backward()
    onto = torch.ones(SHAPE)
    spread_trilinear(values, at, onto)
    assert torch.allclose(onto - 1, data.grad, atol=2e-5)


def test_spreading_does_not_depend_on_the_number_of_threads():
    at, values = lattice(3 * PART, 0.2), torch.rand(3 * PART, 7, 5)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(torch.zeros(SHAPE))
        spread_trilinear(values, at, results[-1])
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_a_part_touches_few_planes_of_a_volume_that_lies_alike():
    at = lattice(4 * PART, 0.05).reshape(4, PART, 7, 5, 3)
    first, planes = _touched(at, SHAPE[0])
    assert planes < SHAPE[0] / 2 and first == sorted(first) and first[0] == 0 and first[-1] + planes == SHAPE[0]
