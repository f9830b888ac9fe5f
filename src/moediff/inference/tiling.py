"""Tiles: the network over a whole scan, with a context computed once and a halo that makes tiles equal to one pass.

Axes: B batch (1), X Y Z voxels of the input crop (multiples of 16), xyz cells or tokens, E experts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.operators import voxel_ratio
from moediff.acquisition.prepare import Prepared, bounds, network_order
from moediff.model.conditioning import Condition, NetworkInput, PerAxis
from moediff.model.denoiser import Denoiser
from moediff.model.encoder import COARSE, FINE
from moediff.model.routing import make_condition

Box = tuple[slice, slice, slice]
BYTES_PER_CHANNEL = 1.0  # a tile's measured peak a voxel and backbone channel, fp32 (0.9 with 64 channels)
ALIGN = 8  # voxels; tiles begin where tokens and the experts' windows do


@dataclass(frozen=True)
class InputCrop:
    """Input crop: the foreground's box in the working grid, in the network's axis order, padded to multiples of 16.

    Args:
        box: where it lies in the grid (before padding), axes in the grid's order.
        order: the grid's axes in the network's order (coarsest last).
        foreground_BXYZ: True in the foreground; network's order, padded.
    """

    box: Box
    order: tuple[int, int, int]
    foreground_BXYZ: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Padded shape, network's order."""
        x, y, z = self.foreground_BXYZ.shape[1:]
        return x, y, z

    def to_grid_order(self, data_XYZ: Tensor) -> Tensor:
        """Network's order, padded -> the grid's order, without padding."""
        back = [self.order.index(axis) for axis in range(3)]
        x, y, z = (s.stop - s.start for s in self.box)
        return data_XYZ.permute(*back, *range(3, data_XYZ.ndim))[:x, :y, :z]

    def paste(self, data_BXYZ: Tensor, like_XYZ: Tensor) -> Tensor:
        """Foreground voxels on the working grid, zero elsewhere; where and what `like_XYZ` is."""
        inside = self.to_grid_order(self.foreground_BXYZ[0]).to(like_XYZ.device)
        pasted = torch.zeros_like(like_XYZ, memory_format=torch.contiguous_format)
        pasted[self.box] = torch.where(inside, self.to_grid_order(data_BXYZ[0]).to(pasted), pasted[self.box])
        return pasted


@dataclass(frozen=True)
class GateWeights:
    """Gate weights of a scan, on the CPU: what its expert map needs, without what only the network reads."""

    crop: InputCrop
    weight_BxyzE: Tensor

    @property
    def experts(self) -> int:
        """How many there are."""
        return self.weight_BxyzE.shape[-1]

    def expert_XYZ(self, expert: int, shape: Sequence[int]) -> Tensor:
        """One expert's weight per voxel of the working grid; zero outside the foreground."""
        cells = self.weight_BxyzE[0, ..., expert].float()
        for axis in range(3):
            cells = cells.repeat_interleave(2, dim=axis)
        weight_XYZ = cells.new_zeros(*shape)
        weight_XYZ[self.crop.box] = self.crop.to_grid_order(cells * self.crop.foreground_BXYZ[0])
        return weight_XYZ


@dataclass(frozen=True)
class TileContext:
    """Tile context: what all tiles of a scan share, computed once: the input crop and the condition on it."""

    crop: InputCrop
    condition: Condition

    def single_expert(self, expert: int) -> TileContext:
        """The same context with one expert everywhere."""
        weight = self.condition.weight_BxyzE
        only = torch.zeros_like(weight)
        only[..., expert] = (weight.amax(-1) > 0).to(weight.dtype)
        return replace(self, condition=replace(self.condition, weight_BxyzE=only))

    def gate_weights(self) -> GateWeights:
        """The gate's weights alone, on the CPU."""
        crop = replace(self.crop, foreground_BXYZ=self.crop.foreground_BXYZ.cpu())
        return GateWeights(crop, self.condition.weight_BxyzE.cpu())


def encode(denoiser: Denoiser, prepared: Prepared, *, sparse: bool = True) -> TileContext:
    """Crop to the foreground and read it with the encoder and the gate; background cells get no expert."""
    device = next(denoiser.parameters()).device
    low, high = bounds(prepared.mask_XYZ)
    low = _phase_aligned(low, high, prepared)
    box = slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])
    order = network_order(prepared.positions)
    pad = [(low[a] - high[a]) % COARSE for a in order]
    around = (0, pad[2], 0, pad[1], 0, pad[0])
    interpolated = F.pad(prepared.interpolated_XYZ[box].permute(order)[None], around).to(device)
    neighbours = prepared.neighbours()[(slice(None), *box)].permute(0, *(axis + 1 for axis in order))
    neighbours = F.pad(neighbours[None], around).to(device)
    foreground = F.pad(prepared.mask_XYZ[box].permute(order)[None], around).to(device)
    at = [
        _extended(prepared.positions[a][low[a] : high[a]], more).to(device)[None]
        for a, more in zip(order, pad, strict=True)
    ]
    noise = torch.tensor([prepared.noise], device=device, dtype=interpolated.dtype)
    reads = denoiser.config.reads_sampling
    sampled = (
        torch.tensor(prepared.attenuation(order), device=device, dtype=interpolated.dtype)[None] if reads else None
    )
    scans = NetworkInput(interpolated, neighbours, PerAxis(*at), noise, sampled)
    condition = make_condition(denoiser, scans, sparse=sparse)
    cells = F.max_pool3d(foreground[:, None].float(), 2)[:, 0, ..., None]
    condition = replace(condition, weight_BxyzE=condition.weight_BxyzE * cells)
    return TileContext(InputCrop(box, (order[0], order[1], order[2]), foreground), condition)


