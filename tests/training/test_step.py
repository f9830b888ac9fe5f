"""One training step's loss: what it does not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moediff.core.config import rng_for
from moediff.diffusion.schedule import DiffusionConfig
from moediff.model.denoiser import Denoiser
from moediff.training.losses import LossConfig
from moediff.training.patches import Batch
from moediff.training.step import Draws, batch_loss

ORDER = (3, 1, 0, 2)  # plain, detail, smooth, window


def reordered(denoiser: Denoiser) -> Denoiser:
    """The same experts behind the same gate, listed in another order."""
    config = denoiser.config
    branches = tuple(config.experts.branches[index] for index in ORDER)
    other = Denoiser(replace(config, experts=replace(config.experts, branches=branches)))
    state = {name: value for name, value in denoiser.state_dict().items() if not name.startswith("experts.")}
    state["gate.query_ED"] = state["gate.query_ED"][list(ORDER)]
    other.load_state_dict(state, strict=False)
    for expert, index in zip(other.experts.each, ORDER, strict=True):
        expert.load_state_dict(denoiser.experts.each[index].state_dict())
    return other


def batch() -> Batch:
    rng = rng_for(0, "batch")
    truth = torch.rand(2, 32, 32, 32, generator=rng)
    noisy = truth + 0.05 * torch.randn(truth.shape, generator=rng)
    at = torch.arange(32.0)[None].expand(2, -1)
    region = torch.randint(0, 4, (2, 8, 8, 8), generator=rng, dtype=torch.uint8)
    for axis in (1, 2, 3):
        region = region.repeat_interleave(4, axis)
    neighbours = torch.stack([noisy, noisy], 1)
    return Batch(
        truth,
        torch.zeros_like(truth),
        noisy,
        neighbours,
        (at, at, at / 4),
        torch.full((2,), 0.02),
        region,
        torch.zeros(2, 3, 6),
    )


def test_the_order_of_experts_changes_no_loss(make_denoiser):
    """Each expert is trained on its own region wherever it stands in the list."""
    first = make_denoiser(awake=True)
    draws = [Draws(DiffusionConfig(), rng_for(0, "draws")) for _ in range(2)]
    parts, others = (
        batch_loss(denoiser, batch(), draw, LossConfig())[1]
        for denoiser, draw in zip((first, reordered(first)), draws, strict=True)
    )
    assert parts.keys() == others.keys() and float(parts["region"]) > 0
    for name, value in parts.items():
        assert float(others[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6, nan_ok=True), name
