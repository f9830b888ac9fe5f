"""Volumes as text inside a page, within a size budget.

Differences between neighbouring voxels are compressed instead of the voxels: they are small, so they pack about twice
as well. Where a page would still be too large, scans are shown in fewer grey levels; the page says so.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.volume import Grid
from moediff.report.layers import Layer

STEPS = (1, 2, 4, 8, 16)  # merged grey levels; 16 leaves 16, which shows as bands but stays legible
MAP_STEP = 8
MAP_BLOCKS = (2, 3, 4)  # voxels merged along each axis of a map
MAP_SHARE = 0.3  # of the budget at most
LEVEL, STRATEGY = 1, zlib.Z_RLE  # of zlib: differences hold no longer repeats to look for
SAMPLE_PLANES, SAMPLE_EVERY = 8, 32  # planes packed to foretell a size: runs long enough for thick slices
SAFE = 1.03  # an estimated size may be this much too small


@dataclass(frozen=True)
class Packed:
    """One layer as text.

    Args:
        text: base64 of zlib-compressed differences, in NIfTI order (x fastest).
        stride: how many voxels apart the subtracted ones lie; a running sum with it brings the voxels back.
        grid: where the voxels lie.
    """

    text: str
    stride: int
    grid: Grid


@dataclass(frozen=True)
class Embedded:
    """Packed scans, packed maps, and in how many grey levels the scans are shown."""

    scans: tuple[Packed, ...]
    maps: tuple[Packed, ...]
    grey_levels: int


def _flat(data_XYZ: Tensor) -> np.ndarray:
    """Voxels in NIfTI order, x fastest."""
    return data_XYZ.numpy().ravel(order="F")


def _changes(flat: np.ndarray, stride: int, step: int) -> np.ndarray:
    """Differences modulo 256 of voxels rounded down to multiples of `step` (a power of two)."""
    rounded = flat & np.uint8(256 - step)
    change = rounded.copy()
    change[stride:] -= rounded[:-stride]
    return change


def _size(change: np.ndarray) -> int:
    """How large differences are, summed; decides what to subtract."""
    return int(np.minimum(change, np.negative(change)).sum(dtype=np.int64))


def _deflate(change: np.ndarray) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1, STRATEGY)
    return packer.compress(change.data) + packer.flush()


def _sample(flat: np.ndarray, plane: int) -> np.ndarray:
    """Runs of whole planes (of that many voxels), evenly spread; all of a small volume."""
    planes = len(flat) // plane
    starts = range(0, planes, SAMPLE_EVERY) if planes > SAMPLE_EVERY else (0,)
    length = SAMPLE_PLANES if planes > SAMPLE_EVERY else planes
    middle = (SAMPLE_EVERY - SAMPLE_PLANES) // 2 if planes > SAMPLE_EVERY else 0
    return np.concatenate([flat[(s + middle) * plane : (s + middle + length) * plane] for s in starts])


class _Prepared:
    """A layer's voxels in NIfTI order, the stride along which they change least, and a sample that foretells sizes."""

    def __init__(self, data_XYZ: Tensor, grid: Grid) -> None:
        x, y, _ = data_XYZ.shape
        self.flat, self.grid = _flat(data_XYZ), grid
        self.sample = _sample(self.flat, x * y)
        strides = dict.fromkeys(min(s, len(self.sample) - 1) or 1 for s in (1, x, x * y))
        self.stride = min(strides, key=lambda stride: _size(_changes(self.sample, stride, 1)))

    def estimated_length(self, step: int) -> float:
        """About how many characters `pack` will make."""
        packed = len(_deflate(_changes(self.sample, self.stride, step)))
        return SAFE * 4 / 3 * packed * len(self.flat) / len(self.sample)

    def pack(self, step: int) -> Packed:
        text = base64.b64encode(_deflate(_changes(self.flat, self.stride, step))).decode("ascii")
        return Packed(text, self.stride, self.grid)


def pack(data_XYZ: Tensor, grid: Grid, step: int) -> Packed:
    """Pack uint8 voxels, rounded down to multiples of `step` (a power of two)."""
    return _Prepared(data_XYZ, grid).pack(step)


def _coarser(grid: Grid, shape: Sequence[int], block: int) -> Grid:
    """The grid of blocks, whose first one starts where the first voxel does."""
    affine = grid.affine.clone()
    affine[:3, 3] += affine[:3, :3].sum(1) * (block - 1) / 2
    affine[:3, :3] *= block
    x, y, z = shape
    return Grid((x, y, z), affine)


def _pack_map(layer: Layer, grid: Grid, block: int) -> Packed:
    """Labels as they are; other maps in means of blocks, where noise no longer fills the page."""
    if layer.labels:
        return pack(layer.data_XYZ, grid, 1)
    mean = F.avg_pool3d(layer.data_XYZ[None].float(), block, ceil_mode=True)[0].round().to(torch.uint8)
    return pack(mean, _coarser(grid, mean.shape, block), MAP_STEP)


def _length(packed: Sequence[Packed]) -> int:
    return sum(len(p.text) for p in packed)


def embed(scans: Sequence[Layer], maps: Sequence[Layer], grid: Grid, budget: int) -> Embedded:
    """Pack all layers into at most `budget` characters if any allowed coarseness can.

    Sizes are estimated from a sample, so that volumes are packed once; zlib and numpy let threads run side by side.
    """
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        prepared = pool.map(lambda layer: _Prepared(layer.data_XYZ, grid), scans)
        packed_maps: list[Packed] = []
        for block in MAP_BLOCKS:
            packed_maps = list(pool.map(lambda layer, b=block: _pack_map(layer, grid, b), maps))
            if _length(packed_maps) <= MAP_SHARE * budget:
                break
        ready, left = list(prepared), budget - _length(packed_maps)
        packed: list[Packed] = []
        for step in STEPS:
            if step < STEPS[-1] and sum(pool.map(lambda p, s=step: p.estimated_length(s), ready)) > left:
                continue
            packed = list(pool.map(lambda p, s=step: p.pack(s), ready))
            if _length(packed) <= left:
                break
    return Embedded(tuple(packed), tuple(packed_maps), 256 // step)