def _phase_aligned(low: Sequence[int], high: Sequence[int], prepared: Prepared) -> list[int]:
    """Where the box begins, so that cells and tokens lie as they would if the grid held the whole head.

    Where they lie otherwise, a result changes by 1 % of the range (LOG.md, 2026-11-27).
    """
    ends = [(r.start > 0, r.stop < n) for r, n in zip(prepared.reached, prepared.source.shape, strict=True)]
    if prepared.foreground_bounds is None or not any(any(cut_off) for cut_off in ends):
        return list(low)
    starts = []
    for axis, (first, _) in enumerate(prepared.foreground_bounds):
        positions, cut_off = prepared.positions[axis], ends[axis][0]
        step = 1 / voxel_ratio(positions)
        before = math.floor((first - 0.5 - positions[0]) / step) - 1
        whole = next(k for k in itertools.count(before) if round(positions[0] + k * step) >= first)
        start = low[axis] - (low[axis] - whole) % COARSE
        start += COARSE if start < 0 and cut_off else 0  # the margin has room for it
        starts.append(start if 0 <= start < high[axis] else low[axis])
    return starts


def _extended(positions: Sequence[float], more: int) -> Tensor:
    at = torch.tensor(positions, dtype=torch.float64)
    step = at[1] - at[0] if len(at) > 1 else torch.tensor(1.0, dtype=torch.float64)
    return torch.cat([at, at[-1] + step * torch.arange(1, more + 1)]).float()


def tile_sides(shape: Sequence[int], halo: int, most_voxels: float) -> tuple[int, int, int]:
    """Sides, multiples of 16, of the tiles that read least in all while none reads more than `most_voxels`.

    Tiles of 16 voxels where nothing fits.
    """
    best, least = (COARSE, COARSE, COARSE), float("inf")
    for sides in itertools.product(*(_even_sides(n) for n in shape)):
        largest, total = 1, 1
        for side, whole in zip(sides, shape, strict=True):
            reads = _reads(side, whole, halo)
            largest, total = largest * max(reads), total * sum(reads)
        if largest <= most_voxels and total < least:
            best, least = (sides[0], sides[1], sides[2]), total
    return best


def _even_sides(whole: int) -> list[int]:
    """Sides that cut an axis into 1, 2, 3 ... nearly equal parts."""
    return list(dict.fromkeys(-(-whole // (parts * COARSE)) * COARSE for parts in range(1, whole // COARSE + 1)))


def _reads(side: int, whole: int, halo: int) -> list[int]:
    """How much of an axis each of its tiles reads."""
    return [min(start + side + halo, whole) - max(start - halo, 0) for start in range(0, whole, side)]


def tiles(shape: Sequence[int], sides: Sequence[int], halo: int) -> Iterator[tuple[Box, Box, Box]]:
    """For every tile: what to read (with halo), what to keep of that, and where the kept part goes."""
    starts = [range(0, n, side) for n, side in zip(shape, sides, strict=True)]
    for corner in itertools.product(*starts):
        read, keep, put = [], [], []
        for start, side, whole in zip(corner, sides, shape, strict=True):
            stop = min(start + side, whole)
            first, last = max(start - halo, 0), min(stop + halo, whole)
            read.append(slice(first, last))
            keep.append(slice(start - first, stop - first))
            put.append(slice(start, stop))
        yield (read[0], read[1], read[2]), (keep[0], keep[1], keep[2]), (put[0], put[1], put[2])


def cut(condition: Condition, box: Box) -> Condition:
    """The condition of one tile; its corners are multiples of 8."""
    cells = tuple(slice(s.start // 2, s.stop // 2) for s in box)
    tokens = tuple(slice(s.start // FINE, s.stop // FINE) for s in box)
    x, y, z = (t[:, c] for t, c in zip(condition.phase, cells, strict=True))
    return replace(
        condition,
        interpolated_BXYZ=condition.interpolated_BXYZ[(slice(None), *box)],
        neighbours_BNXYZ=condition.neighbours_BNXYZ[(slice(None), slice(None), *box)],
        phase=PerAxis(x, y, z),
        token_BxyzD=condition.token_BxyzD[(slice(None), *tokens)],
        weight_BxyzE=condition.weight_BxyzE[(slice(None), *cells)],
    )


@torch.no_grad()
def denoise_tiled(
    denoiser: Denoiser, x_BXYZ: Tensor, sigma: float, context: TileContext, budget_bytes: float, *, error: bool = False
) -> Tensor:
    """D(x, sigma) over the input crop; tiles without foreground have a zero residual.

    Args:
        error: also predict the absolute error: [2, B, X, Y, Z].
    """
    halo = -(-denoiser.config.reach_voxels // ALIGN) * ALIGN
    sides = tile_sides(context.crop.shape, halo, budget_bytes / (BYTES_PER_CHANNEL * denoiser.config.backbone.width))
    call = denoiser.with_uncertainty if error else denoiser
    out = x_BXYZ.new_zeros(*((2,) if error else ()), *x_BXYZ.shape)
    sigma_B = torch.full((1,), sigma, device=x_BXYZ.device, dtype=x_BXYZ.dtype)
    for read, keep, put in tiles(context.crop.shape, sides, halo):
        if not bool(context.crop.foreground_BXYZ[(..., *put)].any()):
            continue
        result = call(x_BXYZ[(..., *read)], sigma_B, cut(context.condition, read))
        out[(..., *put)] = result[(..., *keep)]
    return out
