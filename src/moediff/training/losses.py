"""What training minimises; every term is bounded or weighted by a bounded number.

Axes: B batch, X Y Z voxels, xyz tokens (4 voxels), E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.anatomy.regions import REGIONS
from moediff.core.errors import ConfigError
from moediff.model.encoder import FINE

AGREEMENT_FLOOR = 0.05  # of the mean token error: the MAD temperature never falls below this

LEAST_SHARE = 0.05  # of a batch's labelled tokens: no expert's own region is counted as rarer than this


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms.

    Args:
        aggregate: error of the gate-weighted result; at 0 neither backbone nor experts run, and only `region`,
            `balance`, `shift_consistency` and `feature_distillation` count: a stage of encoder and gate alone, whose
            patches may be large.
        expert: each expert's own error, weighted by its region.
        normalise_expert_loss: each expert's own error counts alike, however small or easy its region; else by voxels
            and error.
        region: cross-entropy of the gate against label-map regions (anatomical prior).
        minimum_region_share: of a batch's labelled tokens: there, no region is counted as rarer than this.
        agreement: cross-entropy of the gate against the MAD-tempered agreement target.
        balance: pull of the mean load towards uniform.
        lesion: squared error inside planted lesions, besides what they count in the aggregate's: at 10 a voxel of
            theirs weighs 11 times as much as another, as if lesions were so much more frequent.
        gradient: squared error of the differences between neighbouring voxels, relative to the aggregate's.
        shift_consistency: cross-entropy between the gate's readings of one patch from two lattices of patches.
        feature_distillation: change since the run's start of what the backbone reads of the encoder's tokens; with
            `aggregate` 0 only.
        error: likelihood of the errors under what the uncertainty head predicts; moves that head alone.
        expert_loss_interval: steps from one on which every expert runs to the next; what is learned there counts that
            much more.
        relative_power: how far a patch's error counts relative to its own interpolation error (1) or absolutely (0).
        relative_floor: residual standard deviation under which a patch's error stops being up-weighted.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {
        "expert_evenly": "normalise_expert_loss",
        "least_share": "minimum_region_share",
        "steady": "shift_consistency",
        "tokens": "feature_distillation",
        "probe_every": "expert_loss_interval",
    }

    aggregate: float = 1.0
    expert: float = 0.2
    normalise_expert_loss: bool = False
    region: float = 0.05
    minimum_region_share: float = LEAST_SHARE
    agreement: float = 0.02
    balance: float = 0.01
    lesion: float = 0.0
    gradient: float = 0.0
    shift_consistency: float = 0.0
    feature_distillation: float = 0.0
    error: float = 0.1
    expert_loss_interval: int = 1
    relative_power: float = 0.75
    relative_floor: float = 0.015

    def __post_init__(self) -> None:
        for weight in fields(self):
            if not getattr(self, weight.name) >= 0:
                raise ConfigError(f"loss.{weight.name}={getattr(self, weight.name)} must be 0 or more")
        if self.expert_loss_interval < 1:
            raise ConfigError(f"loss.expert_loss_interval={self.expert_loss_interval} must be at least 1")
        if not 0 < self.minimum_region_share <= 1:
            raise ConfigError(f"loss.minimum_region_share={self.minimum_region_share} must lie in 0..1, above 0")
        if self.feature_distillation and self.aggregate:
            raise ConfigError(
                f"loss.feature_distillation={self.feature_distillation} needs loss.aggregate=0: "
                "else the backbone learns the new tokens itself"
            )

    def probes(self, step: int) -> bool:
        """Whether every expert runs on this step: not if nothing would be learned from it."""
        return step % self.expert_loss_interval == 0 and max(self.expert, self.agreement) > 0

    def rare(self) -> LossConfig:
        """The weights on a step on which every expert runs.

        Their own loss and the gate's agreement are terms of such steps alone, one in `expert_loss_interval`, so they
        count that many times there: in the mean over steps they weigh what the settings say.
        """
        often = self.expert_loss_interval
        return replace(self, expert=self.expert * often, agreement=self.agreement * often)


def relative_weight(truth_BXYZ: Tensor, interpolated_BXYZ: Tensor, sigma_data: float, weights: LossConfig) -> Tensor:
    """Weight of every patch [B]: sigma_data^-2 for a patch of average error, more where interpolation does well.

    A power of 1 makes gains count in dB whatever the contrast; 0 is the plain squared error.
    """
    error_B = (truth_BXYZ - interpolated_BXYZ).square().mean((1, 2, 3)) + weights.relative_floor**2
    return (error_B / sigma_data**2) ** -weights.relative_power / sigma_data**2


def to_tokens(value_BXYZ: Tensor) -> Tensor:
    """Mean over token cubes: [B, X, Y, Z] -> [B, X/4, Y/4, Z/4]."""
    return F.avg_pool3d(value_BXYZ[:, None].float(), FINE)[:, 0]


@dataclass(frozen=True)
class RegionTarget:
    """Share of every expert's region in a token [B, x, y, z, E], and how much of it is labelled [B, x, y, z]."""

    share_BxyzE: Tensor
    known_Bxyz: Tensor

    def first(self, count: int) -> RegionTarget:
        """Of the first examples alone."""
        return RegionTarget(self.share_BxyzE[:count], self.known_Bxyz[:count])


