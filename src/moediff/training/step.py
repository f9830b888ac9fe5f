"""One training step's loss: the same D(x, sigma, condition) that the sampler uses.

Axes: B batch, X Y Z voxels, xyz tokens, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.diffusion.schedule import DiffusionConfig, draw_sigma, loss_weight
from moediff.model.conditioning import Routing, condition_of
from moediff.model.denoiser import Denoiser
from moediff.model.routing import cell_weights, sparse_routing
from moediff.training.gate_step import shift_consistency
from moediff.training.losses import (
    LossConfig,
    combine,
    error_loss,
    expert_loss,
    gate_losses,
    gradient_loss,
    lesion_loss,
    region_target,
    relative_weight,
    to_tokens,
)
from moediff.training.patches import Batch

EXAMPLES_OF_EVERY_EXPERT = (
    1  # examples of a process's batch on which every expert runs, for the agreement target and the experts' own loss
)


@dataclass(frozen=True)
class Draws:
    """Noise levels and noise of one step; a process takes its share of what is drawn for the whole batch."""

    diffusion: DiffusionConfig
    rng: torch.Generator
    rank: int = 0
    of: int = 1

    def __call__(self, like: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
        """Sigma [B], on the CPU, and unit noise [B, X, Y, Z] for a share like this one, where it lies."""
        mine = slice(self.rank * len(like), (self.rank + 1) * len(like))
        sigma_B = draw_sigma(len(like) * self.of, sigma_data, self.diffusion, self.rng)
        rng = self.rng
        if like.is_cuda:  # a CPU would need longer for the noise than the GPU for the step
            seed = int(torch.randint(2**62, (), generator=self.rng))
            rng = torch.Generator(like.device).manual_seed(seed)
        noise = torch.randn(len(like) * self.of, *like.shape[1:], generator=rng, device=rng.device)
        return sigma_B[mine], noise[mine].to(like.device)


def batch_loss(
    denoiser: Denoiser, batch: Batch, draws: Draws, weights: LossConfig, *, probe: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to minimise and its parts.

    Args:
        probe: run every expert on an example, where there are several; without it "agreement" is NaN.

    Returns:
        loss: scalar with gradient; parts: detached scalars by name ("aggregate" is error over interpolation's error at
        sigma_max, so 1 means no gain; NaN without an example there). Nothing waits for the device.
    """
    token, logit = denoiser.gate_logits(batch.interpolated_BXYZ)
    routing = sparse_routing(Routing(token, cell_weights(logit)), denoiser.config.gate)
    condition = condition_of(batch.network_input, routing, denoiser.config.sigma_data)
    data = denoiser.config.sigma_data
    residual = batch.truth_BXYZ - batch.interpolated_BXYZ
    sigma_B, noise = draws(residual, data)
    # At sigma_max a sample starts from the mean of the noise, so that is what the network sees there.
    at_max = sigma_B >= draws.diffusion.sigma_max * data * 0.999
    highest = at_max.nonzero()[:, 0].to(residual.device)  # computed on the CPU: a GPU would have to be waited for
    at_max, sigma_B = at_max.to(residual.device), sigma_B.to(residual.device)
    x = torch.where(
        at_max[:, None, None, None], torch.zeros_like(residual), residual + sigma_B[:, None, None, None] * noise
    )
    relative_B = relative_weight(batch.truth_BXYZ, batch.interpolated_BXYZ, data, weights)
    # Below sigma_max the target is mostly noise, whatever the patch's contrast: there no patch counts above average.
    weight_B = torch.where(at_max, relative_B, relative_B.clamp_max(data**-2)) * loss_weight(sigma_B, data) * data**2
    several = denoiser.config.gate.experts > 1
    examples = min(EXAMPLES_OF_EVERY_EXPERT, len(sigma_B)) if several and probe else 0
    output = denoiser.for_training(x, sigma_B, condition, examples)
    wrong_BXYZ = output.mean_BXYZ - residual
    error_B = wrong_BXYZ.square().mean((1, 2, 3)) * weight_B
    target = region_target(batch.region_BXYZ, denoiser.config.experts.regions)
    own, gate = None, gate_losses(logit, None, target, weights.minimum_region_share)
    if weights.lesion:
        gate["lesion"] = lesion_loss(wrong_BXYZ, batch.lesion_BXYZ, weight_B)
    if weights.gradient:
        gate["gradient"] = gradient_loss(wrong_BXYZ, weight_B)
    if several and weights.shift_consistency:
        gate["shift_consistency"] = shift_consistency(denoiser, batch.interpolated_BXYZ, logit, draws.rng)
    missing = {"agreement": error_B.new_tensor(torch.nan)} if several and not examples else {}
    wrong = wrong_BXYZ.index_select(0, highest) / data
    gate["error"] = error_loss(wrong, output.log_error_BXYZ.index_select(0, highest))
    if examples:
        error_E = (output.expert_EBXYZ - residual[:examples]).square() * weight_B[:examples, None, None, None]
        error_BxyzE = torch.stack([to_tokens(error) for error in error_E], -1)
        gate |= {"agreement": gate_losses(logit[:examples], error_BxyzE, target.first(examples))["agreement"]}
        own = expert_loss(error_BxyzE, logit[:examples], target.first(examples), evenly=weights.normalise_expert_loss)
    loss = combine(weights.rare() if examples else weights, error_B.mean(), own, gate)
    gate |= {**missing, "aggregate": error_B.index_select(0, highest).mean(), "loss": loss}
    return loss, {name: value.detach() for name, value in gate.items()}
