"""Every term bounded; targets as they should be."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from moediff.anatomy.regions import REGIONS
from moediff.core.errors import ConfigError
from moediff.model.config import ExpertsConfig
from moediff.training.losses import (
    LossConfig,
    agreement_target,
    error_loss,
    expert_loss,
    gate_losses,
    gradient_loss,
    lesion_loss,
    region_target,
    relative_weight,
    shift_consistency_loss,
)


def by_regions(region):
    """Targets of one expert a region, in the usual order."""
    return region_target(region, REGIONS)


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
    target = region_target(region, REGIONS)
    assert_close(target.share_BxyzE[0, 0, 0, 0], torch.tensor([0.5, 0.0, 0.5, 0.0]))
    assert_close(target.known_Bxyz[0, :, 0, 0], torch.tensor([1.0, 0.0]))


def test_every_expert_gets_its_own_region_in_whatever_order_experts_come():
    region = torch.randint(0, 4, (1, 8, 8, 8), dtype=torch.uint8)
    usual, other = ExpertsConfig(), ExpertsConfig(branches=("plain", "window", "smooth", "detail"))
    assert (usual.regions, other.regions) == (REGIONS, ("rest", "junction", "deep white matter", "cortex"))
    one, two = region_target(region, usual.regions), region_target(region, other.regions)
    assert torch.equal(one.share_BxyzE[..., [3, 2, 0, 1]], two.share_BxyzE)


def test_experts_of_one_region_share_it_and_a_region_without_an_expert_is_unknown():
    region = torch.full((1, 8, 4, 4), 1, dtype=torch.uint8)
    region[0, 4:] = 0
    target = region_target(region, ("cortex", "rest", "cortex"))
    assert_close(target.share_BxyzE[0, 0, 0, 0], torch.tensor([0.5, 0.0, 0.5]))
    assert_close(target.known_Bxyz[0, :, 0, 0], torch.tensor([1.0, 0.0]))


def test_gate_terms_are_bounded():
    region = torch.randint(0, 4, (1, 16, 16, 16), dtype=torch.uint8)
    for scale in (0.0, 1.0, 30.0):
        terms = gate_losses(torch.randn(1, 4, 4, 4, 4) * scale, torch.rand(1, 4, 4, 4, 4), by_regions(region))
        assert 0 <= float(terms["balance"]) <= math.log(4) + 1e-4
        assert all(math.isfinite(float(term)) for term in terms.values())


def test_a_rare_region_counts_as_much_as_a_common_one():
    region = torch.full((1, 40, 4, 4), 3, dtype=torch.uint8)
    region[:, :4] = 0
    logit = torch.tensor([0.1, 0.1, 0.1, 0.7]).log().expand(1, 10, 1, 1, 4)
    expected = (-math.log(0.1) - math.log(0.7)) / 2
    assert float(gate_losses(logit, None, by_regions(region))["region"]) == pytest.approx(expected, rel=1e-4)


def test_how_much_a_rare_region_counts_is_bounded_by_a_share():
    region = torch.full((1, 100, 4, 4), 3, dtype=torch.uint8)
    region[:, :4] = 0  # 4 % of it
    logit = torch.tensor([0.1, 0.1, 0.1, 0.7]).log().expand(1, 25, 1, 1, 4)
    for least, share in ((0.04, 0.5), (0.08, 1 / 3)):
        expected = -share * math.log(0.1) - (1 - share) * math.log(0.7)
        assert float(gate_losses(logit, None, by_regions(region), least)["region"]) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ConfigError, match=r"loss.minimum_region_share=0.0 must lie in 0..1"):
        LossConfig(minimum_region_share=0.0)


def test_balance_is_zero_when_uniform():
    region = torch.full((1, 8, 8, 8), 255, dtype=torch.uint8)
    assert float(gate_losses(torch.zeros(1, 2, 2, 2, 4), None, by_regions(region))["balance"]) == pytest.approx(
        0, abs=1e-6
    )


def test_balance_is_of_labelled_tokens_only():
    region = torch.full((1, 8, 8, 8), 255, dtype=torch.uint8)
    region[:, :4] = 2
    gate = torch.zeros(1, 2, 2, 2, 4)
    gate[:, 1, ..., 0] = 30.0  # air goes to one expert alone
    assert float(gate_losses(gate, None, by_regions(region))["balance"]) == pytest.approx(0, abs=1e-4)
    assert float(gate_losses(gate.flip(1), None, by_regions(region))["balance"]) == pytest.approx(math.log(4), rel=1e-3)


def test_expert_loss_counts_only_the_home_region():
    region = torch.ones(1, 8, 8, 8, dtype=torch.uint8)
    error = torch.tensor([5.0, 0.5, 5.0, 5.0]).expand(1, 2, 2, 2, 4)
    assert float(expert_loss(error, torch.zeros(1, 2, 2, 2, 4), by_regions(region))) == pytest.approx(0.5)


def test_evenly_a_small_and_easy_home_counts_as_much_as_the_rest():
    """One token of eight is deep white matter, its errors a hundred times smaller."""
    region = torch.full((1, 8, 8, 8), 3, dtype=torch.uint8)
    region[:, :4, :4, :4] = 0
    error = torch.ones(1, 2, 2, 2, 4)
    error[0, 0, 0, 0] = 0.01
    logit = torch.zeros(1, 2, 2, 2, 4)

    def pull(evenly: bool) -> list[float]:
        leaf = error.clone().requires_grad_()
        expert_loss(leaf, logit, by_regions(region), evenly=evenly).backward()
        return (leaf.grad * error).sum((0, 1, 2, 3)).tolist()  # what a change by a hundredth would bring

    assert pull(evenly=False) == pytest.approx([0.01 / 8, 0, 0, 7 / 8])
    assert pull(evenly=True) == pytest.approx([0.25, 0, 0, 0.25])  # one of four experts each
    bad = error.clone()
    bad[0, 0, 0, 0, 0] = 1e9  # bounded, whatever an expert does
    assert float(expert_loss(bad, logit, by_regions(region), evenly=True)) <= 4
    scattered = torch.full((1, 32, 32, 32), 3, dtype=torch.uint8)
    scattered[:, :4, :4, :4] = 0  # one token of 512 is a home under 5 %
    loss = expert_loss(torch.ones(1, 8, 8, 8, 4), torch.zeros(1, 8, 8, 8, 4), by_regions(scattered), evenly=True)
    assert float(loss) == pytest.approx((1 / 512 / 0.05 + 1) / 4)


def test_relative_weight_has_a_floor():
    base = torch.zeros(2, 4, 4, 4)
    truth = torch.stack([torch.zeros(4, 4, 4), torch.full((4, 4, 4), 0.1)])
    weight = relative_weight(truth, base, 0.05, LossConfig(relative_power=1.0, relative_floor=0.01))
    assert float(weight[0]) == pytest.approx(1e4)
    assert float(weight[1]) == pytest.approx(1 / (0.01 + 1e-4))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_relative_weight_of_an_average_patch_is_one_over_its_variance(power):
    base, truth = torch.zeros(2, 4, 4, 4), torch.stack([torch.full((4, 4, 4), 0.05), torch.full((4, 4, 4), 0.1)])
    weight = relative_weight(truth, base, 0.05, LossConfig(relative_power=power, relative_floor=0.0))
    assert float(weight[0]) == pytest.approx(1 / 0.05**2)
    assert float(weight[1] / weight[0]) == pytest.approx(4.0**-power)


def test_the_error_that_is_likeliest_is_the_mean_of_what_happens():
    """Laplace: |error| / b + log b is least at b = mean |error|."""
    errors = torch.randn(4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    log_error = errors.abs().mean().log().expand_as(errors).clone().requires_grad_()
    error_loss(errors, log_error).backward()
    assert float(log_error.grad.sum().abs()) < 1e-5
    worse = [error_loss(errors, log_error.detach() + shift) for shift in (-0.2, 0.2)]
    assert min(worse) > error_loss(errors, log_error.detach())


def test_without_examples_there_is_no_error_to_foretell():
    log_error = torch.zeros(0, 4, 4, 4, requires_grad=True)
    assert float(error_loss(torch.zeros(0, 4, 4, 4), log_error).detach()) == 0


def test_what_is_learned_on_every_third_step_counts_three_times():
    weights = LossConfig(expert=0.2, agreement=0.02, region=0.05, expert_loss_interval=3)
    assert [weights.probes(step) for step in range(4)] == [True, False, False, True]
    rare = weights.rare()
    assert (rare.expert, rare.agreement) == (pytest.approx(0.6), pytest.approx(0.06))
    assert replace(rare, expert=0.2, agreement=0.02) == weights
    with pytest.raises(ConfigError, match="expert_loss_interval=0"):
        LossConfig(expert_loss_interval=0)


def test_experts_are_not_probed_for_nothing():
    assert not LossConfig(expert=0.0, agreement=0.0).probes(0)
    assert LossConfig(expert=0.1, agreement=0.0).probes(0)


def test_readings_that_agree_pull_nowhere():
    """Two lattices a token apart that say the same: no gradient, and the term is their entropy."""
    logit = torch.randn(1, 1, 1, 1, 3).expand(1, 8, 8, 8, 3).clone().requires_grad_()
    other = logit.detach()[:, :4, :4, :4].clone().requires_grad_()
    term = shift_consistency_loss(logit, other, (4, 8, 12))
    term.backward()
    entropy = -(logit.softmax(-1) * logit.log_softmax(-1)).sum(-1).mean()
    assert float(term.detach()) == pytest.approx(float(entropy.detach()), abs=1e-5)
    assert float(logit.grad.abs().max()) < 1e-6 and float(other.grad.abs().max()) < 1e-6


def test_readings_that_differ_pull_both_towards_each_other():
    logit = torch.zeros(1, 8, 8, 8, 2, requires_grad=True)
    other = torch.tensor([2.0, 0.0]).expand(1, 4, 4, 4, 2).clone().requires_grad_()
    shift_consistency_loss(logit, other, (1, 2, 3)).backward()
    assert float(logit.grad[..., 0].sum()) < 0 < float(logit.grad[..., 1].sum())
    assert float(other.grad[..., 0].sum()) > 0 > float(other.grad[..., 1].sum())


def test_readings_are_compared_where_both_lie():
    """A map that follows the voxels, read from 4 voxels later: moving by the offset gives the least difference."""
    voxels = torch.zeros(1, 12, 12, 12, 2)
    voxels[:, :6, :, :, 0], voxels[:, 6:, :, :, 1] = 6.0, 6.0
    other = voxels[:, 1:9, 1:9, 1:9]
    right, wrong = (float(shift_consistency_loss(voxels, other, offset)) for offset in ((4, 4, 4), (0, 4, 4)))
    assert right < 0.7 * wrong


def test_the_lesion_term_counts_errors_inside_lesions_by_their_share_of_a_voxel():
    wrong, lesion, weight = torch.full((2, 8, 8, 8), 0.5), torch.zeros(2, 8, 8, 8), torch.tensor([2.0, 1.0])
    wrong[0, :2], lesion[0, :2], lesion[0, 2:4] = 3.0, 1.0, 0.5
    assert float(lesion_loss(wrong, lesion, weight)) == pytest.approx(0.5 * 2.0 * (0.25 * 9.0 + 0.125 * 0.25))
    assert float(lesion_loss(wrong, torch.zeros_like(lesion), weight)) == 0


def test_the_gradient_term_sees_what_is_rough_and_not_what_is_shifted():
    step = torch.zeros(2, 8, 8, 8)
    step[0] += 3.0  # a wrong level only
    step[1, 4:] = 2.0  # one edge of 2 along x: 64 of 448 differences, and none along y and z
    weight = torch.tensor([5.0, 3.0])
    assert float(gradient_loss(step, weight)) == pytest.approx(0.5 * 3.0 * (4.0 / 7) / 3)