def region_target(region_BXYZ: Tensor, regions: Sequence[str]) -> RegionTarget:
    """What the gate should say, by a map of indices into `REGIONS`.

    Args:
        regions: each expert's (`ExpertsConfig.regions`); experts of one region share it evenly.
    """
    shares = torch.stack([to_tokens(region_BXYZ == REGIONS.index(region)) for region in regions], -1)
    if len(set(regions)) < len(regions):
        shares = shares / shares.new_tensor([regions.count(region) for region in regions])
    known = shares.sum(-1)
    return RegionTarget(shares / known.clamp_min(1e-6)[..., None], known)


def agreement_target(error_BxyzE: Tensor) -> Tensor:
    """Softmax of each expert's agreement with the truth, tempered by the spread of errors; detached.

    The temperature is 1.4826 x the median absolute deviation over tokens and experts, floored.
    """
    error = error_BxyzE.detach()
    gap = error - error.mean(-1, keepdim=True)
    spread = 1.4826 * (gap - gap.median()).abs().median()
    floor = AGREEMENT_FLOOR * error.mean() + 1e-12
    return (-gap / torch.maximum(spread, floor)).softmax(-1)


def region_weights(target: RegionTarget, minimum_region_share: float = LEAST_SHARE) -> Tensor:
    """Weight of each region [E], so that a rare one counts as much as "the rest"; at most 1 / minimum_region_share."""
    labelled = target.share_BxyzE * target.known_Bxyz[..., None]
    share = labelled.sum((0, 1, 2, 3)) / target.known_Bxyz.sum().clamp_min(1.0)
    return 1.0 / share.clamp_min(minimum_region_share)


def gate_losses(
    logit_BxyzE: Tensor, error_BxyzE: Tensor | None, target: RegionTarget, minimum_region_share: float = LEAST_SHARE
) -> dict[str, Tensor]:
    """Anatomical prior, agreement and balance, each at most about log E per token."""
    log_gate = logit_BxyzE.log_softmax(-1)
    prior = -(target.share_BxyzE * log_gate).sum(-1)
    weight = target.known_Bxyz * (target.share_BxyzE * region_weights(target, minimum_region_share)).sum(-1)
    terms = {
        "region": (prior * weight).sum() / weight.sum().clamp_min(1.0),
        "balance": balance(log_gate.exp(), target.known_Bxyz),
    }
    if error_BxyzE is not None:
        terms["agreement"] = -(agreement_target(error_BxyzE) * log_gate).sum(-1).mean()
    return terms


def balance(gate_BxyzE: Tensor, known_Bxyz: Tensor) -> Tensor:
    """How far the mean load of experts is from uniform, 0..log E.

    Labelled tokens count, where a batch has any: nobody works on air, so what the gate says of it is no load.
    """
    share = known_Bxyz + 1e-6
    load = (gate_BxyzE * share[..., None]).sum((0, 1, 2, 3)) / share.sum()
    return (load * (load * gate_BxyzE.shape[-1] + 1e-8).log()).sum()


