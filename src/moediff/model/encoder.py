"""Encoder: a multi-scale patch transformer that reads the scan once and gives a token for every cube of 4 voxels.

Patches of 16, 8 and 4 voxels are embedded linearly. One coarse patch with its 8 middle and 64 fine patches is a
family; attention inside a family passes information between the scales, attention between coarse patches carries
global structure, and a second family layer hands it back to the fine tokens.

Axes: B batch, X Y Z voxels, xyz coarse lattice, S coarse patches, N families, T tokens of
a family (1 + 8 + 64), D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.model.execution import map_sequences, map_slabs, with_first_token
from moediff.model.layers import Attention, from_lattice, to_lattice

COARSE, MIDDLE, FINE = 16, 8, 4  # voxels; volumes must be multiples of COARSE
FAMILY = 1 + (COARSE // MIDDLE) ** 3 + (COARSE // FINE) ** 3


class Encoder(nn.Module):
    """Scan -> fine tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.embed_coarse = nn.Linear((COARSE // 2) ** 3, width)
        self.embed_middle = nn.Linear(MIDDLE**3, width)
        self.embed_fine = nn.Linear(FINE**3, width)
        self.position = nn.Parameter(torch.empty(FAMILY, width))
        nn.init.normal_(self.position, std=0.02)
        self.fine_to_coarse = Attention(width, num_heads)
        self.across_coarse = Attention(width, num_heads)
        self.coarse_to_fine = Attention(width, num_heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, interpolated_BXYZ: Tensor) -> Tensor:
        """[B, X, Y, Z] scaled scan -> fine tokens [B, X/4, Y/4, Z/4, D]; sides are multiples of 16."""
        family_BxyzTD = map_slabs(lambda slab: self._families(interpolated_BXYZ[:, slab]), interpolated_BXYZ, COARSE)
        lattice, family_NTD = family_BxyzTD.shape[:4], family_BxyzTD.flatten(0, 3)
        coarse_BSD = self.across_coarse(family_BxyzTD[..., 0, :].flatten(1, 3), self._distance_bias(lattice[1:]))
        family_NTD = with_first_token(family_NTD, coarse_BSD.flatten(0, 1))
        family_NTD = map_sequences(lambda part: self.norm(self.coarse_to_fine(part)), family_NTD)
        fine_NTD = family_NTD[:, -((COARSE // FINE) ** 3) :]
        return from_lattice(fine_NTD.reshape(*lattice, -1), COARSE // FINE)

    def _families(self, interpolated_BXYZ: Tensor) -> Tensor:
        """Embedded patches that have seen their family: [B, X/16, Y/16, Z/16, T, D]."""
        pooled = F.avg_pool3d(interpolated_BXYZ[:, None], 2)[:, 0]
        coarse = self.embed_coarse(to_lattice(pooled[..., None], COARSE // 2))[..., None, :]
        middle = to_lattice(self.embed_middle(to_lattice(interpolated_BXYZ[..., None], MIDDLE)), COARSE // MIDDLE)
        fine = to_lattice(self.embed_fine(to_lattice(interpolated_BXYZ[..., None], FINE)), COARSE // FINE)
        d = coarse.shape[-1]
        tokens = [coarse, middle.unflatten(-1, (-1, d)), fine.unflatten(-1, (-1, d))]
        family_BxyzTD = torch.cat(tokens, -2) + self.position
        return self.fine_to_coarse(family_BxyzTD.flatten(0, 3)).unflatten(0, family_BxyzTD.shape[:4])

    def _distance_bias(self, lattice: tuple[int, ...]) -> Callable[[slice], Tensor]:
        """Scores fall with distance, one slope a head, so that training on patches carries over to whole heads."""
        device = self.position.device
        slope_H = 2.0 ** -torch.arange(self.num_heads, device=device).float()
        axes = [torch.arange(n, device=device, dtype=torch.float32) for n in lattice]
        where_S3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        return lambda part: -slope_H[:, None, None] * torch.cdist(where_S3[part], where_S3)
