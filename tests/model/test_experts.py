"""Sparse execution equals masked dense execution; one-hot weights run one expert alone."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from moediff.core.errors import ConfigError
from moediff.model.config import ExpertsConfig
from moediff.model.execution import CHUNK_ROWS, SLAB_BYTES
from moediff.model.expert_table import BRANCHED, EXPERTS, ExpertSpec
from moediff.model.experts import Experts
from moediff.model.layers import from_lattice, local_mean, to_lattice
from moediff.model.routing import cell_logits, cell_weights, shifted_logits, sparsify

PLAIN = ("white-matter", "cortex", "junction", "rest")


@pytest.fixture(params=[BRANCHED, PLAIN], ids=["branched", "plain"])
def parts(request):
    torch.manual_seed(0)
    experts = Experts(request.param, channels=8, embedding=4, width=16, layers=2)
    h, embedding = torch.randn(2, 24, 24, 16, 8), torch.randn(2, 4)
    assert h[..., 0].numel() > CHUNK_ROWS  # more than one chunk
    return experts, h, embedding, torch.randn(2, 24, 24, 16, 4).softmax(-1)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@torch.no_grad()
def test_sparse_equals_masked_dense(parts, top_k):
    experts, h, embedding, weight = parts
    weight = sparsify(weight, top_k, 0.1 if top_k < 4 else 0.0)
    weight[:, :5] = 0  # background
    expected = (experts.dense(h, embedding) * weight[..., None]).sum(-2)
    assert_close(experts.combine(h, embedding, weight), expected, atol=1e-5, rtol=1e-4)


def test_training_path_equals_inference_path(parts):
    experts, h, embedding, weight = parts
    with torch.no_grad():
        chunked = experts.combine(h, embedding, weight)
    assert_close(experts.combine(h, embedding, weight), chunked, atol=1e-5, rtol=1e-4)


def test_slabs_equal_the_whole(parts, monkeypatch):
    experts, h, embedding, weight = parts
    whole = experts.combine(h, embedding, weight)
    monkeypatch.setitem(SLAB_BYTES, "cpu", 0)  # slabs as thin as can be
    with torch.no_grad():
        assert_close(experts.combine(h, embedding, weight), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_each_expert_runs_alone_and_differs(parts):
    experts, h, embedding, weight = parts
    dense = experts.dense(h, embedding)
    for index in range(4):
        only = torch.zeros_like(weight)
        only[..., index] = 1
        assert_close(experts.combine(h, embedding, only), dense[..., index, :], atol=1e-5, rtol=1e-4)
    assert float((dense[..., 0, :] - dense[..., 1, :]).abs().mean()) > 1e-3


def test_unused_expert_is_not_run(parts):
    experts, h, embedding, weight = parts
    experts.each[2].pointwise = None  # type: ignore[assignment]  # would fail if called
    weight = weight.clone()
    weight[..., 2] = 0
    assert bool(torch.isfinite(experts.combine(h, embedding, weight)).all())


def test_an_unknown_branch_is_refused():
    with pytest.raises(ConfigError, match="choose from"):
        ExpertsConfig(branches=("magic",))


@pytest.mark.parametrize(("region", "reach"), [("cerebellum", 0), ("cortex", -1)])
def test_an_expert_of_no_region_is_refused(region, reach):
    with pytest.raises(ConfigError, match="choose from"):
        ExpertSpec(torch.nn.Identity, region=region, reach_cells=reach)


@pytest.mark.parametrize("name", BRANCHED)
@torch.no_grad()
def test_a_branch_looks_as_far_as_its_row_says(name):
    spec, side = EXPERTS[name], 24
    torch.manual_seed(0)
    assert spec.branch is not None
    branch, h = spec.branch(4), torch.randn(1, side, side, side, 4)
    moved = h.clone()
    moved[0, 12, 12, 12] += 1
    touched = ((branch(moved) - branch(h)).abs().amax(-1)[0] > 1e-7).nonzero()
    if name == "window":  # its own window of 4x4x4 cells
        assert int(touched.amin()) == 12 and int(touched.amax()) == 15
    else:
        assert int((touched - 12).abs().amax()) == spec.reach_cells


def test_both_sets_of_experts_serve_the_same_regions():
    assert ExpertsConfig(branches=BRANCHED).regions == ExpertsConfig(branches=PLAIN).regions
    assert {EXPERTS[name].branch for name in PLAIN} == {None} and ExpertsConfig(branches=PLAIN).reach_cells == 0


@pytest.mark.parametrize("factor", [2, 4])
def test_lattice_round_trip(factor):
    x = torch.randn(2, 8, 4, 12, 3)
    assert torch.equal(from_lattice(to_lattice(x, factor), factor), x)


def test_to_lattice_keeps_neighbours_together():
    x = torch.arange(64.0).reshape(1, 4, 4, 4, 1)
    assert sorted(to_lattice(x)[0, 0, 0, 0].tolist()) == [0, 1, 4, 5, 16, 17, 20, 21]


def test_local_mean_of_a_constant_is_constant_inside():
    mean = local_mean(torch.full((1, 7, 7, 7, 2), 3.0), 2)
    assert mean[0, 3, 3, 3, 0] == pytest.approx(3.0)
    assert mean[0, 0, 0, 0, 0] == pytest.approx(3.0 * 8 / 27)


def test_sparsify_keeps_the_largest_and_sums_to_one():
    weight = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.26, 0.25, 0.25, 0.24], [0.95, 0.03, 0.01, 0.01]])
    two = sparsify(weight, 2, 0.1)
    assert_close(two[0], torch.tensor([0.625, 0.375, 0.0, 0.0]))
    assert_close(two.sum(-1), torch.ones(3))
    assert_close(two[2], torch.tensor([1.0, 0.0, 0.0, 0.0]))


def test_cell_weights_sum_to_one():
    weight = cell_weights(torch.randn(1, 4, 4, 4, 3) * 5)
    assert weight.shape == (1, 8, 8, 8, 3)
    assert_close(weight.sum(-1), torch.ones(1, 8, 8, 8))


@pytest.mark.parametrize("offset", [0, 2, 6, 10, 14])
def test_logits_of_a_shifted_lattice_land_where_they_belong(offset):
    """Token means of a ramp along every axis; interpolation gives the ramp back inside."""

    def read(scan):
        return F.avg_pool3d(scan[:, None], 4)[:, 0, ..., None]

    ramp = torch.arange(32.0)
    scan = (ramp[:, None, None] + 100 * ramp[:, None] + 10_000 * ramp)[None]
    result = shifted_logits(read, scan, offset) if offset else cell_logits(read(scan))
    inner = slice(2, -2)
    assert_close(result[0, inner, inner, inner, 0], F.avg_pool3d(scan[:, None], 2)[0, 0, inner, inner, inner])
