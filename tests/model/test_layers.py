"""Lattices, convolutions on them, and how far a backbone looks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from moediff.model.conditioning import Modulators, PerAxis
from moediff.model.config import BackboneConfig
from moediff.model.denoiser import Backbone
from moediff.model.execution import SLAB_BYTES, attended, slabs
from moediff.model.layers import LINE, PLANE, Conv, from_lattice, local_mean, to_lattice

FULL = (3, 3, 3)


@pytest.mark.parametrize("factor", [2, 4])
def test_lattice_is_undone(factor):
    x = torch.rand(2, 8, 16, 8, 3)
    folded = to_lattice(x, factor)
    assert folded.shape == (2, 8 // factor, 16 // factor, 8 // factor, 3 * factor**3)
    assert torch.equal(from_lattice(folded, factor), x)


@pytest.mark.parametrize(("kernel", "reached"), [(FULL, (1, 1, 1)), (PLANE, (1, 1, 0)), (LINE, (0, 0, 1))])
def test_a_convolution_spreads_along_its_kernel_only(kernel, reached):
    layer, h = Conv(2, 3, kernel), torch.zeros(1, 5, 5, 5, 2)
    h[0, 2, 2, 2] = 1
    with torch.no_grad():
        touched = (layer(h) - layer(torch.zeros_like(h))).abs().amax(-1)[0] > 0
    expected = torch.zeros(5, 5, 5, dtype=torch.bool)
    expected[tuple(slice(2 - r, 3 + r) for r in reached)] = True
    assert torch.equal(touched, expected)


def test_local_mean_counts_the_outside_as_zero():
    ones = torch.ones(1, 4, 4, 4, 1)
    mean = local_mean(ones, 1)
    assert float(mean[0, 1, 1, 1, 0]) == pytest.approx(1) and float(mean[0, 0, 0, 0, 0]) == pytest.approx(8 / 27)


@pytest.mark.parametrize("slab_bytes", [0, 10_000, 10**9])
def test_slabs_of_a_backbone_equal_the_whole(slab_bytes, monkeypatch):
    torch.manual_seed(0)
    config = BackboneConfig(width=8, bottleneck_width=16, blocks_before=1, blocks_bottleneck=2, blocks_after=2)
    backbone = Backbone(config, embedding=4, token_width=4)
    phase = PerAxis(*(torch.randn(1, n, 6) for n in (20, 12, 8)))
    tokens, cells = torch.randn(1, 10, 6, 4, 4), torch.randn(1, 20, 12, 8, 40)
    modulators = Modulators(torch.randn(1, 4), phase)
    whole = backbone(cells, modulators, tokens)
    monkeypatch.setitem(SLAB_BYTES, "cpu", slab_bytes)
    with torch.no_grad():
        assert_close(backbone(cells, modulators, tokens), whole.detach(), atol=1e-5, rtol=1e-5)


def test_slabs_cover_the_axis_once_in_whole_windows(monkeypatch):
    h = torch.zeros(1, 22, 4, 4, 64)
    monkeypatch.setitem(SLAB_BYTES, "cpu", 6 * h[:, 0].numel() * 4)  # six planes: one window of four
    with torch.no_grad():
        parts = list(slabs(h, 4))
    assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]] and parts[-1].stop == 22
    assert [p.start for p in parts] == [0, 4, 8, 12, 16, 20]
    assert [p.start for p in slabs(h, 4)] == [0]  # with gradients, all at once


def test_a_backbone_looks_no_further_than_it_says():
    config = BackboneConfig(width=8, bottleneck_width=8, blocks_before=1, blocks_bottleneck=2, blocks_after=1)
    torch.manual_seed(0)
    backbone, side = Backbone(config, embedding=4, token_width=4), 48  # cells
    modulators = Modulators(torch.zeros(1, 4), PerAxis(*(torch.zeros(1, side, 6) for _ in range(3))))
    tokens = torch.zeros(1, *(side // 2,) * 3, 4)
    cells = torch.rand(1, side, side, side, 40)
    moved = cells.clone()
    moved[0, 24, 24, 24] += 1
    with torch.no_grad():
        touched = (backbone(moved, modulators, tokens) - backbone(cells, modulators, tokens)).abs().amax(-1)[0] > 1e-7
    reach = 2 * int((touched.nonzero() - 24).abs().amax())
    assert reach <= config.reach_voxels <= reach + 10
    assert replace(config, blocks_bottleneck=3).reach_voxels == config.reach_voxels + 4


def test_attention_on_a_cpu_is_worked_out_in_float32():
    q, k, v = (torch.randn(2, 3, 9, 8, requires_grad=True) for _ in "qkv")
    bias = torch.randn(3, 9, 9)
    exact = attended(q, k, v, bias)
    with torch.autocast("cpu", torch.bfloat16):  # which would take it back to bfloat16
        rough = attended(*(part.bfloat16() for part in (q, k, v)), bias)
    rounded = attended(*(part.bfloat16().float() for part in (q, k, v)), bias)
    assert rough.dtype == torch.bfloat16 and exact.dtype == torch.float32
    assert torch.equal(rough, rounded.bfloat16())
    assert not torch.equal(attended(q, k, v), exact)
    gradient = torch.autograd.grad(rough.float().sum(), v)[0]
    assert_close(gradient, torch.autograd.grad(exact.sum(), v)[0], atol=0.05, rtol=0.05)
