"""Experts: each turns the shared features into a complete denoised result, by a feature branch of its own.

`EXPERTS` (expert_table.py) is the one table of them. Behind the branch come pointwise layers, which run on gathered
rows: a cell costs only the experts that it needs, and sparse execution equals masked dense execution to rounding.

Axes: B batch, xyz cells, C channels, E experts, R rows (cells), V voxels of a cell (8), G embedding, W width.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.model.execution import map_rows, map_slabs, rows_of_experts, side_by_side
from moediff.model.expert_table import EXPERTS, ExpertSpec
from moediff.model.feature_branches import WINDOW

VOXELS = 8


class Expert(nn.Module):
    """One denoiser's own part: its branch, pointwise residual layers, and an output layer for a cell's 8 voxels."""

    def __init__(self, spec: ExpertSpec, channels: int, embedding: int, width: int, layers: int) -> None:
        super().__init__()
        self.reach_cells = spec.reach_cells
        self.branch = None if spec.branch is None else spec.branch(channels)
        self.input_projection = nn.Linear(channels, width)
        self.branch_projection = None if spec.branch is None else nn.Linear(channels, width, bias=False)
        self.modulate = nn.Linear(embedding, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.output_projection = nn.Linear(width, VOXELS)
        nn.init.normal_(self.output_projection.weight, std=0.1 * width**-0.5)
        nn.init.zeros_(self.output_projection.bias)
        for layer in (self.input_projection, self.branch_projection, *self.layers):
            if layer is not None:
                nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)

    def branch_of(self, h_BxyzC: Tensor, slab: slice) -> Tensor | None:
        """The branch's features of a slab, from as much of its surroundings as the branch reaches; None without one."""
        if self.branch is None:
            return None
        first = max(slab.start - self.reach_cells, 0)
        branch_BxyzC = self.branch(h_BxyzC[:, first : slab.stop + self.reach_cells])
        return branch_BxyzC[:, slab.start - first : slab.stop - first]

    def pointwise(self, feature_RC: Tensor, branch_RC: Tensor | None, shift_RW: Tensor) -> Tensor:
        """What follows the branch, cell by cell: [R, C], [R, C] -> [R, 8]."""
        u = self.input_projection(feature_RC)
        if branch_RC is not None and self.branch_projection is not None:
            u = u + self.branch_projection(branch_RC)
        u = u + shift_RW
        for layer in self.layers:
            u = u + F.relu(layer(F.relu(u)))
        return self.output_projection(F.relu(u))


class Experts(nn.Module):
    """All experts, run on the cells whose gate weight is not zero."""

    def __init__(self, names: tuple[str, ...], channels: int, embedding: int, width: int, layers: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(Expert(EXPERTS[name], channels, embedding, width, layers) for name in names)

    def dense(self, h_BxyzC: Tensor, embedding_BG: Tensor) -> Tensor:
        """Every expert everywhere: [B, x, y, z, E, 8]."""
        results = []
        for expert in cast(list[Expert], self.each):
            shift = expert.modulate(embedding_BG)[:, None, None, None]
            results.append(expert.pointwise(h_BxyzC, expert.branch_of(h_BxyzC, slice(0, h_BxyzC.shape[1])), shift))
        return torch.stack(results, -2)

    def combine(self, h_BxyzC: Tensor, embedding_BG: Tensor, weight_BxyzE: Tensor) -> Tensor:
        """Gate-weighted sum [B, x, y, z, 8]."""
        shift_EBW = [expert.modulate(embedding_BG) for expert in cast(list[Expert], self.each)]
        return map_slabs(lambda slab: self._combined(h_BxyzC, weight_BxyzE, shift_EBW, slab), h_BxyzC, WINDOW)

    def _combined(self, h_BxyzC: Tensor, weight_BxyzE: Tensor, shift_EBW: list[Tensor], slab: slice) -> Tensor:
        feature_RC, weight_RE = h_BxyzC[:, slab].flatten(0, 3), weight_BxyzE[:, slab].flatten(0, 3)
        lattice = weight_BxyzE[:, slab].shape[:4]
        example_R = torch.arange(lattice[0], device=h_BxyzC.device).repeat_interleave(len(feature_RC) // lattice[0])
        total_RV = weight_RE.new_zeros(len(feature_RC), VOXELS)  # float32, also where features are bfloat16
        rows = rows_of_experts(weight_RE)

        def weighted(e: int) -> Tensor:
            expert = cast(Expert, self.each[e])
            branch_BxyzC = expert.branch_of(h_BxyzC, slab)

            def work(row_R: Tensor) -> Tensor:
                shift_RW = shift_EBW[e].index_select(0, example_R.index_select(0, row_R))
                branch_RC = None if branch_BxyzC is None else branch_BxyzC.flatten(0, 3).index_select(0, row_R)
                v = expert.pointwise(feature_RC.index_select(0, row_R), branch_RC, shift_RW)
                return (v * weight_RE[:, e].index_select(0, row_R)[:, None]).to(total_RV.dtype)

            return map_rows(work, rows[e])

        needed = [e for e, row_R in enumerate(rows) if len(row_R)]
        results = side_by_side([partial(weighted, e) for e in needed], h_BxyzC.device)
        for e, result_RV in zip(needed, results, strict=True):
            total_RV = total_RV.index_add(0, rows[e], result_RV)
        return total_RV.reshape(*lattice, VOXELS)
