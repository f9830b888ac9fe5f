"""The gate: which expert works where, decided once per scan from its fine tokens.

Axes: B batch, xyz lattice (tokens, then cells), D width, E experts, M = E probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.core.errors import ConfigError
from moediff.model.encoder import COARSE
from moediff.model.layers import in_slabs, local_mean

CELL = 2  # voxels


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """How tokens choose experts.

    Args:
        experts: number of experts, 1..16.
        top_k: experts a cell may use at inference, 1..experts.
        threshold: weights below this are dropped before the rest are renormalised, 0..0.5.
        lattices: where the lattices of patches begin that are read at inference, voxels: even numbers in 0..14, the
            first is 0. Their logits are averaged, so that an expert's border follows tissue and not patches.
        smooth: how often logits are averaged over 3x3x3 cells at inference, 0..8, so that a border is no matter of
            one cell.
    """

    experts: int = 4
    top_k: int = 2
    threshold: float = 0.1
    lattices: tuple[int, ...] = (0,)
    smooth: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts <= 16:
            raise ConfigError(f"gate.top_k={self.top_k} must lie in 1..gate.experts={self.experts}, at most 16")
        if not 0 <= self.threshold <= 0.5:
            raise ConfigError(f"gate.threshold={self.threshold} must lie in 0..0.5")
        if not 0 <= self.smooth <= 8:
            raise ConfigError(f"gate.smooth={self.smooth} must lie in 0..8")
        if self.lattices[:1] != (0,) or not set(self.lattices) <= set(range(0, COARSE, CELL)):
            raise ConfigError(f"gate.lattices={list(self.lattices)} must be even numbers in 0..14, the first of them 0")


class Gate(nn.Module):
    """Cosine score between tokens and one query per expert, with a learned temperature."""

    def __init__(self, config: GateConfig, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width)
        self.query_ED = nn.Parameter(torch.randn(config.experts, width))
        self.log_scale = nn.Parameter(torch.tensor(5.0).log())

    def forward(self, token_BxyzD: Tensor) -> Tensor:
        """Logits [B, x, y, z, E] on the token lattice, bounded by the temperature (at most 30)."""
        query_DE = F.normalize(self.query_ED, dim=-1).T * self.log_scale.exp().clamp(1.0, 30.0)
        return in_slabs(lambda slab: F.normalize(self.key(token_BxyzD[:, slab]), dim=-1) @ query_DE, token_BxyzD)


def cell_logits(logit_BxyzE: Tensor) -> Tensor:
    """Token logits -> smooth logits on the cell lattice (two cells per token side), float32."""
    fine = F.interpolate(
        logit_BxyzE.float().permute(0, 4, 1, 2, 3), scale_factor=2.0, mode="trilinear", align_corners=False
    )
    return fine.permute(0, 2, 3, 4, 1)


def cell_weights(logit_BxyzE: Tensor) -> Tensor:
    """Token logits -> smooth weights on the cell lattice; they sum to one."""
    return cell_logits(logit_BxyzE).softmax(-1)


def shifted_logits(read: Callable[[Tensor], Tensor], interpolated_BXYZ: Tensor, offset: int) -> Tensor:
    """What `read` (scan -> token logits) says on cells when its lattice of patches begins `offset` voxels later."""
    before, (x, y, z) = COARSE - offset, (n // CELL for n in interpolated_BXYZ.shape[1:])
    logit_BxyzE = cell_logits(read(F.pad(interpolated_BXYZ, (before, offset) * 3)))
    return logit_BxyzE[:, before // CELL :, before // CELL :, before // CELL :][:, :x, :y, :z]


def smoothed(logit_BxyzE: Tensor, times: int) -> Tensor:
    """Logits averaged so many times over the 3x3x3 cells around each, as far as the lattice goes."""
    for _ in range(times):
        logit_BxyzE = local_mean(logit_BxyzE, 1) / local_mean(torch.ones_like(logit_BxyzE[:1, ..., :1]), 1)
    return logit_BxyzE


def sparsify(weight_E: Tensor, top_k: int, threshold: float) -> Tensor:
    """Keep the top_k weights that reach the threshold (always the largest) and renormalise; [..., E] -> [..., E]."""
    if top_k >= weight_E.shape[-1] and threshold == 0:
        return weight_E
    kept, index = weight_E.topk(top_k, dim=-1)
    rank = torch.arange(top_k, device=weight_E.device)
    kept = torch.where((kept >= threshold) | (rank == 0), kept, torch.zeros_like(kept))
    return torch.zeros_like(weight_E).scatter(-1, index, kept / kept.sum(-1, keepdim=True))
