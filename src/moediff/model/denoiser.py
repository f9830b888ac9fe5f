"""Denoiser D(x, sigma, condition): preconditioning, shared backbone, experts, gate-weighted sum.

Axes: B batch, X Y Z voxels (multiples of 16), xyz cells or tokens, C channels, D token width, E experts, G embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.acquisition.point_spread import FREQUENCIES
from moediff.model.conditioning import (
    ACQUISITION_FEATURES,
    PHASE_FEATURES,
    Condition,
    Modulators,
    token_phase,
)
from moediff.model.config import BackboneConfig, DenoiserConfig
from moediff.model.encoder import Encoder
from moediff.model.execution import add_finer, map_slabs
from moediff.model.experts import Experts
from moediff.model.gate import Gate
from moediff.model.layers import ResBlock, from_lattice, local_mean, to_lattice, unit_size
from moediff.model.uncertainty_head import UncertaintyHead

INPUTS = 5  # of a voxel: noisy residual, interpolated scan, its fine structure, the slices before and after


@dataclass(frozen=True)
class TrainingOutput:
    """All that training judges, from one pass through the backbone.

    Args:
        mean_BXYZ: D(x, sigma, condition).
        expert_EBXYZ: each expert alone on the first examples.
        log_error_BXYZ: log of the expected absolute error, in units of sigma_data; its gradient stays in its own head.
    """

    mean_BXYZ: Tensor
    expert_EBXYZ: Tensor
    log_error_BXYZ: Tensor


class Backbone(nn.Module):
    """Convolutions on cells and, in the bottleneck, on tokens, where the encoder's tokens join."""

    def __init__(self, config: BackboneConfig, embedding: int, token_width: int) -> None:
        super().__init__()
        c, d, phase = config.width, config.bottleneck_width, PHASE_FEATURES
        self.input_projection = nn.Linear(8 * INPUTS, c)
        # Of the input's scale, unlike a convolution over 27 cells: what a cell brings itself reaches the end unmixed.
        nn.init.normal_(self.input_projection.weight, std=(2 / self.input_projection.in_features) ** 0.5)
        nn.init.zeros_(self.input_projection.bias)
        self.before = nn.ModuleList(ResBlock(c, embedding, phase) for _ in range(config.blocks_before))
        self.down = nn.Linear(8 * c, d)
        self.token_projection = nn.Linear(token_width, d)
        self.bottleneck = nn.ModuleList(
            ResBlock(d, embedding, 2 * phase, normed=True) for _ in range(config.blocks_bottleneck)
        )
        self.up = nn.Linear(d, 8 * c)
        self.after = nn.ModuleList(ResBlock(c, embedding, phase) for _ in range(config.blocks_after))

    def forward(self, cell_BxyzC: Tensor, modulators: Modulators, token_BxyzD: Tensor) -> Tensor:
        """Input cells -> features [B, x, y, z, C]."""
        h = self.input_projection(cell_BxyzC)
        for block in self.before:
            h = block(h, modulators)
        t = map_slabs(lambda slab: self.down(to_lattice(h[:, slab])), h, 2) + self.token_projection(token_BxyzD)
        on_tokens = replace(modulators, phase=modulators.phase.map(token_phase))
        for block in self.bottleneck:
            t = block(t, on_tokens)
        h = add_finer(h, lambda part: from_lattice(self.up(F.relu(unit_size(part)))), t)
        for block in self.after:
            h = block(h, modulators)
        return h


