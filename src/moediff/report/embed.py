"""Scans and maps as text inside a page: in how many grey levels and on which voxels, so that the page keeps its size.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.geometry import positions_along
from moediff.core.volume import Grid, Volume
from moediff.report.codec import LEFT, MOST_LEVEL, Packed, pack
from moediff.report.layers import Display, Layer, Scan, Window

SAMPLE_PLANES = 8  # packed together to estimate a size
SAMPLE_SLABS = 3
BELOW = 4.0  # widths of the brain's window; what is darker looks like this


@dataclass(frozen=True)
class PageSize:
    """How large a page may become, and what is given up for that.

    Args:
        name: what a user asks for.
        most_bytes: of the whole page; kept unless the last of `grey_levels` needs more.
        grey_levels: in the brain's window; the first that fits is taken, else the last.
        halved: merge 2 x 2 x 2 voxels of scans where no number of levels fits.
        map_block: voxels of a map that are merged along each axis.
        map_step: merged levels of a map.
    """

    name: str
    most_bytes: int
    grey_levels: tuple[int, ...]
    halved: bool
    map_block: int
    map_step: int


SIZES = {  # 511 grey levels are 255 in the lesion window, as many as a screen shows
    "full": PageSize("full", 25_000_000, (1023, 511), False, 2, 4),
    "small": PageSize("small", 7_000_000, (255, 127, 63), True, 3, 8),
}


@dataclass(frozen=True)
class Placed:
    """A packed volume and where its voxels lie.

    Args:
        packed: the voxels.
        start_mm: where the first voxel begins, from the outer corner of the display's first voxel.
        voxel_mm: size of its voxels.
        low: intensity of level 0; 0 for maps.
        step: intensity of one level; 1 for maps.
    """

    packed: Packed
    start_mm: tuple[float, ...]
    voxel_mm: tuple[float, ...]
    low: float = 0.0
    step: float = 1.0


@dataclass(frozen=True)
class Embedded:
    """Packed scans and maps in the order of the display, and what the page had to give up.

    Args:
        scans, maps: as packed.
        grey_levels: of the scans in the brain's window.
        halved: whether 2 x 2 x 2 voxels of the scans were merged.
        size: what was asked for.
    """

    scans: tuple[Placed, ...]
    maps: tuple[Placed, ...]
    grey_levels: int
    halved: bool
    size: PageSize


def in_levels(data_XYZ: Tensor, low: float, step: float) -> np.ndarray:
    """Intensities as whole numbers of steps above `low`; what is darker or too bright is cut off."""
    scaled = (data_XYZ.float() - low) / step
    return scaled.nan_to_num_(0.0).round_().clamp_(0, MOST_LEVEL).to(torch.int32).numpy()


def placed_on(grid: Grid, display: Grid) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where the first voxel of a grid begins in the display's box, mm, and the size of its voxels."""
    positions = positions_along(grid, display)  # `own_voxels` brought scans onto parallel axes
    start_mm = [
        display_mm / 2 - (at[0] + 0.5) * own
        for at, own, display_mm in zip(positions, grid.spacing_mm, display.spacing_mm, strict=True)
    ]
    return tuple(start_mm), grid.spacing_mm


def _darkest(scans: Sequence[Scan], brain: Window) -> float:
    return max(min(float(scan.volume.data_XYZ.min()) for scan in scans), brain.low - BELOW * brain.width)


def _merged(volume: Volume, block: int) -> Volume:
    """Means of blocks; the first one starts where the first voxel does."""
    x, y, z = volume.shape
    blocks = [min(block, n) for n in (x, y, z)]
    mean = F.avg_pool3d(volume.data_XYZ[None].float(), blocks, ceil_mode=True)[0]
    affine = volume.affine.clone()
    for axis, size in enumerate(blocks):
        affine[:3, 3] += affine[:3, axis] * (size - 1) / 2
        affine[:3, axis] *= size
    return Volume(mean, affine)


def _sample(levels_XYZ: np.ndarray) -> np.ndarray:
    """Some slabs of planes, evenly spread; all of a small volume."""
    planes = levels_XYZ.shape[2]
    if planes <= SAMPLE_SLABS * SAMPLE_PLANES:
        return levels_XYZ
    starts = [round((planes - SAMPLE_PLANES) * (i + 1) / (SAMPLE_SLABS + 1)) for i in range(SAMPLE_SLABS)]
    return np.concatenate([levels_XYZ[..., start : start + SAMPLE_PLANES] for start in starts], axis=2)


def estimated_length(volume: Volume, low: float, step: float) -> float:
    """About how many characters the packed scan has."""
    sample = _sample(volume.data_XYZ.numpy())
    packed = len(pack(in_levels(torch.from_numpy(sample), low, step)).text)
    return packed * volume.data_XYZ.numel() / sample.size


def pack_map(layer: Layer, grid: Grid, size: PageSize) -> Placed:
    """Labels as they are; other maps in means of blocks, where noise no longer fills the page."""
    if layer.labels:
        return Placed(pack(layer.data_XYZ.numpy(), LEFT), *placed_on(grid, grid))
    merged = _merged(Volume(layer.data_XYZ.float(), grid.affine), size.map_block)
    half = size.map_step // 2  # rounded to multiples of the step, so that 0 and 128 stay what they are
    levels = torch.div(merged.data_XYZ + half, size.map_step, rounding_mode="floor") * size.map_step
    return Placed(pack(levels.clamp(0, 255).to(torch.int32).numpy()), *placed_on(merged.grid, grid))


def _pack_scan(volume: Volume, display: Display, low: float, step: float) -> Placed:
    packed = pack(in_levels(volume.data_XYZ, low, step))
    return Placed(packed, *placed_on(volume.grid, display.grid), low, step)


def embed(display: Display, size: PageSize, used: int) -> Embedded:
    """Pack all scans and maps into a page of which `used` characters are taken.

    As many grey levels as fit are kept, by an estimate from a sample, so that volumes are packed once; zlib and numpy
    let threads run side by side.
    """
    brain = display.windows[0]
    low = _darkest(display.scans, brain)
    volumes = [scan.volume for scan in display.scans]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        maps = tuple(pool.map(lambda layer: pack_map(layer, display.grid, size), display.maps))
        left = size.most_bytes - used - sum(len(one.packed.text) for one in maps)
        for halved in (False, True) if size.halved else (False,):
            candidates = [_merged(volume, 2) for volume in volumes] if halved else volumes
            for levels in size.grey_levels:
                step = brain.width / levels
                if sum(pool.map(lambda volume, s=step: estimated_length(volume, low, s), candidates)) <= left:
                    break
            else:
                continue
            break
        scans = tuple(pool.map(lambda volume: _pack_scan(volume, display, low, step), candidates))
    return Embedded(scans, maps, levels, halved, size)
