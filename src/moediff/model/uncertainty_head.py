"""Uncertainty head: the expected absolute error of the posterior mean, a voxel each, from its features, unsampled.

Axes: B batch, xyz cells, C channels, G conditioning embedding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from moediff.model.execution import map_slabs

VOXELS = 8  # of a cell
LOWEST, HIGHEST = -5.0, 4.0  # of the log error in units of sigma_data


class UncertaintyHead(nn.Module):
    """Log of the expected absolute error; minimising |error| / b + log b makes b that (Laplace; Kendall & Gal 2017)."""

    def __init__(self, channels: int, embedding: int, width: int) -> None:
        super().__init__()
        self.input_projection, self.modulate = nn.Linear(channels, width), nn.Linear(embedding, width, bias=False)
        self.output_projection = nn.Linear(width, VOXELS)
        nn.init.normal_(self.output_projection.weight, std=0.1 * width**-0.5)
        nn.init.constant_(self.output_projection.bias, -1.0)

    def forward(self, h_BxyzC: Tensor, embedding_BG: Tensor) -> Tensor:
        """[B, x, y, z, C] -> log error [B, x, y, z, 8], in units of sigma_data."""
        shift = self.modulate(embedding_BG)[:, None, None, None]
        hidden, last = self.input_projection, self.output_projection
        return map_slabs(lambda slab: last(F.relu(hidden(h_BxyzC[:, slab]) + shift)), h_BxyzC).clamp(LOWEST, HIGHEST)
