"""A step of encoder and gate alone: neither backbone nor experts run, so patches may be nearly as large as heads.

Axes: B batch, X Y Z voxels, xyz tokens, D width, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.model.denoiser import Denoiser
from moediff.model.encoder import COARSE, Encoder
from moediff.training.losses import (
    LossConfig,
    combine,
    feature_distillation_loss,
    gate_losses,
    region_target,
    shift_consistency_loss,
)
from moediff.training.patches import Batch

ROUTING = ("encoder", "gate")  # the parts of the network that such a step teaches


def routing_loss(
    denoiser: Denoiser, before: Encoder, batch: Batch, weights: LossConfig, rng: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise and its parts, without the result's error.

    Args:
        before: the encoder as it was when the run began, for feature distillation: the backbone, which stays, was
            taught by it.

    Returns:
        loss: scalar with gradient; parts: detached scalars by name.
    """
    token, logit = denoiser.gate_logits(batch.interpolated_BXYZ)
    parts = gate_losses(
        logit, None, region_target(batch.region_BXYZ, denoiser.config.experts.regions), weights.minimum_region_share
    )
    if weights.shift_consistency:
        parts["shift_consistency"] = shift_consistency(denoiser, batch.interpolated_BXYZ, logit, rng)
    if weights.feature_distillation:
        with torch.no_grad():
            known = denoiser.backbone.token_projection(before(batch.interpolated_BXYZ))
        read = denoiser.backbone.token_projection(token)
        parts["feature_distillation"] = feature_distillation_loss(read.float(), known.float())
    loss = combine(weights, torch.zeros_like(parts["region"]), None, parts)
    return loss, {name: value.detach() for name, value in {**parts, "loss": loss}.items()}


def shift_consistency(
    denoiser: Denoiser, interpolated_BXYZ: Tensor, logit_BxyzE: Tensor, rng: torch.Generator
) -> Tensor:
    """The gate read again where patches begin elsewhere: how far it differs from what it said first."""
    offset = torch.randint(1, COARSE, (3,), generator=rng).tolist()
    x, y, z = (slice(at, at + n - COARSE) for at, n in zip(offset, interpolated_BXYZ.shape[1:], strict=True))
    return shift_consistency_loss(logit_BxyzE, denoiser.gate_logits(interpolated_BXYZ[:, x, y, z])[1], offset)
