"""One training step's loss: the same D(x, sigma, condition) that the sampler uses.

Axes: B batch, X Y Z voxels, xyz tokens, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.diffusion.schedule import DiffusionConfig, draw_sigma, loss_weight
from moediff.model.conditioning import Routing, condition_of
from moediff.model.denoiser import Denoiser, TrainingOutput
from moediff.model.routing import cell_weights, sparse_routing
from moediff.training.gate_step import shift_consistency
from moediff.training.losses import (
    LossConfig,
    RegionTarget,
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

# of a process's batch, on which every expert runs, for the agreement target and the experts' own loss
EXAMPLES_OF_EVERY_EXPERT = 1


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


@dataclass(frozen=True)
class _Noised:
    """What is drawn for a step.

    Args:
        residual_BXYZ: what the network is to predict, truth minus interpolation.
        x_BXYZ: what it sees of that, at the noise level sigma_B.
        weight_B: how much every example's squared error counts.
        highest: numbers of the examples at sigma_max.
    """

    residual_BXYZ: Tensor
    x_BXYZ: Tensor
    sigma_B: Tensor
    weight_B: Tensor
    highest: Tensor


@dataclass(frozen=True)
class _Run:
    """What the network says: the gate's logits, and its output with every expert alone on the first `examples`."""

    logit_BxyzE: Tensor
    output: TrainingOutput
    examples: int


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
    several = denoiser.config.gate.experts > 1
    drawn = _draw(batch, draws, weights, denoiser.config.sigma_data)
    run = _run(denoiser, batch, drawn, min(EXAMPLES_OF_EVERY_EXPERT, len(drawn.sigma_B)) if several and probe else 0)
    wrong_BXYZ = run.output.mean_BXYZ - drawn.residual_BXYZ
    error_B = wrong_BXYZ.square().mean((1, 2, 3)) * drawn.weight_B
    target = region_target(batch.region_BXYZ, denoiser.config.experts.regions)
    terms = gate_losses(run.logit_BxyzE, None, target, weights.minimum_region_share)
    terms |= _patch_terms(batch, drawn, wrong_BXYZ, weights)
    if several and weights.shift_consistency:
        terms["shift_consistency"] = shift_consistency(denoiser, batch.interpolated_BXYZ, run.logit_BxyzE, draws.rng)
    wrong = wrong_BXYZ.index_select(0, drawn.highest) / denoiser.config.sigma_data
    terms["error"] = error_loss(wrong, run.output.log_error_BXYZ.index_select(0, drawn.highest))
    own = None
    if run.examples:
        terms["agreement"], own = _expert_terms(drawn, run, target, evenly=weights.normalise_expert_loss)
        weights = weights.rare()  # both terms have a gradient on such steps alone, and make up for the others
    loss = combine(weights, error_B.mean(), own, terms)
    missing = {"agreement": error_B.new_tensor(torch.nan)} if several and not run.examples else {}
    parts = terms | missing | {"aggregate": error_B.index_select(0, drawn.highest).mean(), "loss": loss}
    return loss, {name: value.detach() for name, value in parts.items()}


def _draw(batch: Batch, draws: Draws, weights: LossConfig, sigma_data: float) -> _Noised:
    """Noise levels and noise, and what follows from them."""
    residual = batch.truth_BXYZ - batch.interpolated_BXYZ
    sigma_B, noise = draws(residual, sigma_data)
    # At sigma_max a sample starts from the mean of the noise, so that is what the network sees there.
    at_max = sigma_B >= draws.diffusion.sigma_max * sigma_data * 0.999
    highest = at_max.nonzero()[:, 0].to(residual.device)  # computed on the CPU: a GPU would have to be waited for
    at_max, sigma_B = at_max.to(residual.device), sigma_B.to(residual.device)
    x = torch.where(
        at_max[:, None, None, None], torch.zeros_like(residual), residual + sigma_B[:, None, None, None] * noise
    )
    relative_B = relative_weight(batch.truth_BXYZ, batch.interpolated_BXYZ, sigma_data, weights)
    # Below sigma_max the target is mostly noise, whatever the patch's contrast: there no patch counts above average.
    relative_B = torch.where(at_max, relative_B, relative_B.clamp_max(sigma_data**-2))
    return _Noised(residual, x, sigma_B, relative_B * loss_weight(sigma_B, sigma_data) * sigma_data**2, highest)


def _run(denoiser: Denoiser, batch: Batch, drawn: _Noised, examples: int) -> _Run:
    """Gate and network, once."""
    token, logit = denoiser.gate_logits(batch.interpolated_BXYZ)
    routing = sparse_routing(Routing(token, cell_weights(logit)), denoiser.config.gate)
    condition = condition_of(batch.network_input, routing, denoiser.config.sigma_data)
    return _Run(logit, denoiser.for_training(drawn.x_BXYZ, drawn.sigma_B, condition, examples), examples)


def _patch_terms(batch: Batch, drawn: _Noised, wrong_BXYZ: Tensor, weights: LossConfig) -> dict[str, Tensor]:
    """Terms of the result's error beside its square."""
    terms = {}
    if weights.lesion:
        terms["lesion"] = lesion_loss(wrong_BXYZ, batch.lesion_BXYZ, drawn.weight_B)
    if weights.gradient:
        terms["gradient"] = gradient_loss(wrong_BXYZ, drawn.weight_B)
    return terms


def _expert_terms(drawn: _Noised, run: _Run, target: RegionTarget, *, evenly: bool) -> tuple[Tensor, Tensor]:
    """Terms of every expert's own error: the gate's agreement with it, and the experts' own loss."""
    few, logit = run.examples, run.logit_BxyzE[: run.examples]
    error_E = (run.output.expert_EBXYZ - drawn.residual_BXYZ[:few]).square() * drawn.weight_B[:few, None, None, None]
    error_BxyzE = torch.stack([to_tokens(error) for error in error_E], -1)
    agreement = gate_losses(logit, error_BxyzE, target.first(few))["agreement"]
    return agreement, expert_loss(error_BxyzE, logit, target.first(few), evenly=evenly)
