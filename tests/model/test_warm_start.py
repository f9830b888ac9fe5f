"""Branching a uniform denoiser into experts changes nothing until training does."""

from dataclasses import replace

import pytest
import torch

from moediff.acquisition.point_spread import FREQUENCIES
from moediff.core.errors import ConfigError
from moediff.model.conditioning import NetworkInput, PerAxis
from moediff.model.config import BackboneConfig, DenoiserConfig, ExpertsConfig, GateConfig
from moediff.model.denoiser import Denoiser
from moediff.model.expert_table import BRANCHED
from moediff.model.routing import make_condition
from moediff.model.warm_start import begin_from

SMALL = DenoiserConfig(backbone=BackboneConfig(width=16, bottleneck_width=16), experts=ExpertsConfig(width=16))
UNIFORM = replace(SMALL, gate=GateConfig(experts=1, top_k=1), experts=replace(SMALL.experts, branches=("plain",)))


def result_of(denoiser: Denoiser) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    scan = torch.rand(1, 32, 32, 32, generator=rng)
    positions = PerAxis(*(torch.linspace(0, 31 / ratio, 32)[None] for ratio in (1, 1, 5)))
    scans = NetworkInput(scan, torch.stack([scan, scan], 1), positions, torch.tensor([0.02]))
    condition = make_condition(denoiser, scans)
    with torch.no_grad():
        return denoiser(torch.randn(scan.shape, generator=rng), torch.tensor([0.1]), condition)


@pytest.mark.parametrize("name", ["plain", "rest"])
@pytest.mark.parametrize("branches", [BRANCHED, ("white-matter", "cortex", "junction", "rest")], ids=["own", "none"])
def test_branched_experts_begin_as_the_uniform_denoiser(name, branches) -> None:
    torch.manual_seed(0)
    uniform = Denoiser(replace(UNIFORM, experts=replace(UNIFORM.experts, branches=(name,))))
    experts = Denoiser(replace(SMALL, experts=replace(SMALL.experts, branches=branches)))
    torch.nn.init.normal_(uniform.experts.each[0].output_projection.weight)
    before = result_of(experts)
    begin_from(experts, uniform)
    torch.testing.assert_close(result_of(experts), result_of(uniform), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, result_of(uniform), atol=1e-3)


def test_same_shape_is_copied() -> None:
    torch.manual_seed(0)
    first, second = Denoiser(SMALL), Denoiser(SMALL)
    begin_from(second, first)
    torch.testing.assert_close(result_of(second), result_of(first))


def test_another_backbone_is_refused() -> None:
    wider = replace(SMALL, backbone=BackboneConfig(width=24, bottleneck_width=16))
    with pytest.raises(ConfigError, match="another backbone"):
        begin_from(Denoiser(wider), Denoiser(UNIFORM))


def test_experts_branch_from_one_plain_expert_only() -> None:
    two = replace(SMALL, gate=GateConfig(experts=2), experts=replace(SMALL.experts, branches=("plain", "detail")))
    with pytest.raises(ConfigError, match="branch from one"):
        begin_from(Denoiser(SMALL), Denoiser(two))


def test_reading_how_axes_were_sampled_is_silent_until_it_is_learned() -> None:
    torch.manual_seed(0)
    before, reads = Denoiser(SMALL), Denoiser(replace(SMALL, reads_sampling=True))
    begin_from(reads, before)
    scan = torch.rand(1, 32, 32, 32)
    positions = PerAxis(*(torch.linspace(0, 31 / ratio, 32)[None] for ratio in (1, 1, 5)))
    plain = NetworkInput(scan, torch.stack([scan, scan], 1), positions, torch.tensor([0.02]))
    told = replace(plain, attenuation_BAF=torch.rand(1, 3, len(FREQUENCIES)))
    sigma = torch.tensor([0.1])
    with torch.no_grad():
        results = [net(scan, sigma, make_condition(net, what)) for net, what in ((before, plain), (reads, told))]
        torch.testing.assert_close(*results)
        with pytest.raises(ValueError, match="how its input was sampled"):
            reads(scan, sigma, make_condition(reads, plain))
        torch.nn.init.normal_(reads.sampling.weight)
        assert not torch.allclose(reads(scan, sigma, make_condition(reads, told)), results[0], atol=1e-4)
        again = Denoiser(reads.config)
        begin_from(again, reads)
        torch.testing.assert_close(again.sampling.weight, reads.sampling.weight)
    with pytest.raises(ConfigError, match="another backbone"):
        begin_from(before, reads)