def expert_loss(error_BxyzE: Tensor, logit_BxyzE: Tensor, target: RegionTarget, *, evenly: bool = False) -> Tensor:
    """Each expert's error in its own region: the labelled region where known, the (detached) gate elsewhere.

    Args:
        evenly: relative to the mean of all experts there, so that deep white matter, small and smooth, is learned as
            eagerly as the rest; at most the number of experts. A region under `LEAST_SHARE` of the tokens counts less.
    """
    region_BxyzE = torch.where(target.known_Bxyz[..., None] > 0.5, target.share_BxyzE, logit_BxyzE.detach().softmax(-1))
    if not evenly:
        return (region_BxyzE * error_BxyzE).sum(-1).mean()
    everyone = error_BxyzE.detach().mean(-1, keepdim=True)
    own_E, usual_E, share_E = (
        (region_BxyzE * part).mean((0, 1, 2, 3)) for part in (error_BxyzE, everyone, torch.ones_like(region_BxyzE))
    )
    return (own_E / usual_E.clamp_min(1e-12) * (share_E / LEAST_SHARE).clamp_max(1)).mean()


def lesion_loss(wrong_BXYZ: Tensor, lesion_BXYZ: Tensor, weight_B: Tensor) -> Tensor:
    """Weighted mean square of the error over all voxels, counting it inside planted lesions (share 0..1) only."""
    return ((wrong_BXYZ.square() * lesion_BXYZ).mean((1, 2, 3)) * weight_B).mean()


def gradient_loss(wrong_BXYZ: Tensor, weight_B: Tensor) -> Tensor:
    """Weighted mean square of the error's differences between neighbours, over the three axes."""
    square_B = sum(wrong_BXYZ.diff(dim=axis).square().mean((1, 2, 3)) for axis in (1, 2, 3))
    return (square_B * weight_B).mean() / 3


def shift_consistency_loss(logit_BxyzE: Tensor, other_BxyzE: Tensor, offset: Sequence[int]) -> Tensor:
    """How far two readings of a patch differ, the second from tokens that begin `offset` voxels later on each axis.

    Each reading is the other's target, so that neither is drawn to what is wrong with one lattice only; compared where
    both know, on every second voxel. At most about twice the largest logit (60).
    """
    fine = [_to_voxels(logit) for logit in (logit_BxyzE, other_BxyzE)]
    x, y, z = (slice(at, at + n) for at, n in zip(offset, fine[1].shape[2:], strict=True))
    one, other = (side[..., ::2, ::2, ::2] for side in (fine[0][:, :, x, y, z], fine[1]))
    log_one, log_other = one.log_softmax(1), other.log_softmax(1)
    both = log_one.exp().detach() * log_other + log_other.exp().detach() * log_one
    return -0.5 * both.sum(1).mean()


def _to_voxels(logit_BxyzE: Tensor) -> Tensor:
    """Smooth logits on voxels, [B, E, X, Y, Z]."""
    channels_first = logit_BxyzE.float().permute(0, 4, 1, 2, 3)
    return F.interpolate(channels_first, scale_factor=float(FINE), mode="trilinear", align_corners=False)


def feature_distillation_loss(token_BxyzD: Tensor, before_BxyzD: Tensor) -> Tensor:
    """How far tokens moved from what they were, as a share of both; 0..1."""
    moved = (token_BxyzD - before_BxyzD).square().mean()
    return moved / (moved + before_BxyzD.square().mean()).clamp_min(1e-12)


def error_loss(error_BXYZ: Tensor, log_error_BXYZ: Tensor) -> Tensor:
    """Negative log likelihood of Laplace errors of expected size b, up to a constant: |error| / b + log b.

    The head bounds b from below, so the term grows with an error at most linearly; 0 without examples.
    """
    if not len(error_BXYZ):
        return log_error_BXYZ.sum()
    return (error_BXYZ.detach().abs() * (-log_error_BXYZ).exp() + log_error_BXYZ).mean()


def combine(weights: LossConfig, aggregate: Tensor, expert: Tensor | None, others: dict[str, Tensor]) -> Tensor:
    """The weighted sum; `others` by the names of their weights."""
    total = weights.aggregate * aggregate + sum(getattr(weights, name) * value for name, value in others.items())
    return total if expert is None else total + weights.expert * expert
