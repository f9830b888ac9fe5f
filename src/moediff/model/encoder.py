"""Multi-scale patch transformer: reads the scan once and says, every 4 voxels, what is there.

Patches of 16, 8 and 4 voxels are embedded linearly. One coarse patch with its 8 middle and 64 fine patches is a
family; attention inside a family passes information between the scales, attention between coarse patches carries
global structure, and a second family layer hands it back to the fine tokens.

Axes: B batch, X Y Z voxels, xyz coarse lattice, N families, T tokens of a family (1 + 8 + 64), D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.core.errors import ConfigError
from moediff.model.layers import Attention, from_lattice, in_slabs, to_lattice

COARSE, MIDDLE, FINE = 16, 8, 4  # voxels; volumes must be multiples of COARSE
CHUNK_FAMILIES = 256  # families processed at a time at inference, which bounds memory


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Width of tokens and number of attention heads."""

    width: int = 64
    heads: int = 4

    def __post_init__(self) -> None:
        if min(self.width, self.heads) < 1:
            raise ConfigError(f"encoder.width={self.width} and encoder.heads={self.heads} must be at least 1")
        if self.width % self.heads:
            raise ConfigError(f"encoder.width={self.width} must be a multiple of encoder.heads={self.heads}")


class Encoder(nn.Module):
    """Scan -> fine tokens."""

    slope_H: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.width
        self.embed_coarse = nn.Linear((COARSE // 2) ** 3, d)
        self.embed_middle = nn.Linear(MIDDLE**3, d)
        self.embed_fine = nn.Linear(FINE**3, d)
        self.place = nn.Parameter(0.02 * torch.randn(73, d))
        self.inward = Attention(d, config.heads)
        self.across = Attention(d, config.heads)
        self.outward = Attention(d, config.heads)
        self.norm = nn.LayerNorm(d)
        self.register_buffer("slope_H", 2.0 ** -torch.arange(config.heads).float(), persistent=False)

    def forward(self, interpolated_BXYZ: Tensor) -> Tensor:
        """[B, X, Y, Z] scaled scan -> fine tokens [B, X/4, Y/4, Z/4, D]; sides are multiples of 16."""
        family_BxyzTD = in_slabs(lambda slab: self._read(interpolated_BXYZ[:, slab]), interpolated_BXYZ, COARSE)
        lattice = family_BxyzTD.shape[:4]
        coarse_BSD = family_BxyzTD[..., 0, :].flatten(1, 3)
        coarse_BSD = self.across(coarse_BSD, self._distance_bias(lattice[1:]))
        family_NTD = self._handed_back(family_BxyzTD.flatten(0, 3), coarse_BSD.flatten(0, 1))
        return from_lattice(family_NTD[:, 9:].reshape(*lattice, -1), FINE)

    def _read(self, interpolated_BXYZ: Tensor) -> Tensor:
        """Families of a slab after the first exchange between scales: [B, x, y, z, T, D]."""
        family_BxyzTD = self._embed(interpolated_BXYZ)
        return self.inward(family_BxyzTD.flatten(0, 3)).unflatten(0, family_BxyzTD.shape[:4])

    def _handed_back(self, family_NTD: Tensor, coarse_ND: Tensor) -> Tensor:
        """Families whose fine tokens know what the coarse ones learnt; without gradients written over the input."""
        if torch.is_grad_enabled():
            return self.norm(self.outward(torch.cat([coarse_ND[:, None], family_NTD[:, 1:]], 1)))
        family_NTD[:, 0] = coarse_ND
        for part in family_NTD.split(CHUNK_FAMILIES):
            part.copy_(self.norm(self.outward(part)))
        return family_NTD

    def _embed(self, interpolated_BXYZ: Tensor) -> Tensor:
        pooled = F.avg_pool3d(interpolated_BXYZ[:, None], 2)[:, 0]
        coarse = self.embed_coarse(to_lattice(pooled[..., None], COARSE // 2))[..., None, :]
        middle = to_lattice(self.embed_middle(to_lattice(interpolated_BXYZ[..., None], MIDDLE)), COARSE // MIDDLE)
        fine = to_lattice(self.embed_fine(to_lattice(interpolated_BXYZ[..., None], FINE)), COARSE // FINE)
        d = coarse.shape[-1]
        tokens = [coarse, middle.unflatten(-1, (-1, d)), fine.unflatten(-1, (-1, d))]
        return torch.cat(tokens, -2) + self.place

    def _distance_bias(self, lattice: tuple[int, ...]) -> Callable[[slice], Tensor]:
        """Scores fall with distance, one slope a head, so that training on patches carries over to whole heads."""
        axes = [torch.arange(n, device=self.slope_H.device, dtype=torch.float32) for n in lattice]
        where_S3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        return lambda part: -self.slope_H[:, None, None] * torch.cdist(where_S3[part], where_S3)
