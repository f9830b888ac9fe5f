"""Gate (router): how well each expert suits each token of a scan; `routing` turns that into weights on cells.

Axes: B batch, xyz tokens, D width, E experts.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.model.execution import map_slabs


class Gate(nn.Module):
    """Cosine score between tokens and one query per expert, with a learned temperature."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width)
        self.query_ED = nn.Parameter(torch.empty(experts, width))
        self.log_scale = nn.Parameter(torch.empty(()))
        nn.init.normal_(self.query_ED)
        nn.init.constant_(self.log_scale, math.log(5))

    def forward(self, token_BxyzD: Tensor) -> Tensor:
        """Logits [B, x, y, z, E] on the token lattice, bounded by the temperature (at most 30)."""
        query_DE = F.normalize(self.query_ED, dim=-1).T * self.log_scale.exp().clamp(1.0, 30.0)
        return map_slabs(lambda slab: F.normalize(self.key(token_BxyzD[:, slab]), dim=-1) @ query_DE, token_BxyzD)
