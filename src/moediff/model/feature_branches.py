"""Feature branches: what an expert reads beside the shared features, each with the receptive field of its region.

Axes: B batch, xyz cells, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moediff.model.execution import attended
from moediff.model.layers import from_lattice, local_mean, to_lattice

WINDOW = 4  # cells; the reach of the junction expert's attention


class Smooth(nn.Module):
    """Mean over 7x7x7 cells, the middle ones counting more: a large, smooth receptive field for deep white matter."""

    def forward(self, h_BxyzC: Tensor) -> Tensor:
        """Same shape in and out."""
        return local_mean(local_mean(h_BxyzC, 1), 2)


class Detail(nn.Module):
    """Features minus their local mean, gated by their own strength: high-frequency attention for cortex."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, channels)

    def forward(self, h_BxyzC: Tensor) -> Tensor:
        """Same shape in and out."""
        high = h_BxyzC - local_mean(h_BxyzC, 1)
        return high * torch.sigmoid(self.score(high.abs()))


class WindowAttention(nn.Module):
    """Attention among the 64 cells of a 4x4x4 window: non-local context for the grey-white junction."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * width)
        self.out = nn.Linear(width, channels)

    def forward(self, h_BxyzC: Tensor) -> Tensor:
        """Same shape in and out; lattice sides are multiples of 4."""
        windows = to_lattice(self.qkv(h_BxyzC), WINDOW)
        q, k, v = windows.reshape(-1, 1, WINDOW**3, 3, self.out.in_features).unbind(-2)
        mixed = attended(q, k, v).reshape(*windows.shape[:4], -1)
        return self.out(from_lattice(mixed, WINDOW))
