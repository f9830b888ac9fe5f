"""Preconditioning, gradients, the encoder's scales, and which settings are refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from moediff.core.errors import ConfigError
from moediff.model.conditioning import NetworkInput, PerAxis, sampling_phase
from moediff.model.config import DenoiserConfig, EncoderConfig, GateConfig
from moediff.model.routing import cell_weights, make_condition, routing_of


def condition_of(denoiser, scan, sparse=True):
    step = torch.arange(scan.shape[1])[None].float() / 2
    positions = tuple(step[:, :n] if n <= scan.shape[1] else torch.arange(n)[None] / 2 for n in scan.shape[1:])
    positions = tuple(p.expand(len(scan), -1) for p in positions)
    noise = torch.full((len(scan),), 0.01)
    scans = NetworkInput(scan, torch.stack([scan, scan], 1), PerAxis(*positions), noise)
    return make_condition(denoiser, scans, sparse=sparse)


def test_without_noise_the_input_is_the_answer(small):
    scan, x = torch.rand(1, 32, 32, 16), torch.randn(1, 32, 32, 16)
    with torch.no_grad():
        assert_close(small(x, torch.tensor([1e-6]), condition_of(small, scan)), x, atol=1e-4, rtol=1e-4)


def test_at_large_sigma_the_noise_hardly_matters(small):
    scan, sigma = torch.rand(1, 32, 32, 16), torch.tensor([50.0])
    with torch.no_grad():
        condition = condition_of(small, scan)
        calm = small(torch.zeros_like(scan), sigma, condition)
        noisy = small(sigma * torch.randn_like(scan), sigma, condition)
    assert float((calm - noisy).abs().mean()) < 0.05 * small.config.sigma_data


def test_every_parameter_learns(small):
    scan = torch.rand(2, 32, 32, 32)
    condition = condition_of(small, scan, sparse=False)
    output = small.for_training(torch.randn_like(scan), torch.tensor([0.05, 0.1]), condition, 1)
    assert output.expert_EBXYZ.shape == (4, 1, 32, 32, 32)
    parts = output.mean_BXYZ, output.expert_EBXYZ, output.log_error_BXYZ
    sum(part.square().mean() for part in parts).backward()
    still = [name for name, p in small.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert not still


@torch.no_grad()
def test_aggregate_is_the_weighted_sum_of_the_experts(small):
    scan = torch.rand(1, 32, 32, 32)
    condition = condition_of(small, scan)
    x, sigma = torch.randn_like(scan), torch.tensor([0.2])
    voxel = condition.weight_BxyzE
    for axis in (1, 2, 3):
        voxel = voxel.repeat_interleave(2, axis)
    each = small.for_training(x, sigma, condition, 1).expert_EBXYZ
    assert_close(small(x, sigma, condition), (each * voxel.permute(4, 0, 1, 2, 3)).sum(0), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_scales_exchange_information(small):
    scan = torch.rand(1, 48, 32, 32)
    tokens = small.encoder(scan)
    assert tokens.shape == (1, 12, 8, 8, 16)
    far = scan.clone()
    far[0, 40:48] += 1.0
    moved = (small.encoder(far) - tokens).abs().amax(-1)
    assert float(moved[0, 0, 0, 0]) > 1e-6  # two coarse patches away


@torch.no_grad()
def test_the_bottleneck_stays_alive_whatever_the_modulation(small):
    """Factors that multiply up from block to block once silenced every ReLU behind them."""
    scan = torch.rand(1, 32, 32, 32)
    condition = condition_of(small, scan)
    for block in small.backbone.bottleneck:
        block.modulate.from_embedding.weight.mul_(1e4)
    seen = []
    small.backbone.up.register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    small(torch.randn_like(scan), torch.tensor([0.1]), condition)
    into, out = seen[0]
    assert float(into.max()) < 10  # unit size per site, before the last ReLU
    assert float(out.flatten(0, -2).std(0).min()) > 1e-3  # differs from place to place in every channel


@torch.no_grad()
def test_routing_is_the_mean_over_lattices(small):
    """By hand: the same scan embedded 6 voxels further into a larger one, its patches then beginning at voxel 10."""
    scan = torch.rand(1, 32, 48, 32)
    one = routing_of(small, scan).weight_BxyzE
    small.config = replace(small.config, gate=replace(small.config.gate, patch_offsets=(0, 10)))
    larger = torch.zeros(1, 48, 64, 48)
    larger[:, 6:38, 6:54, 6:38] = scan
    other = cell_weights(small.gate_logits(larger)[1])[:, 3:19, 3:27, 3:19]
    both = (one.log() + other.log()).div(2).softmax(-1)
    assert_close(routing_of(small, scan).weight_BxyzE, both, atol=1e-5, rtol=1e-5)
    assert float((one - other).abs().max()) > 1e-4


@torch.no_grad()
def test_smooth_routing_is_the_mean_over_cells_nearby(small):
    """In logits, over the 3x3x3 cells around each that there are, twice."""
    scan = torch.rand(1, 32, 48, 32)
    logit = routing_of(small, scan).weight_BxyzE.log().movedim(-1, 1)
    for _ in range(2):
        logit = F.avg_pool3d(logit, 3, 1, 1, count_include_pad=False)
    small.config = replace(small.config, gate=replace(small.config.gate, smoothing_passes=2))
    assert_close(routing_of(small, scan).weight_BxyzE, logit.softmax(1).movedim(1, -1), atol=1e-5, rtol=1e-5)


def test_phase_features_know_where_samples_lie():
    phase = sampling_phase(torch.tensor([[0.0, 0.25, 0.5, 0.75]]), torch.tensor([4.0]))
    assert phase.shape == (1, 2, 6)
    assert_close(phase[0, 0, :2], torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)  # cosines of 0 and a quarter turn
    flat = sampling_phase(torch.tensor([[0.0, 1.0]]), torch.tensor([1.0]))
    assert float(flat.abs().max()) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenoiserConfig(gate=GateConfig(experts=3)),
        lambda: DenoiserConfig(sigma_data=0),
        lambda: GateConfig(top_k=5),
        lambda: GateConfig(threshold=0.9),
        lambda: GateConfig(patch_offsets=()),
        lambda: GateConfig(patch_offsets=(10, 0)),
        lambda: GateConfig(patch_offsets=(0, 3)),
        lambda: GateConfig(patch_offsets=(0, 16)),
        lambda: GateConfig(smoothing_passes=-1),
        lambda: EncoderConfig(width=10, attention_heads=4),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()
