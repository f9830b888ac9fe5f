"""Encoder and gate taught alone: no backbone, no experts, and tokens that the backbone still knows."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from moediff.acquisition.prepare import PrepareSettings
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.model.config import BackboneConfig, DenoiserConfig, EncoderConfig, ExpertsConfig
from moediff.model.denoiser import Denoiser
from moediff.training.cache import TrainingScan
from moediff.training.config import TrainConfig
from moediff.training.gate_step import routing_loss
from moediff.training.losses import LossConfig, feature_distillation_loss
from moediff.training.patches import Batch, PatchSource

ALONE = LossConfig(aggregate=0.0, region=1.0, balance=0.1, shift_consistency=0.5, feature_distillation=1.0)


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(
        DenoiserConfig(
            embedding_width=8,
            backbone=BackboneConfig(width=8, bottleneck_width=8, blocks_bottleneck=1),
            encoder=EncoderConfig(width=16, attention_heads=2),
            experts=ExpertsConfig(width=8),
        )
    )


def halves() -> Batch:
    """A patch whose left half is one region, dark, and whose right half is another, bright."""
    data = torch.full((52, 52, 52), 0.2)
    data[26:] = 0.8
    region = torch.full(data.shape, 1, dtype=torch.uint8)
    region[26:] = 3
    head = TrainingScan(data.half(), torch.tensor([[26, 26, 26]]), 1.0, region, 1.0)
    settings = PrepareSettings()
    return PatchSource(scans=[head], patch=32, seed=0, settings=settings, augment=None).batch(0, 1)


def test_neither_backbone_nor_experts_run(denoiser, monkeypatch):
    monkeypatch.setattr(denoiser, "features", None)
    loss, parts = routing_loss(denoiser, denoiser.encoder, halves(), ALONE, rng_for(0))
    assert set(parts) == {"region", "balance", "shift_consistency", "feature_distillation", "loss"}
    expected = (
        parts["region"] + 0.1 * parts["balance"] + 0.5 * parts["shift_consistency"] + parts["feature_distillation"]
    )
    assert_close(loss.detach(), expected)
    loss.backward()
    taught = {name.split(".")[0] for name, p in denoiser.named_parameters() if p.grad is not None}
    assert {"encoder", "gate"} <= taught <= {"encoder", "gate", "backbone"}  # whose reading of tokens is frozen


def test_the_gate_learns_regions(denoiser):
    batch, before = halves(), deepcopy(denoiser.encoder)
    parameters = [*denoiser.encoder.parameters(), *denoiser.gate.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-3)
    found = []
    for step in range(60):
        loss, parts = routing_loss(denoiser, before, batch, LossConfig(aggregate=0.0, region=1.0), rng_for(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(float(parts["region"]))
    assert found[-1] < 0.5 * found[0]


def test_tokens_that_stay_cost_nothing_and_any_others_one_at_most():
    token = torch.randn(1, 4, 4, 4, 8, generator=rng_for(0))
    assert float(feature_distillation_loss(token, token)) == 0
    assert float(feature_distillation_loss(-token, token)) == pytest.approx(0.8)  # moved by twice its size: 4 / (4 + 1)
    assert 0.99 < float(feature_distillation_loss(1e6 * token, token)) <= 1
    assert float(feature_distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2))) == 0


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"loss.feature_distillation=1.0 needs loss.aggregate=0"):
        LossConfig(feature_distillation=1.0)
    plain = TrainConfig(out=str(tmp_path), loss=ALONE, only=("gate",))
    for only in ((), ("gate", "backbone")):
        with pytest.raises(ConfigError, match="name these parts there"):
            replace(plain, only=only)
