"""Routing: which expert works where, decided once per scan by the gate.

Axes: B batch, X Y Z voxels, xyz lattice (tokens, then cells), D token width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.model.conditioning import Condition, NetworkInput, Routing, condition_of
from moediff.model.config import CELL, GateConfig
from moediff.model.denoiser import Denoiser
from moediff.model.encoder import COARSE
from moediff.model.execution import map_slabs
from moediff.model.layers import local_mean


def make_condition(denoiser: Denoiser, scans: NetworkInput, *, sparse: bool = True) -> Condition:
    """Everything that is computed once per scan.

    Args:
        sparse: keep only the experts that the gate's top_k and threshold allow.
    """
    routing = routing_of(denoiser, scans.interpolated_BXYZ)
    routing = sparse_routing(routing, denoiser.config.gate) if sparse else routing
    return condition_of(scans, routing, denoiser.config.sigma_data)


def routing_of(denoiser: Denoiser, interpolated_BXYZ: Tensor) -> Routing:
    """Tokens, and gate weights from every lattice of patches that inference reads."""
    gate = denoiser.config.gate
    token_BxyzD, first = denoiser.gate_logits(interpolated_BXYZ)
    logit_BxyzE = cell_logits(first)
    for offset in gate.patch_offsets[1:]:
        logit_BxyzE += shifted_logits(lambda scan: denoiser.gate_logits(scan)[1], interpolated_BXYZ, offset)
    logit_BxyzE = smoothed(logit_BxyzE.div_(len(gate.patch_offsets)), gate.smoothing_passes)
    return Routing(token_BxyzD, logit_BxyzE.softmax(-1))


def sparse_routing(routing: Routing, gate: GateConfig) -> Routing:
    """With only the experts that the gate's top_k and threshold allow."""
    weight_BxyzE = routing.weight_BxyzE
    few = map_slabs(lambda slab: sparsify(weight_BxyzE[:, slab], gate.top_k, gate.threshold), weight_BxyzE)
    return replace(routing, weight_BxyzE=few)


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
    """Cell logits by `read` (scan -> token logits) with a lattice of patches that begins `offset` voxels later."""
    before, (x, y, z) = COARSE - offset, (n // CELL for n in interpolated_BXYZ.shape[1:])
    logit_BxyzE = cell_logits(read(F.pad(interpolated_BXYZ, (before, offset) * 3)))
    return logit_BxyzE[:, before // CELL :, before // CELL :, before // CELL :][:, :x, :y, :z]


def smoothed(logit_BxyzE: Tensor, times: int) -> Tensor:
    """Logits averaged so many times over the 3x3x3 cells around each, as far as the lattice goes."""
    for _ in range(times):
        logit_BxyzE = local_mean(logit_BxyzE, 1) / local_mean(torch.ones_like(logit_BxyzE[:1, ..., :1]), 1)
    return logit_BxyzE


def sparsify(weight_E: Tensor, top_k: int, threshold: float) -> Tensor:
    """The top_k weights that reach the threshold (always the largest), renormalised; [..., E] -> [..., E]."""
    if top_k >= weight_E.shape[-1] and threshold == 0:
        return weight_E
    top, index = weight_E.topk(top_k, dim=-1)
    rank = torch.arange(top_k, device=weight_E.device)
    top = torch.where((top >= threshold) | (rank == 0), top, torch.zeros_like(top))
    return torch.zeros_like(weight_E).scatter(-1, index, top / top.sum(-1, keepdim=True))
