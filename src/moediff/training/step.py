"""One training step's loss: the same D(x, sigma, condition) that the sampler uses.

Axes: B batch, X Y Z voxels, xyz tokens, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.diffusion.process import ProcessConfig, draw_sigma, loss_weight
from moediff.model.denoiser import Denoiser, condition_from
from moediff.training.dataset import Batch
from moediff.training.losses import (
    LossConfig,
    combine,
    error_loss,
    expert_loss,
    gate_losses,
    relative_weight,
    to_tokens,
)

PROBED = (
    1  # examples of a process's batch on which every expert runs, for the agreement target and the experts' own loss
)


@dataclass(frozen=True)
class Draws:
    """Noise levels and noise of one step; a process takes its share of what is drawn for the whole batch."""

    process: ProcessConfig
    rng: torch.Generator
    rank: int = 0
    of: int = 1

    def __call__(self, shape: tuple[int, ...], sigma_data: float) -> tuple[Tensor, Tensor]:
        """Sigma [B] and unit noise [B, X, Y, Z] for a share of this shape."""
        mine = slice(self.rank * shape[0], (self.rank + 1) * shape[0])
        sigma_B = draw_sigma(shape[0] * self.of, sigma_data, self.process, self.rng)
        return sigma_B[mine], torch.randn(shape[0] * self.of, *shape[1:], generator=self.rng)[mine]


def batch_loss(denoiser: Denoiser, batch: Batch, draws: Draws, weights: LossConfig) -> tuple[Tensor, dict[str, float]]:
    """The loss to minimise and its parts.

    Returns:
        loss: scalar with gradient; parts: detached values by name ("aggregate" is error over interpolation's error at
        sigma_max, so 1 means no gain).
    """
    token, logit = denoiser.gate_logits(batch.base_BXYZ)
    scan = batch.base_BXYZ, batch.slices_BNXYZ
    condition = condition_from(denoiser.config, scan, batch.positions, batch.noise_B, token, logit, sparse=True)
    data = denoiser.config.sigma_data
    residual = batch.truth_BXYZ - batch.base_BXYZ
    sigma_B, noise = (drawn.to(residual.device) for drawn in draws(tuple(residual.shape), data))
    # At sigma_max a sample starts from the mean of the noise, so that is what the network sees there.
    at_max = sigma_B >= draws.process.sigma_max * data * 0.999
    x = torch.where(
        at_max[:, None, None, None], torch.zeros_like(residual), residual + sigma_B[:, None, None, None] * noise
    )
    relative_B = relative_weight(batch.truth_BXYZ, batch.base_BXYZ, data, weights)
    # Below sigma_max the target is mostly noise, whatever the patch's contrast: there no patch counts above average.
    weight_B = torch.where(at_max, relative_B, relative_B.clamp_max(data**-2)) * loss_weight(sigma_B, data) * data**2
    probed = min(PROBED, len(sigma_B)) if denoiser.config.gate.experts > 1 else 0
    predicted, each, log_error = denoiser.with_experts(x, sigma_B, condition, probed)
    error_B = (predicted - residual).square().mean((1, 2, 3)) * weight_B
    own, gate = None, gate_losses(logit, None, batch.region_BXYZ)
    gate["error"] = error_loss((predicted - residual)[at_max] / data, log_error[at_max])
    if probed:
        error_E = (each - residual[:probed]).square() * weight_B[:probed, None, None, None]
        error_BxyzE = torch.stack([to_tokens(error) for error in error_E], -1)
        region = batch.region_BXYZ[:probed]
        gate |= {"agreement": gate_losses(logit[:probed], error_BxyzE, region)["agreement"]}
        own = expert_loss(error_BxyzE, logit[:probed], region)
    loss = combine(weights, error_B.mean(), own, gate)
    parts = {name: float(value.detach()) for name, value in gate.items()}
    parts["aggregate"] = float(error_B[at_max].mean().detach()) if bool(at_max.any()) else float("nan")
    return loss, parts | {"loss": float(loss.detach())}
