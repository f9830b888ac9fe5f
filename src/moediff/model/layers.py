"""Layers shared by the encoder, the backbone and the experts.

A cell is a cube of 2x2x2 voxels. Cell tensors keep channels last, so that pointwise layers are plain matrix products
and 3x3x3 convolutions see the memory order that CPUs and tensor cores like best.

Axes: B batch, X Y Z voxels, xyz lattice of cells or tokens, C channels, G conditioning embedding, F phase features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moediff.model.conditioning import Modulators
from moediff.model.execution import add_branch, attended, attended_in_parts

PLANE, LINE = (3, 3, 1), (1, 1, 3)


def to_lattice(x_BXYZC: Tensor, factor: int = 2) -> Tensor:
    """Fold cubes of factor^3 sites into channels: [B, X/f, Y/f, Z/f, f^3 C]."""
    b, x, y, z, c = x_BXYZC.shape
    f = factor
    cubes = x_BXYZC.reshape(b, x // f, f, y // f, f, z // f, f, c).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return cubes.reshape(b, x // f, y // f, z // f, f**3 * c)


def from_lattice(h_BxyzC: Tensor, factor: int = 2) -> Tensor:
    """Undo `to_lattice`: [B, f x, f y, f z, C / f^3]."""
    b, x, y, z, c = h_BxyzC.shape
    f = factor
    cubes = h_BxyzC.reshape(b, x, y, z, f, f, f, c // f**3).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cubes.reshape(b, x * f, y * f, z * f, c // f**3)


def local_mean(h_BxyzC: Tensor, step: int) -> Tensor:
    """Mean over the 3x3x3 sites that lie `step` apart around each site; sites outside the lattice count as zero.

    Written as shifted sums: pooling layers are many times slower on channels-last lattices.
    """
    for axis in (1, 2, 3):
        length = h_BxyzC.shape[axis]
        total = h_BxyzC.clone()
        if length > step:
            total.narrow(axis, 0, length - step).add_(h_BxyzC.narrow(axis, step, length - step))
            total.narrow(axis, step, length - step).add_(h_BxyzC.narrow(axis, 0, length - step))
        h_BxyzC = total
    return h_BxyzC / 27


def unit_size(h_BxyzC: Tensor) -> Tensor:
    """Every site's channels divided by their root mean square."""
    return F.rms_norm(h_BxyzC, h_BxyzC.shape[-1:], eps=1e-4)


class Conv(nn.Conv3d):
    """A convolution with zero padding on channels-last lattices; `kernel` is odd along every axis."""

    def __init__(self, channels_in: int, channels_out: int, kernel: tuple[int, int, int], *, gain: float = 1.0) -> None:
        x, y, z = kernel
        super().__init__(channels_in, channels_out, kernel, padding=(x // 2, y // 2, z // 2))
        nn.init.normal_(self.weight, std=gain * (2 / (x * y * z * channels_in)) ** 0.5)  # He et al. 2015
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, h_BxyzC: Tensor, *, padded: bool = True) -> Tensor:
        """[B, x, y, z, C_in] -> [B, x, y, z, C_out]; unpadded, only x for which the kernel has all its neighbours."""
        weight = self.weight.contiguous(memory_format=torch.channels_last_3d)
        padding = self.padding if padded else (0, *self.padding[1:])
        planar = F.conv3d(h_BxyzC.permute(0, 4, 1, 2, 3), weight, self.bias, padding=padding)
        return planar.permute(0, 2, 3, 4, 1)


class Modulation(nn.Module):
    """h (1 + scale) + shift, both from what is known about the acquisition.

    Every axis adds its own part, so that a site's modulation costs a broadcast.
    """

    def __init__(self, embedding: int, phase: int, channels: int) -> None:
        super().__init__()
        self.from_embedding = nn.Linear(embedding, 2 * channels)
        self.from_phase = nn.ModuleList(nn.Linear(phase, 2 * channels, bias=False) for _ in range(3))
        for layer in (self.from_embedding, *self.from_phase):
            nn.init.normal_(layer.weight, std=0.1)
        nn.init.zeros_(self.from_embedding.bias)

    def forward(self, modulators: Modulators) -> tuple[Tensor, Tensor]:
        """Scale and shift, side by side: along x [B, x, 1, 1, 2C] and over the other axes [B, 1, y, z, 2C]."""
        along_x, along_y, along_z = (layer(f) for layer, f in zip(self.from_phase, modulators.phase, strict=True))
        all_x = along_x[:, :, None, None] + self.from_embedding(modulators.embedding_BG)[:, None, None, None]
        return all_x, along_y[:, None, :, None] + along_z[:, None, None, :]


def modulated(h_BxyzC: Tensor, along_x: Tensor, along_yz: Tensor) -> Tensor:
    """h (1 + scale) + shift, by `Modulation`."""
    (scale_x, shift_x), (scale_yz, shift_yz) = along_x.chunk(2, -1), along_yz.chunk(2, -1)
    return torch.addcmul(shift_x + shift_yz, h_BxyzC, 1 + scale_x + scale_yz)


class ResBlock(nn.Module):
    """A convolution in the plane of the slices, modulation, and one across the slices, added to the input.

    The last axis is the coarsest one. Two thin kernels cost a quarter of two 3x3x3 ones; more of them in the same time
    learn more (docs/design.md).

    A `normed` block reads its input with every site's channels brought to unit size (Zhang & Sennrich 2019). In a stack
    without it the modulation's factors multiply up, until ReLU is silent everywhere behind some block.
    """

    def __init__(self, channels: int, embedding: int, phase: int, *, normed: bool = False) -> None:
        super().__init__()
        self.normed = normed
        self.first = Conv(channels, channels, PLANE)
        self.modulate = Modulation(embedding, phase, channels)
        self.second = Conv(channels, channels, LINE, gain=0.3)

    def forward(self, h_BxyzC: Tensor, modulators: Modulators) -> Tensor:
        """h + branch(h); without gradients h is overwritten."""
        along_x, along_yz = self.modulate(modulators)

        def branch(h_BxyzC: Tensor, planes: slice, *, padded: bool) -> Tensor:
            u = self.first(F.relu(unit_size(h_BxyzC) if self.normed else h_BxyzC), padded=padded)
            return self.second(F.relu_(modulated(u, along_x[:, planes], along_yz)))

        return add_branch(h_BxyzC, branch, halo=PLANE[0] // 2)


class Attention(nn.Module):
    """Pre-norm multi-head self-attention with a feed-forward layer, over sequences.

    A bias is added to the scores (for example a distance penalty, Press et al. 2022).
    """

    def __init__(self, width: int, num_heads: int, *, expand: int = 2) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, expand * width), nn.Linear(expand * width, width)
        for layer in (self.out, self.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, t_NTD: Tensor, bias: Callable[[slice], Tensor] | None = None) -> Tensor:
        """[N, T, D] -> [N, T, D]; `bias` gives what is added to the scores of some of the queries, [heads, t, T]."""
        q, k, v = self.qkv(self.norm_in(t_NTD)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attended(q, k, v) if bias is None else attended_in_parts(q, k, v, bias)
        t_NTD = t_NTD + self.out(mixed.transpose(1, 2).flatten(-2))
        return t_NTD + self.down(F.silu(self.up(self.norm_mid(t_NTD))))
