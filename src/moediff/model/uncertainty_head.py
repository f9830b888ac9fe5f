"""How wrong the posterior mean will be: one number a voxel, from the features that made it, without sampling.

Axes: B batch, xyz cells, C channels, G modulation vector, W width, V voxels of a cell (8).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from moediff.model.layers import in_slabs

VOXELS = 8
LOWEST, HIGHEST = -5.0, 4.0  # of the log error in units of sigma_data


class ErrorHead(nn.Module):
    """Log of the expected absolute error; minimising |error| / b + log b makes b that (Laplace; Kendall & Gal 2017)."""

    def __init__(self, channels: int, vector: int, width: int) -> None:
        super().__init__()
        self.enter, self.modulate = nn.Linear(channels, width), nn.Linear(vector, width, bias=False)
        self.leave = nn.Linear(width, VOXELS)
        nn.init.normal_(self.leave.weight, std=0.1 * width**-0.5)
        nn.init.constant_(self.leave.bias, -1.0)

    def forward(self, h_BxyzC: Tensor, vector_BG: Tensor) -> Tensor:
        """[B, x, y, z, C] -> log error [B, x, y, z, 8], in units of sigma_data."""
        shift = self.modulate(vector_BG)[:, None, None, None]
        raw = in_slabs(lambda slab: self.leave(F.relu(self.enter(h_BxyzC[:, slab]) + shift)), h_BxyzC)
        return raw.clamp(LOWEST, HIGHEST)