class Denoiser(nn.Module):
    """K complete denoisers behind one gate; `forward` is the only way the weights are used."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.backbone.width, config.embedding_width
        self.encoder = Encoder(config.encoder.width, config.encoder.attention_heads)
        self.gate = Gate(config.gate.experts, config.encoder.width)
        self.embedding = nn.Sequential(
            nn.Linear(1 + ACQUISITION_FEATURES, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.sampling: nn.Linear | None = None
        if config.reads_sampling:  # silent at first, so that a network without it can be trained on
            self.sampling = nn.Linear(3 * len(FREQUENCIES), embedding, bias=False)
            nn.init.zeros_(self.sampling.weight)
        self.backbone = Backbone(config.backbone, embedding, config.encoder.width)
        self.experts = Experts(config.experts.branches, width, embedding, config.experts.width, config.experts.layers)
        self.uncertainty_head = UncertaintyHead(width, embedding, config.uncertainty_width)

    def gate_logits(self, interpolated_BXYZ: Tensor) -> tuple[Tensor, Tensor]:
        """Read the scan once: fine tokens [B, x, y, z, D] and gate logits [B, x, y, z, E]."""
        token_BxyzD = self.encoder(interpolated_BXYZ)
        return token_BxyzD, self.gate(token_BxyzD)

    def forward(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """Posterior mean of the residual given x = residual + sigma noise; [B, X, Y, Z]."""
        feature, embedding = self.features(x_BXYZ, sigma_B, condition)
        return self.precondition(x_BXYZ, sigma_B, self.experts.combine(feature, embedding, condition.weight_BxyzE))

    def with_uncertainty(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """`forward`, and the absolute error to expect of it at sigma_max: [2, B, X, Y, Z]."""
        feature, embedding = self.features(x_BXYZ, sigma_B, condition)
        mean = self.precondition(x_BXYZ, sigma_B, self.experts.combine(feature, embedding, condition.weight_BxyzE))
        return torch.stack([mean, self._log_error(feature, embedding).exp() * self.config.sigma_data])

    def for_training(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition, separate: int) -> TrainingOutput:
        """`forward` with the uncertainty head, and every expert alone on the first `separate` examples."""
        feature, embedding = self.features(x_BXYZ, sigma_B, condition)
        mean = self.precondition(x_BXYZ, sigma_B, self.experts.combine(feature, embedding, condition.weight_BxyzE))
        log_error = self._log_error(feature.detach(), embedding.detach())
        if not separate:
            return TrainingOutput(mean, mean[None, :0], log_error)
        each = self.experts.dense(feature[:separate], embedding[:separate])
        x, sigma = x_BXYZ[:separate], sigma_B[:separate]
        results = [self.precondition(x, sigma, each[..., e, :]) for e in range(each.shape[-2])]
        return TrainingOutput(mean, torch.stack(results), log_error)

    def features(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Backbone features [B, x, y, z, C] and the conditioning embedding [B, G]."""
        log_sigma = (sigma_B / self.config.sigma_data).log()[:, None] / 4  # c_noise; Karras 2022, Table 1
        first, *others = self.embedding
        embedding_BG = first(torch.cat([log_sigma, condition.acquisition_BG], -1))
        if self.sampling is not None:
            embedding_BG = embedding_BG + self.sampling(condition.sampled_BF)
        for layer in others:
            embedding_BG = layer(embedding_BG)
        inputs, modulators = self._inputs(x_BXYZ, sigma_B, condition), Modulators(embedding_BG, condition.phase)
        return self.backbone(inputs, modulators, condition.token_BxyzD), embedding_BG

    def _inputs(self, x_BXYZ: Tensor, sigma_B: Tensor, condition: Condition) -> Tensor:
        """What every cell brings, [B, x, y, z, 8 INPUTS]."""
        data, scan = self.config.sigma_data, condition.interpolated_BXYZ
        # The Wiener estimate of the residual, in units of sigma_data, instead of Karras' c_in x: it fades as sigma
        # grows, so at sigma_max the network is not shaken by pure noise and one evaluation is deterministic.
        wiener = data / (sigma_B**2 + data**2)
        # Fine structure on its own, in the residual's unit: the network need not learn to cancel the mean first.
        detail = (scan - local_mean(scan[..., None], 1)[..., 0]) / data
        before, after = ((condition.neighbours_BNXYZ[:, side] - scan) / data for side in (0, 1))
        return to_lattice(torch.stack([x_BXYZ * wiener[:, None, None, None], scan, detail, before, after], -1))

    def precondition(self, x_BXYZ: Tensor, sigma_B: Tensor, raw_BxyzV: Tensor) -> Tensor:
        """c_skip x + c_out F; Karras 2022, Table 1."""
        data = self.config.sigma_data
        total = sigma_B**2 + data**2
        skip, out = (data**2 / total)[:, None, None, None], (sigma_B * data * total**-0.5)[:, None, None, None]
        return skip * x_BXYZ + out * from_lattice(raw_BxyzV)[..., 0]

    def _log_error(self, feature_BxyzC: Tensor, embedding_BG: Tensor) -> Tensor:
        return from_lattice(self.uncertainty_head(feature_BxyzC, embedding_BG))[..., 0]
