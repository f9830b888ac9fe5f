"""The network over a whole head: once-per-scan context, then tiles whose halo makes them equal to one pass.

Axes: B batch (1), X Y Z voxels of the head's box (multiples of 16), xyz cells or tokens, E experts.
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
class Frame:
    """The head's box inside the target grid, padded to multiples of 16.

    Args:
        box: where the box lies in the target grid (before padding), axes in the grid's order.
        order: the grid's axes in the network's order (coarsest last); everything below is in that order.
        shape: its padded shape.
        condition: what the denoiser knows, on that shape.
        inside_BXYZ: foreground.
    """

    box: Box
    order: tuple[int, int, int]
    shape: tuple[int, int, int]
    condition: Condition
    inside_BXYZ: Tensor

    def _back(self, data_XYZ: Tensor) -> Tensor:
        """Network order, padded -> grid order, cropped to the box."""
        back = [self.order.index(axis) for axis in range(3)]
        x, y, z = (s.stop - s.start for s in self.box)
        return data_XYZ.permute(*back, *range(3, data_XYZ.ndim))[:x, :y, :z]

    def place(self, data_BXYZ: Tensor, around_XYZ: Tensor) -> Tensor:
        """A target-grid volume with box voxels put in; foreground only, the rest is as `around_XYZ`."""
        inside = self._back(self.inside_BXYZ[0]).to(around_XYZ.device)
        out = around_XYZ.clone(memory_format=torch.contiguous_format)
        out[self.box] = torch.where(inside, self._back(data_BXYZ[0]).to(out), out[self.box])
        return out

    def weight_XYZ(self, expert: int, shape: Sequence[int]) -> Tensor:
        """One expert's gate weight per voxel of the target grid; zero outside the foreground."""
        cells = self.condition.weight_BxyzE[0, ..., expert].float()
        for axis in range(3):
            cells = cells.repeat_interleave(2, dim=axis)
        out = cells.new_zeros(*shape)
        out[self.box] = self._back(cells * self.inside_BXYZ[0])
        return out

    def weights_only(self) -> Frame:
        """Without what only the network reads, which takes most of the memory; on the CPU."""
        few = {
            name: getattr(self.condition, name)[..., :0]
            for name in ("interpolated_BXYZ", "neighbours_BNXYZ", "token_BxyzD")
        }
        few = {name: value.clone() for name, value in few.items()}
        few["weight_BxyzE"] = self.condition.weight_BxyzE.cpu()
        return replace(self, condition=replace(self.condition, **few), inside_BXYZ=self.inside_BXYZ.cpu())

    def alone(self, expert: int) -> Frame:
        """The same head with one expert everywhere."""
        weight = self.condition.weight_BxyzE
        only = torch.zeros_like(weight)
        only[..., expert] = (weight.amax(-1) > 0).to(weight.dtype)
        return replace(self, condition=replace(self.condition, weight_BxyzE=only))


def frame(denoiser: Denoiser, prepared: Prepared, *, sparse: bool = True) -> Frame:
    """Crop to the head and read it with the encoder and the gate; background cells get no expert."""
    device = next(denoiser.parameters()).device
    low, high = bounds(prepared.mask_XYZ)
    low = _in_step(low, high, prepared)
    box = slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])
    order = network_order(prepared.positions)
    pad = [(low[a] - high[a]) % COARSE for a in order]
    around = (0, pad[2], 0, pad[1], 0, pad[0])
    base = F.pad(prepared.interpolated_XYZ[box].permute(order)[None], around).to(device)
    slices = prepared.neighbours_NXYZ[(slice(None), *box)].permute(0, *(axis + 1 for axis in order))
    slices = F.pad(slices[None], around).to(device)
    inside = F.pad(prepared.mask_XYZ[box].permute(order)[None], around).to(device)
    at = [
        _extended(prepared.positions[a][low[a] : high[a]], more).to(device)[None]
        for a, more in zip(order, pad, strict=True)
    ]
    noise = torch.tensor([prepared.noise], device=device, dtype=base.dtype)
    condition = make_condition(denoiser, NetworkInput(base, slices, PerAxis(*at), noise), sparse=sparse)
    cells = F.max_pool3d(inside[:, None].float(), 2)[:, 0, ..., None]
    condition = replace(condition, weight_BxyzE=condition.weight_BxyzE * cells)
    x, y, z = base.shape[1:]
    return Frame(box, (order[0], order[1], order[2]), (x, y, z), condition, inside)


def _in_step(low: Sequence[int], high: Sequence[int], prepared: Prepared) -> list[int]:
    """Where the box begins, so that cells and tokens lie as they would if the grid held the whole head.

    Where they lie otherwise, a result changes by 1 % of the range (LOG.md, 2026-11-27).
    """
    part = [(r.start > 0, r.stop < n) for r, n in zip(prepared.reached, prepared.source.shape, strict=True)]
    if prepared.foreground_bounds is None or not any(any(cut) for cut in part):
        return list(low)
    found = []
    for axis, (first, _) in enumerate(prepared.foreground_bounds):
        positions, cut = prepared.positions[axis], part[axis][0]
        step = 1 / voxel_ratio(positions)
        guess = math.floor((first - 0.5 - positions[0]) / step) - 1
        whole = next(k for k in itertools.count(guess) if round(positions[0] + k * step) >= first)
        begin = low[axis] - (low[axis] - whole) % COARSE
        begin += COARSE if begin < 0 and cut else 0  # the margin has room for it
        found.append(begin if 0 <= begin < high[axis] else low[axis])
    return found


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
    denoiser: Denoiser, x_BXYZ: Tensor, sigma: float, head: Frame, budget_bytes: float, *, error: bool = False
) -> Tensor:
    """D(x, sigma) over the head's box; tiles without foreground keep a zero residual.

    Args:
        error: also foretell the absolute error: [2, B, X, Y, Z].
    """
    halo = -(-denoiser.config.reach_voxels // ALIGN) * ALIGN
    sides = tile_sides(head.shape, halo, budget_bytes / (BYTES_PER_CHANNEL * denoiser.config.backbone.width))
    call = denoiser.with_uncertainty if error else denoiser
    out = x_BXYZ.new_zeros(*((2,) if error else ()), *x_BXYZ.shape)
    sigma_B = torch.full((1,), sigma, device=x_BXYZ.device, dtype=x_BXYZ.dtype)
    for read, keep, put in tiles(head.shape, sides, halo):
        if not bool(head.inside_BXYZ[(..., *put)].any()):
            continue
        result = call(x_BXYZ[(..., *read)], sigma_B, cut(head.condition, read))
        out[(..., *put)] = result[(..., *keep)]
    return out
