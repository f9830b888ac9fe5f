"""The optimiser: matrices made orthogonal, everything else as AdamW does it, decay apart from the gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from moediff.core.config import rng_for
from moediff.training.muon import Muon, is_matrix, orthogonalise


def step_with(optimiser: torch.optim.Optimizer, gradients: list[Tensor]) -> None:
    """One step with these gradients, in the order of the parameters."""
    for parameter, gradient in zip(optimiser.param_groups[0]["params"], gradients, strict=True):
        parameter.grad = gradient.clone()
    optimiser.step()


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_orthogonalise_evens_out_singular_values(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(*shape)))
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.4


@given(st.integers(0, 99), st.floats(1e-3, 1e3))
def test_orthogonalise_keeps_directions_and_forgets_size(seed, size):
    """U S V' becomes U S* V' with S* near one, whatever the matrix's size."""
    torch.manual_seed(seed)
    matrix = torch.randn(12, 20)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonalise(size * matrix) @ right.T
    assert_close(inner, inner.diagonal().diag(), atol=1e-3, rtol=0)
    assert float(inner.diagonal().min()) > 0.4 and float(inner.diagonal().max()) < 1.4
    assert_close(orthogonalise(size * matrix), orthogonalise(matrix), atol=1e-3, rtol=0)


def test_orthogonalise_treats_tall_and_wide_alike():
    torch.manual_seed(0)
    matrix = torch.randn(9, 30)
    assert_close(orthogonalise(matrix.T), orthogonalise(matrix).T)


def test_a_zero_matrix_stays_zero():
    assert torch.equal(orthogonalise(torch.zeros(8, 12)), torch.zeros(8, 12))


SHAPES = {
    "square": ((8, 8), True),
    "narrow in": ((64, 7), False),
    "narrow out": ((7, 64), False),
    "convolution": ((8, 1, 3, 3, 3), True),
    "pointwise of few": ((8, 4, 1, 1, 1), False),
    "vector": ((64,), False),
    "scalar": ((), False),
}


@pytest.mark.parametrize(("shape", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_matrices_have_two_sides_of_at_least_eight(shape, expected):
    assert is_matrix(nn.Parameter(torch.zeros(shape))) is expected


def test_muon_solves_a_least_squares_problem():
    """With a rate that falls to zero, as in training: steps of a fixed size would circle about the answer."""
    torch.manual_seed(0)
    layer, truth, steps = nn.Linear(16, 16), torch.randn(16, 16), 300
    optimiser = Muon(layer.parameters())
    x = torch.randn(256, 16)
    losses = []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        loss = (layer(x) - x @ truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 * losses[0]
    assert_close(layer.weight.detach().T, truth, atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(16,), (), (3, 40)])
def test_everything_but_matrices_follows_adamw(shape):
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape))
    muon = Muon([ours], lr=0.03, betas=(0.9, 0.99), weight_decay=0.2)
    adamw = torch.optim.AdamW([theirs], lr=0.03, betas=(0.9, 0.99), weight_decay=0.2)
    for _ in range(7):
        gradient = torch.randn(shape)
        step_with(muon, [gradient])
        step_with(adamw, [gradient])
        assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (8, 128), (96, 16), (16, 8, 3, 3, 3)])
def test_a_matrix_moves_as_far_as_adamw_would(shape):
    """Root mean square of an update is about 0.2 of the rate, whatever the shape (Liu et al. 2025)."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(shape))
    step_with(Muon([weight], lr=0.5), [1e-4 * torch.randn(shape)])
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.5, rel=0.2)


def test_a_matrix_moves_against_the_orthogonal_part_of_the_gradient():
    """The gradient of a diagonal matrix has known directions: the update is the same diagonal, evened out."""
    weight = nn.Parameter(torch.zeros(8, 8))
    step_with(Muon([weight], lr=1.0), [torch.diag(torch.arange(1.0, 9.0))])
    moved = -weight.detach() / (0.2 * 8**0.5)
    assert_close(moved, moved.diagonal().diag(), atol=1e-5, rtol=0)
    assert float(moved.diagonal().min()) > 0.4 and float(moved.diagonal().max()) < 1.4


def test_momentum_remembers_the_last_gradient():
    weight = nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], lr=1.0, momentum=0.9)
    step_with(optimiser, [torch.eye(8)])
    first = weight.detach().clone()
    step_with(optimiser, [torch.zeros(8, 8)])
    assert_close(optimiser.state[weight]["momentum"], 0.09 * torch.eye(8))  # 0.1, then 0.9 of it
    assert float(weight.detach().trace()) < float(first.trace()) < 0


@pytest.mark.parametrize("shape", [(16, 16), (16,)])
def test_weight_decay_shrinks_by_rate_times_decay_alone(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    weight = nn.Parameter(start.clone())
    step_with(Muon([weight], lr=0.1, weight_decay=0.5), [torch.zeros(shape)])
    assert_close(weight.detach(), start * 0.95)


def test_weight_decay_is_apart_from_the_gradient():
    torch.manual_seed(0)
    start, gradient = torch.randn(16, 16), torch.randn(16, 16)
    plain, decayed = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    step_with(Muon([plain], lr=0.1), [gradient])
    step_with(Muon([decayed], lr=0.1, weight_decay=0.5), [gradient])
    assert_close(decayed.detach(), plain.detach() - 0.05 * start)


def test_parameters_without_gradient_stay():
    weight = nn.Parameter(torch.ones(8, 8))
    optimiser = Muon([weight], lr=0.1, weight_decay=0.5)
    optimiser.step()
    assert torch.equal(weight.detach(), torch.ones(8, 8)) and not optimiser.state[weight]


def test_half_precision_orthogonalises_nearly_as_well():
    start = [torch.randn(48, 96, generator=rng_for(n)) for n in range(3)]
    moved = []
    for half in (False, True):
        parameters = [nn.Parameter(weight.clone()) for weight in start]
        for parameter, gradient in zip(parameters, start[::-1], strict=True):
            parameter.grad = gradient.clone()
        Muon(parameters, lr=0.1, half=half).step()
        assert all(parameter.dtype == torch.float32 for parameter in parameters)
        moved.append(
            torch.stack([parameter.detach() - weight for parameter, weight in zip(parameters, start, strict=True)])
        )
    assert float((moved[0] - moved[1]).norm() / moved[0].norm()) < 0.05
    values = torch.linalg.svdvals(moved[1]) / (0.1 * 0.2 * 96**0.5)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.25
