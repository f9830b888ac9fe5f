"""The uncertainty head: positive, the same in slabs, and a bystander to what it judges."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from moediff.model.conditioning import NetworkInput, PerAxis
from moediff.model.execution import SLAB_BYTES
from moediff.model.routing import make_condition
from moediff.model.uncertainty_head import HIGHEST, LOWEST, UncertaintyHead


def test_slabs_equal_the_whole(monkeypatch):
    torch.manual_seed(0)
    layer, h, embedding = UncertaintyHead(8, 4, 16), torch.randn(2, 9, 4, 4, 8), torch.randn(2, 4)
    whole = layer(h, embedding)
    monkeypatch.setitem(SLAB_BYTES, "cpu", 0)
    with torch.no_grad():
        assert_close(layer(h, embedding), whole.detach())


@torch.no_grad()
def test_its_result_is_bounded():
    torch.manual_seed(0)
    log_error = UncertaintyHead(8, 4, 16)(1e6 * torch.randn(1, 4, 4, 4, 8), torch.zeros(1, 4))
    assert float(log_error.min()) == LOWEST and float(log_error.max()) == HIGHEST


def test_it_leaves_the_rest_of_the_network_alone(small):
    scan = torch.rand(1, 32, 32, 32)
    positions = PerAxis(*(torch.arange(32.0)[None] / 2 for _ in range(3)))
    condition = make_condition(small, NetworkInput(scan, torch.stack([scan, scan], 1), positions, torch.tensor([0.01])))
    x, sigma = torch.zeros_like(scan), torch.tensor([1.0])
    output = small.for_training(x, sigma, condition, 0)
    output.log_error_BXYZ.sum().backward()
    assert {name for name, p in small.named_parameters() if p.grad is not None} == {
        f"uncertainty_head.{name}" for name, _ in small.uncertainty_head.named_parameters()
    }
    with torch.no_grad():
        mean, error = small.with_uncertainty(x, sigma, condition)
    assert_close(mean, output.mean_BXYZ.detach(), atol=1e-5, rtol=1e-4)
    assert_close(error, output.log_error_BXYZ.detach().exp() * small.config.sigma_data, atol=1e-6, rtol=1e-4)
