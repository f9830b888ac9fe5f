"""Layers shared by the encoder, the trunk and the experts.

A cell is a cube of 2x2x2 voxels. Cell tensors keep channels last, so that pointwise layers are plain matrix products
and 3x3x3 convolutions see the memory order that CPUs and tensor cores like best.

Axes: B batch, X Y Z voxels, xyz lattice of cells or tokens, C channels, R rows (gathered cells).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLAB_BYTES = {"cpu": 2**24}  # of one tensor of a slab, where that pays; elsewhere:
SLAB_BYTES_ELSEWHERE = 2**28
SCORE_BYTES = 2**24  # of attention scores at a time
Kernel = tuple[int, int, int]
PLANE, LINE, FULL = (3, 3, 1), (1, 1, 3), (3, 3, 3)


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


def slabs(h_BxyzC: Tensor, multiple: int = 1) -> Iterator[slice]:
    """Parts of the first axis that are worked on one at a time at inference; with gradients, one part is all.

    They bound memory, and a CPU's caches hold a part from one layer to the next. Lengths are multiples of `multiple`.
    """
    length = h_BxyzC.shape[1]
    most = SLAB_BYTES.get(h_BxyzC.device.type, SLAB_BYTES_ELSEWHERE)
    planes = most * length // max(h_BxyzC.numel() * h_BxyzC.element_size(), 1) // multiple * multiple
    step = length if torch.is_grad_enabled() else max(planes, multiple)
    for start in range(0, length, max(step, 1)):
        yield slice(start, min(start + step, length))


def in_slabs(work: Callable[[slice], Tensor], h_BxyzC: Tensor, multiple: int = 1) -> Tensor:
    """What `work` makes of every slab, put together along the first axis.

    At inference each piece is written into the whole at once: pieces that are kept until the end pin the memory that
    lies before them, and a large head's peak doubles.
    """
    first, *more = slabs(h_BxyzC, multiple)
    part = work(first)
    if not more:
        return part
    made, taken = part.shape[1], first.stop  # as many planes as it was given, or fewer by a constant factor
    whole = part.new_empty(part.shape[0], h_BxyzC.shape[1] * made // taken, *part.shape[2:])
    for slab in (first, *more):
        part = part if slab is first else work(slab)
        whole[:, slab.start * made // taken : slab.stop * made // taken] = part
    return whole


class Conv(nn.Conv3d):
    """A convolution with zero padding on channels-last lattices; `kernel` is odd along every axis."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Kernel = FULL, *, gain: float = 1.0) -> None:
        x, y, z = kernel
        super().__init__(channels_in, channels_out, kernel, padding=(x // 2, y // 2, z // 2))
        nn.init.normal_(self.weight, std=gain * (2 / (x * y * z * channels_in)) ** 0.5)  # He et al. 2015
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, h_BxyzC: Tensor, *, inner: bool = False) -> Tensor:
        """[B, x, y, z, C_in] -> [B, x, y, z, C_out]; `inner`: only x for which the kernel has all its neighbours."""
        weight = self.weight.contiguous(memory_format=torch.channels_last_3d)
        padding = (0, *self.padding[1:]) if inner else self.padding
        planar = F.conv3d(h_BxyzC.permute(0, 4, 1, 2, 3), weight, self.bias, padding=padding)
        return planar.permute(0, 2, 3, 4, 1)


class Modulation(nn.Module):
    """Scale and shift from what is known about the acquisition.

    A per-scan vector (noise, spacing ratios, diffusion sigma) and, along each axis, a table over lattice sites that
    says where they fall between the measured samples. The tables add up, so a site's modulation costs a broadcast.
    """

    def __init__(self, vector: int, table: int, channels: int) -> None:
        super().__init__()
        self.from_vector = nn.Linear(vector, 2 * channels)
        self.from_axis = nn.ModuleList(nn.Linear(table, 2 * channels, bias=False) for _ in range(3))
        for layer in (self.from_vector, *self.from_axis):
            nn.init.normal_(layer.weight, std=0.1)
        nn.init.zeros_(self.from_vector.bias)

    def factors(self, vector_BV: Tensor, tables: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Scale and shift, side by side: along x [B, x, 1, 1, 2C] and over the other axes [B, 1, y, z, 2C]."""
        along_x, along_y, along_z = (layer(table) for layer, table in zip(self.from_axis, tables, strict=True))
        all_x = along_x[:, :, None, None] + self.from_vector(vector_BV)[:, None, None, None]
        return all_x, along_y[:, None, :, None] + along_z[:, None, None, :]

    def forward(self, h_BxyzC: Tensor, vector_BV: Tensor, tables: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """h (1 + scale) + shift."""
        return modulated(h_BxyzC, *self.factors(vector_BV, tables))


def modulated(h_BxyzC: Tensor, along_x: Tensor, along_yz: Tensor) -> Tensor:
    """h (1 + scale) + shift, with `Modulation.factors`."""
    (scale_x, shift_x), (scale_yz, shift_yz) = along_x.chunk(2, -1), along_yz.chunk(2, -1)
    return torch.addcmul(shift_x + shift_yz, h_BxyzC, 1 + scale_x + scale_yz)


class ResBlock(nn.Module):
    """A convolution in the plane of the slices, modulation, and one across the slices, added to the input.

    The last axis is the coarsest one. Two thin kernels cost a quarter of two 3x3x3 ones; more of them in the same time
    learn more (LOG.md, 2026-11-23). `kernels` are for comparisons.

    A `normed` block looks at its input with every site's channels brought to unit size (Zhang & Sennrich 2019). In a
    stack without it the modulation's factors multiply up, until ReLU is silent everywhere behind some block.
    """

    def __init__(
        self,
        channels: int,
        vector: int,
        table: int,
        kernels: tuple[Kernel, Kernel] = (PLANE, LINE),
        *,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.normed = normed
        self.first = Conv(channels, channels, kernels[0])
        self.modulate = Modulation(vector, table, channels)
        self.second = Conv(channels, channels, kernels[1], gain=0.3)

    def forward(self, h_BxyzC: Tensor, vector_BV: Tensor, tables: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Same shape in and out; without gradients the result is written over the input, slab by slab."""
        along_x, along_yz = self.modulate.factors(vector_BV, tables)
        if torch.is_grad_enabled() or self.second.kernel_size[0] > 1:
            return self._branch(h_BxyzC, along_x, along_yz).add_(h_BxyzC)
        reach = self.first.kernel_size[0] // 2
        behind = edge = torch.zeros_like(h_BxyzC[:, :reach])
        for slab in slabs(h_BxyzC, reach):
            own, ahead = h_BxyzC[:, slab], h_BxyzC[:, slab.stop : slab.stop + reach]
            seen = torch.cat([behind, own, ahead if ahead.shape[1] else edge], 1)
            behind = own[:, -reach:].clone()
            own.add_(self._branch(seen, along_x[:, slab], along_yz, inner=True))
        return h_BxyzC

    def _branch(self, h_BxyzC: Tensor, along_x: Tensor, along_yz: Tensor, *, inner: bool = False) -> Tensor:
        u = self.first(F.relu(unit_size(h_BxyzC) if self.normed else h_BxyzC), inner=inner)
        return self.second(F.relu_(modulated(u, along_x, along_yz)))


def attended(q_NHTD: Tensor, k_NHTD: Tensor, v_NHTD: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; `bias` is added to the scores.

    On a CPU in float32 whatever it is given: torch's bfloat16 gradient of it takes seven times as long there.
    """
    if q_NHTD.device.type == "cpu" and q_NHTD.dtype != torch.float32:
        with torch.autocast("cpu", enabled=False):
            return attended(q_NHTD.float(), k_NHTD.float(), v_NHTD.float(), bias).to(q_NHTD.dtype)
    return F.scaled_dot_product_attention(q_NHTD, k_NHTD, v_NHTD, attn_mask=None if bias is None else bias.to(q_NHTD))


def _attended_in_parts(q_NHTD: Tensor, k_NHTD: Tensor, v_NHTD: Tensor, bias: Callable[[slice], Tensor]) -> Tensor:
    """Attention whose scores are held for some of the queries at a time; with gradients, for all."""
    if torch.is_grad_enabled():
        return attended(q_NHTD, k_NHTD, v_NHTD, bias(slice(0, q_NHTD.shape[2])))
    mixed = torch.empty_like(q_NHTD)
    for part in _queries(q_NHTD):
        mixed[:, :, part] = attended(q_NHTD[:, :, part], k_NHTD, v_NHTD, bias(part))
    return mixed


def _queries(q_NHTD: Tensor) -> Iterator[slice]:
    """Parts of the queries whose scores against all keys fit into a bound."""
    n, heads, length, _ = q_NHTD.shape
    step = max(SCORE_BYTES // (n * heads * length * q_NHTD.element_size()), 1)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


class Attention(nn.Module):
    """Pre-norm multi-head self-attention with a feed-forward layer, over sequences.

    A bias is added to the scores (for example a distance penalty, Press et al. 2022).
    """

    def __init__(self, width: int, heads: int, *, expand: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, expand * width), nn.Linear(expand * width, width)
        for layer in (self.out, self.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, t_NTD: Tensor, bias: Callable[[slice], Tensor] | None = None) -> Tensor:
        """[N, T, D] -> [N, T, D]; `bias` gives what is added to the scores of some of the queries, [heads, t, T]."""
        q, k, v = self.qkv(self.norm_in(t_NTD)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attended(q, k, v) if bias is None else _attended_in_parts(q, k, v, bias)
        mixed = mixed.transpose(1, 2).flatten(-2)
        t_NTD = t_NTD + self.out(mixed)
        return t_NTD + self.down(F.silu(self.up(self.norm_mid(t_NTD))))
