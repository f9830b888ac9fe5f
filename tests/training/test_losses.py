"""Every term bounded; targets as they should be; the optimiser's matrices."""

import math

import pytest
import torch
from torch.testing import assert_close

from moediff.training.losses import agreement_target, expert_loss, gate_losses, region_target, relative_weight
from moediff.training.optimiser import Muon, orthogonalise


def test_agreement_prefers_the_expert_with_the_least_error_and_is_detached():
    error = torch.rand(1, 4, 4, 4, 3, requires_grad=True)
    target = agreement_target(error)
    assert not target.requires_grad
    assert torch.equal(target.argmax(-1), error.argmin(-1))
    assert_close(target.sum(-1), torch.ones(1, 4, 4, 4))


def test_agreement_of_equal_experts_is_uniform_not_nan():
    assert_close(agreement_target(torch.full((1, 2, 2, 2, 4), 0.3)), torch.full((1, 2, 2, 2, 4), 0.25))


def test_region_target_counts_voxels():
    region = torch.full((1, 8, 4, 4), 255, dtype=torch.uint8)
    region[0, :2], region[0, 2:4] = 0, 2
    target, known = region_target(region, 4)
    assert_close(target[0, 0, 0, 0], torch.tensor([0.5, 0.0, 0.5, 0.0]))
    assert_close(known[0, :, 0, 0], torch.tensor([1.0, 0.0]))


def test_gate_terms_are_bounded():
    region = torch.randint(0, 4, (1, 16, 16, 16), dtype=torch.uint8)
    for scale in (0.0, 1.0, 30.0):
        terms = gate_losses(torch.randn(1, 4, 4, 4, 4) * scale, torch.rand(1, 4, 4, 4, 4), region)
        assert 0 <= float(terms["balance"]) <= math.log(4) + 1e-4
        assert all(math.isfinite(float(term)) for term in terms.values())


def test_balance_is_zero_when_uniform():
    region = torch.full((1, 8, 8, 8), 255, dtype=torch.uint8)
    assert float(gate_losses(torch.zeros(1, 2, 2, 2, 4), None, region)["balance"]) == pytest.approx(0, abs=1e-6)


def test_expert_loss_counts_only_the_home_region():
    region = torch.ones(1, 8, 8, 8, dtype=torch.uint8)
    error = torch.tensor([5.0, 0.5, 5.0, 5.0]).expand(1, 2, 2, 2, 4)
    assert float(expert_loss(error, torch.zeros(1, 2, 2, 2, 4), region)) == pytest.approx(0.5)


def test_relative_weight_has_a_floor():
    base = torch.zeros(2, 4, 4, 4)
    truth = torch.stack([torch.zeros(4, 4, 4), torch.full((4, 4, 4), 0.1)])
    weight = relative_weight(truth, base, 0.01)
    assert float(weight[0]) == pytest.approx(1e4)
    assert float(weight[1]) == pytest.approx(1 / (0.01 + 1e-4))


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_orthogonalise_evens_out_singular_values(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(*shape)))
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.4


def test_muon_solves_a_least_squares_problem():
    torch.manual_seed(0)
    layer, truth = torch.nn.Linear(16, 16), torch.randn(16, 16)
    optimiser = Muon(layer.parameters(), lr=2e-2)
    x = torch.randn(256, 16)
    losses = []
    for _ in range(300):
        loss = (layer(x) - x @ truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.02 * losses[0]
