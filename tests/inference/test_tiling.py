"""Tiles: within budget, every voxel once, and no seam in the network's output.

Axes: B batch (1), X Y Z voxels, xyz cells or tokens, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from moediff.acquisition.prepare import Prepared, PrepareSettings, prepare
from moediff.core.config import rng_for
from moediff.core.geometry import with_spacing
from moediff.inference.tiling import (
    ALIGN,
    BYTES_PER_CHANNEL,
    InputCrop,
    TileContext,
    cut,
    denoise_tiled,
    encode,
    tile_sides,
    tiles,
)
from moediff.model.conditioning import NetworkInput, PerAxis
from moediff.model.config import BackboneConfig, DenoiserConfig, ExpertsConfig, GateConfig
from moediff.model.denoiser import Denoiser
from moediff.model.expert_table import EXPERTS, ExpertSpec
from moediff.model.routing import make_condition

LARGE = 10**12
SIGMA = 0.02


def voxels_read(shape, sides, halo) -> int:
    """Of the largest tile."""
    sizes = [[s.stop - s.start for s in read] for read, _, _ in tiles(shape, sides, halo)]
    return max(x * y * z for x, y, z in sizes)


def reach(denoiser) -> int:
    return -(-denoiser.config.reach_voxels // ALIGN) * ALIGN


def budget_for(denoiser, shape, sides) -> float:
    """Bytes that tiles of these sides take."""
    return voxels_read(shape, sides, reach(denoiser)) * BYTES_PER_CHANNEL * denoiser.config.backbone.width


shapes = st.lists(st.integers(1, 16).map(lambda n: 16 * n), min_size=3, max_size=3)
halos = st.sampled_from([0, 16, 24, 32, 40])


@given(shapes, halos, st.integers(1, 30_000_000))
def test_tile_sides_fit_the_budget_or_are_as_small_as_can_be(shape, halo, most):
    sides = tile_sides(shape, halo, most)
    assert all(side % 16 == 0 and 0 < side <= whole for side, whole in zip(sides, shape, strict=True))
    assert voxels_read(shape, sides, halo) <= most or sides == (16, 16, 16)


@given(shapes, halos)
def test_what_fits_is_not_cut(shape, halo):
    assert tile_sides(shape, halo, voxels_read(shape, shape, halo)) == tuple(shape)


CHEAPEST = {
    (96, 16, 16): ((48, 16, 16), 0, 48 * 256),
    (80, 16, 16): ((48, 16, 16), 0, 79 * 256),  # half of 80 rounded up to a multiple of 16
    (256, 64, 64): ((128, 64, 64), 16, 144 * 64 * 64),  # of two tiles each has a halo on one side only
    (256, 48, 64): ((96, 48, 64), 16, 128 * 64 * 48),  # three tiles; the middle one reads 96 + 2 x 16
}


@pytest.mark.parametrize(("shape", "answer"), CHEAPEST.items())
def test_tiles_that_read_least_are_chosen(shape, answer):
    sides, halo, voxels = answer
    assert tile_sides(shape, halo, voxels) == sides


@given(st.lists(st.integers(1, 6), min_size=3, max_size=3), st.lists(st.integers(1, 4), min_size=3, max_size=3), halos)
def test_tiles_put_every_voxel_once_and_read_around_it(blocks, side_blocks, halo):
    shape, sides = [16 * n for n in blocks], [16 * n for n in side_blocks]
    count = torch.zeros(shape, dtype=torch.int32)
    index = torch.arange(count.numel()).reshape(shape)
    for read, keep, put in tiles(shape, sides, halo):
        count[put] += 1
        assert torch.equal(index[read][keep], index[put])
        for r, p, whole in zip(read, put, shape, strict=True):
            assert r.start == max(0, p.start - halo) and r.stop == min(whole, p.stop + halo)
            assert r.start % ALIGN == 0 and (r.stop - r.start) % ALIGN == 0
    assert bool((count == 1).all())


@pytest.fixture(scope="module")
def denoiser(make_denoiser) -> Denoiser:
    """Untrained, with every zero-initialised layer made to matter."""
    return make_denoiser(seed=5, awake=True)


@pytest.fixture(scope="module")
def prepared(make_phantom) -> Prepared:
    """A head longer than a tile and its halo, with thick slices along the first axis."""
    low = make_phantom((32, 30, 34), (12.0, 6.0, 6.0))
    return prepare(low, with_spacing(low.grid, (3.0, 6.0, 6.0)), PrepareSettings())


@pytest.fixture(scope="module")
def context(denoiser, prepared) -> TileContext:
    with torch.no_grad():
        return encode(denoiser, prepared)


def noise_like(context: TileContext) -> torch.Tensor:
    return 0.05 * torch.randn(1, *context.crop.shape, generator=rng_for(0))


def test_the_crop_is_the_foregrounds_box_coarsest_axis_last(context, prepared):
    assert context.crop.order == (1, 2, 0)
    where = prepared.mask_XYZ.nonzero()
    assert [s.start for s in context.crop.box] == where.amin(0).tolist()
    assert [s.stop for s in context.crop.box] == (where.amax(0) + 1).tolist()
    assert all(n % 16 == 0 for n in context.crop.shape)
    assert_close(
        context.crop.to_grid_order(context.condition.interpolated_BXYZ[0]), prepared.interpolated_XYZ[context.crop.box]
    )
    assert torch.equal(context.crop.to_grid_order(context.crop.foreground_BXYZ[0]), prepared.mask_XYZ[context.crop.box])
    assert int(context.crop.foreground_BXYZ.sum()) == int(prepared.mask_XYZ.sum())  # the padding is no foreground


def test_paste_fills_the_foreground_and_nothing_else(context, prepared):
    pasted = context.crop.paste(context.condition.interpolated_BXYZ, prepared.interpolated_XYZ)
    assert torch.equal(pasted[prepared.mask_XYZ], prepared.interpolated_XYZ[prepared.mask_XYZ])
    assert not bool(pasted[~prepared.mask_XYZ].any())


def test_gate_weights_sum_to_one_inside_and_to_zero_outside(context, prepared):
    gate = context.gate_weights()
    weights = torch.stack([gate.expert_XYZ(e, prepared.grid.shape) for e in range(4)], -1)
    assert_close(weights.sum(-1), prepared.mask_XYZ.float())


def test_cells_without_foreground_get_no_expert(context):
    cells = torch.nn.functional.max_pool3d(context.crop.foreground_BXYZ.float()[:, None], 2)[:, 0]
    assert 0 < float(cells.mean()) < 1
    assert_close(context.condition.weight_BxyzE.sum(-1), cells)


def test_cut_takes_the_same_place_from_every_lattice(context):
    box = (slice(0, 16), slice(16, 32), slice(32, 64))
    part, whole = cut(context.condition, box), context.condition
    assert torch.equal(part.interpolated_BXYZ, whole.interpolated_BXYZ[:, 0:16, 16:32, 32:64])
    assert torch.equal(part.weight_BxyzE, whole.weight_BxyzE[:, 0:8, 8:16, 16:32])
    assert torch.equal(part.token_BxyzD, whole.token_BxyzD[:, 0:4, 4:8, 8:16])
    for table, full, cells in zip(part.phase, whole.phase, (slice(0, 8), slice(8, 16), slice(16, 32)), strict=True):
        assert torch.equal(table, full[:, cells])
    assert torch.equal(part.acquisition_BG, whole.acquisition_BG)


def with_foreground(context: TileContext, foreground_BXYZ: torch.Tensor) -> TileContext:
    return replace(context, crop=replace(context.crop, foreground_BXYZ=foreground_BXYZ))


def everywhere(context: TileContext) -> TileContext:
    return with_foreground(context, torch.ones_like(context.crop.foreground_BXYZ))


def test_tiles_equal_one_pass(denoiser, context):
    x, full = noise_like(context), everywhere(context)
    with torch.no_grad():
        whole = denoiser(x, torch.tensor([SIGMA]), context.condition)
    assert torch.equal(denoise_tiled(denoiser, x, SIGMA, full, LARGE), whole)
    halo = reach(denoiser)
    sides = tile_sides(context.crop.shape, halo, voxels_read(context.crop.shape, (16, 16, 32), halo))
    assert len(list(tiles(context.crop.shape, sides, halo))) > 3
    assert max(sides) + 2 * halo < max(context.crop.shape)
    budget = budget_for(denoiser, context.crop.shape, (16, 16, 32))
    assert_close(denoise_tiled(denoiser, x, SIGMA, full, budget), whole, atol=1e-5, rtol=1e-4)


class Far(torch.nn.Module):
    """The mean of the features 12 cells away on either side along the last axis; outside the lattice they are zero."""

    def forward(self, h_BxyzC):
        padded = torch.nn.functional.pad(h_BxyzC, (0, 0, 12, 12))
        return (padded[..., :-24, :] + padded[..., 24:, :]) / 2


@pytest.mark.parametrize(("reach_cells", "equal"), [(12, True), (0, False)])
def test_the_halo_follows_the_branch_that_looks_furthest(reach_cells, equal, monkeypatch):
    """Tiles equal one pass for a branch that looks further than all others, as far as its row says how far."""
    monkeypatch.setitem(EXPERTS, "far", ExpertSpec(lambda channels: Far(), region="rest", reach_cells=reach_cells))
    config = DenoiserConfig(
        backbone=BackboneConfig(width=8, bottleneck_width=8, blocks_before=0, blocks_bottleneck=0, blocks_after=0),
        experts=ExpertsConfig(branches=("far", "plain"), width=16),
        gate=GateConfig(experts=2),
    )
    torch.manual_seed(0)
    denoiser, shape = Denoiser(config), (1, 16, 16, 160)
    base, x = torch.rand(shape), torch.randn(shape)
    at = PerAxis(*(torch.arange(float(n))[None] / 2 for n in shape[1:]))
    with torch.no_grad():
        scans = NetworkInput(base, torch.stack([base, base], 1), at, torch.tensor([0.02]))
        condition = make_condition(denoiser, scans)
        whole = denoiser(x, torch.tensor([SIGMA]), condition)
    box = (slice(0, 16), slice(0, 16), slice(0, 160))
    context = TileContext(InputCrop(box, (0, 1, 2), torch.ones(shape, dtype=torch.bool)), condition)
    tiled = denoise_tiled(denoiser, x, SIGMA, context, budget_for(denoiser, context.crop.shape, (16, 16, 32)))
    assert torch.allclose(tiled, whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-4) == equal


def test_the_network_sees_across_tile_borders(denoiser, context):
    """Were the halo missing, the equality above would fail: a tile alone gives something else."""
    x, box = noise_like(context), tuple(slice(0, 16 * (n // 32)) for n in context.crop.shape)
    with torch.no_grad():
        sigma = torch.tensor([SIGMA])
        whole = denoiser(x, sigma, context.condition)[(slice(None), *box)]
        alone = denoiser(x[(slice(None), *box)], sigma, cut(context.condition, box))
    assert float((whole - alone).abs().max()) > 1e-3 * float(whole.abs().max())


def test_tiles_without_foreground_stay_zero(denoiser, context):
    x = noise_like(context)
    inside = torch.zeros_like(context.crop.foreground_BXYZ)
    inside[..., -10:] = True  # the far end of the long axis
    few = with_foreground(context, inside)
    budget, halo = budget_for(denoiser, context.crop.shape, (16, 16, 32)), reach(denoiser)
    sides = tile_sides(context.crop.shape, halo, voxels_read(context.crop.shape, (16, 16, 32), halo))
    first = context.crop.shape[2] - 1 - (context.crop.shape[2] - 1) % sides[2]  # where the last tile starts
    out = denoise_tiled(denoiser, x, SIGMA, few, budget)
    full = denoise_tiled(denoiser, x, SIGMA, everywhere(context), budget)
    assert first > 0 and not bool(out[..., :first].any())
    assert torch.equal(out[..., first:], full[..., first:]) and bool(out[..., first:].any())
