"""The error head: positive, the same in slabs, and a bystander to what it judges."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from moediff.model import layers as blocks
from moediff.model.denoiser import make_condition
from moediff.model.uncertainty_head import HIGHEST, LOWEST, ErrorHead


def test_slabs_equal_the_whole(monkeypatch):
    torch.manual_seed(0)
    head, h, vector = ErrorHead(8, 4, 16), torch.randn(2, 9, 4, 4, 8), torch.randn(2, 4)
    whole = head(h, vector)
    monkeypatch.setitem(blocks.SLAB_BYTES, "cpu", 0)
    with torch.no_grad():
        assert_close(head(h, vector), whole.detach())


@torch.no_grad()
def test_what_it_says_is_bounded():
    torch.manual_seed(0)
    log_error = ErrorHead(8, 4, 16)(1e6 * torch.randn(1, 4, 4, 4, 8), torch.zeros(1, 4))
    assert float(log_error.min()) == LOWEST and float(log_error.max()) == HIGHEST


def test_it_leaves_the_rest_of_the_network_alone(small):
    base = torch.rand(1, 32, 32, 32)
    positions = tuple(torch.arange(32.0)[None] / 2 for _ in range(3))
    condition = make_condition(small, (base, torch.stack([base, base], 1)), positions, torch.tensor([0.01]))
    x, sigma = torch.zeros_like(base), torch.tensor([1.0])
    blended, _, log_error = small.with_experts(x, sigma, condition, 0)
    log_error.sum().backward()
    assert {name for name, p in small.named_parameters() if p.grad is not None} == {
        f"error.{name}" for name, _ in small.error.named_parameters()
    }
    with torch.no_grad():
        mean, error = small.with_error(x, sigma, condition)
    assert_close(mean, blended.detach(), atol=1e-5, rtol=1e-4)
    assert_close(error, log_error.detach().exp() * small.config.sigma_data, atol=1e-6, rtol=1e-4)
