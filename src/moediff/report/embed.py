"""Volumes as text inside a page, within a size budget.

Differences between neighbouring voxels are compressed instead of the voxels: they are small, so they pack about twice
as well. Where a page would still be too large, scans are shown in fewer grey levels; the page says so.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.report.display import Layer
from moediff.volume.volume import Grid

STEPS = (1, 2, 4, 8, 16)  # merged grey levels; 16 leaves 16, which shows as bands but stays legible
MAP_STEP = 8
LEVEL = 6  # of zlib; 9 takes three times as long for 2 %


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


def _changes(flat: np.ndarray, strides: Sequence[int]) -> tuple[np.ndarray, int]:
    """Differences modulo 256 along the axis where they are smallest, which is across thick slices; and its stride."""
    found = []
    for stride in strides:
        change = flat.copy()
        change[stride:] -= flat[:-stride]
        size = int(np.minimum(change, np.negative(change)).sum(dtype=np.int64))
        found.append((size, stride, change))
    _, stride, change = min(found, key=lambda entry: entry[:2])
    return change, stride


def pack(data_XYZ: Tensor, grid: Grid, step: int) -> Packed:
    """Pack uint8 voxels, rounded down to multiples of `step`."""
    x, y, _ = data_XYZ.shape
    flat = data_XYZ.numpy().ravel(order="F") // step * step
    change, stride = _changes(flat, (1, x, x * y))
    text = base64.b64encode(zlib.compress(change.tobytes(), LEVEL)).decode("ascii")
    return Packed(text, stride, grid)


def _pack_map(layer: Layer, grid: Grid) -> Packed:
    """Labels as they are; other maps at half the resolution, where noise no longer fills the page."""
    if layer.key == "experts":
        return pack(layer.data_XYZ, grid, 1)
    half = F.avg_pool3d(layer.data_XYZ[None].float(), 2, ceil_mode=True)[0].round().to(torch.uint8)
    affine = grid.affine.clone()
    affine[:3, 3] += affine[:3, :3].sum(1) / 2  # centre of the first eight voxels
    affine[:3, :3] *= 2
    x, y, z = half.shape
    return pack(half, Grid((x, y, z), affine), MAP_STEP)


def embed(scans: Sequence[Layer], maps: Sequence[Layer], grid: Grid, budget: int) -> Embedded:
    """Pack all layers into at most `budget` characters if any allowed number of grey levels can."""
    with ThreadPoolExecutor() as threads:  # zlib and numpy let each other work
        packed_maps = tuple(threads.map(lambda layer: _pack_map(layer, grid), maps))
        left = budget - sum(len(p.text) for p in packed_maps)
        for step in STEPS:
            packed = tuple(threads.map(lambda layer, step=step: pack(layer.data_XYZ, grid, step), scans))
            if sum(len(p.text) for p in packed) <= left:
                break
    return Embedded(packed, packed_maps, 256 // step)
