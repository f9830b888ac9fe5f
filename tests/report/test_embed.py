"""Packed volumes come back as they were, on the grid they were on, within the budget."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
import torch

from moediff.report.display import display
from moediff.report.embed import Packed, _Prepared, embed, pack


def unpacked(packed: Packed) -> np.ndarray:
    """What the page's script does."""
    voxels = np.frombuffer(zlib.decompress(base64.b64decode(packed.text)), np.uint8).copy()
    for i in range(packed.stride, len(voxels)):
        voxels[i] += voxels[i - packed.stride]
    return voxels.reshape(packed.grid.shape, order="F")


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_voxels_come_back_whichever_axis_is_smooth(axis, make_phantom):
    noise = torch.randint(0, 256, (5, 6, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    data = noise.select(axis, 0).unsqueeze(axis).expand(5, 6, 7).contiguous()
    packed = pack(data, make_phantom((5, 6, 7)).grid, 1)
    assert packed.stride == (1, 5, 30)[axis]
    assert np.array_equal(unpacked(packed), data.numpy())


def test_fewer_grey_levels_where_the_budget_is_small(scans):
    shown = display(scans)
    full = embed(shown.scans, (), shown.grid, 10**9)
    assert full.grey_levels == 256
    small = embed(shown.scans, (), shown.grid, sum(len(p.text) for p in full.scans) // 2)
    assert small.grey_levels < 256
    assert sum(len(p.text) for p in small.scans) <= sum(len(p.text) for p in full.scans) // 2


def test_a_size_is_estimated_from_a_sample(mni_scan):
    data = (mni_scan.data_XYZ * (255 / mni_scan.data_XYZ.max())).to(torch.uint8)
    prepared = _Prepared(data, mni_scan.grid)
    assert len(prepared.sample) < 0.3 * data.numel()
    assert prepared.estimated_length(4) == pytest.approx(len(prepared.pack(4).text), rel=0.15)


def test_halved_maps_keep_their_place(scans):
    shown = display(scans)
    packed = embed((), shown.maps, shown.grid, 10**9).maps[0]
    corner = torch.tensor([-0.5, -0.5, -0.5, 1], dtype=torch.float64)
    assert torch.allclose(packed.grid.affine @ corner, shown.grid.affine @ corner)
