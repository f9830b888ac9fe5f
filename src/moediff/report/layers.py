"""Layers of a report page: scans in their own units, and 8-bit maps, cut to the box around the head.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moediff.core.geometry import axis_positions, crop, field_of_view_mask, resample
from moediff.core.volume import Grid, Volume

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # across, up, through
EDGES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
EXPERT_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#F0E442")  # Okabe & Ito 2008
SAMPLES = 100_000  # quantiles need no more voxels than these
DARK = 0.01  # quantile that air lies at where a scan goes below zero


def size_in_words(spacing_mm: Sequence[float], *, resampled: bool) -> str:
    """A voxel size that was measured, as in "0.9 x 0.9 x 5 mm"."""
    sizes = [f"{size:.2f}".rstrip("0").rstrip(".") for size in spacing_mm]
    words = f"{sizes[0] if len(set(sizes)) == 1 else ' x '.join(sizes)} mm"
    return f"{words}, resampled" if resampled else words


@dataclass(frozen=True)
class Scan:
    """One scan to look at.

    Args:
        key: short identifier, letters and digits only.
        title: what a reader sees.
        volume: in the scan's units, on voxels of its own whose axes are parallel to those of `Display.grid`.
        measured_mm: voxel size of a scan at an angle to that grid, which was resampled on the grid's voxels.
    """

    key: str
    title: str
    volume: Volume
    measured_mm: tuple[float, float, float] | None = None

    @property
    def voxel_size(self) -> str:
        """As it was measured, in words."""
        return size_in_words(self.measured_mm or self.volume.spacing_mm, resampled=self.measured_mm is not None)


@dataclass(frozen=True)
class Layer:
    """One 8-bit map.

    Args:
        key: short identifier, letters and digits only.
        title: what a reader sees.
        data_XYZ: uint8.
        low: value that 0 stands for.
        high: value that 255 stands for; for labels the highest label.
        labels: name and colour (#rrggbb) of labels 1, 2, ...; empty unless the voxels are labels.
        signed: 128 stands for zero, 0 and 255 for -high and high.
        note: what labels stand for, in a few words.
    """

    key: str
    title: str
    data_XYZ: Tensor
    low: float
    high: float
    labels: tuple[tuple[str, str], ...] = ()
    signed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Window:
    """Intensities shown as black and as white."""

    name: str
    low: float
    high: float

    @property
    def width(self) -> float:
        """White minus black."""
        return self.high - self.low


@dataclass(frozen=True)
class Display:
    """All that is drawn: maps lie on `grid`, scans in its box; `centre` is the voxel where views open.

    `windows` are what a reader can choose from, the first of them on opening.
    """

    grid: Grid
    scans: tuple[Scan, ...]
    maps: tuple[Layer, ...]
    centre: tuple[int, int, int]
    windows: tuple[Window, ...]

    @property
    def enhanced(self) -> Scan:
        """The scan that maps belong to; it lies on `grid`."""
        return next(scan for scan in self.scans if scan.key == "enhanced")


@dataclass(frozen=True)
class DisplayBox:
    """Box of the enhanced scan that is displayed."""

    start: tuple[int, ...]
    shape: tuple[int, ...]

    def crop_volume(self, volume: Volume) -> Volume:
        """The box of a volume that lies on the enhanced grid."""
        return crop(volume, self.start, self.shape)

    def crop_data(self, data: Tensor) -> Tensor:
        """The same box of bare voxels; axes after the third are kept."""
        return data[tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))]


def sampled(data: Tensor, most: int = SAMPLES) -> Tensor:
    """An even subset of at most about this many values, for statistics."""
    step = max(1, round((data.numel() / most) ** (1 / data.ndim)))
    return data[(slice(None, None, step),) * data.ndim]


def quantiles(data: Tensor, *shares: float) -> list[float]:
    """Quantiles of an even subset."""
    return [float(q) for q in np.quantile(sampled(data).float().numpy(), shares)]


def air(volume: Volume) -> float:
    """What a scan holds where nothing was measured."""
    return min(quantiles(volume.data_XYZ, DARK)[0], 0.0)


def to_bytes(data_XYZ: Tensor, low: float, high: float) -> Tensor:
    """Intensities low..high as 0..255."""
    scaled = data_XYZ.float() - low
    return scaled.mul_(255 / max(high - low, 1e-12)).nan_to_num_(0.0).round_().clamp_(0, 255).to(torch.uint8)


def nearest(volume: Volume, grid: Grid, *, outside: float | None = None) -> Tensor:
    """The value of the voxel that each grid point lies in; where two grids are oblique to each other, linear.

    Args:
        outside: value beyond the volume; None continues its edge.
    """
    positions = axis_positions(volume.grid, grid)
    if positions is None:
        read_XYZ = resample(volume, grid, "linear").data_XYZ
        return read_XYZ if outside is None else read_XYZ.masked_fill(~field_of_view_mask(volume.grid, grid), outside)
    data_XYZ = volume.data_XYZ
    for axis in sorted(range(3), key=lambda axis: len(positions[axis]) / volume.shape[axis]):  # what shrinks first
        at, n = positions[axis], volume.shape[axis]
        index = (torch.tensor(at, dtype=torch.float64) + 0.5).floor().long()
        data_XYZ = data_XYZ.index_select(axis, index.clamp(0, n - 1))
        if outside is not None:
            beyond = (index < 0) | (index >= n)
            data_XYZ[(slice(None),) * axis + (beyond,)] = outside
    return data_XYZ


def own_voxels(volume: Volume, grid: Grid) -> Volume:
    """The voxels of a scan that touch a box; where its axes are not parallel to the box's, read on the box's voxels."""
    positions = axis_positions(volume.grid, grid)
    if positions is None:
        return Volume(nearest(volume, grid, outside=air(volume)), grid.affine)
    start, shape = [], []
    for at, n in zip(positions, volume.shape, strict=True):
        half = (at[-1] - at[0]) / max(1, len(at) - 1) / 2  # of a voxel of the box
        first = min(n - 1, max(0, math.floor(at[0] - half + 0.5)))
        last = min(n - 1, max(first, math.ceil(at[-1] + half + 0.5) - 1))
        start.append(first)
        shape.append(last - first + 1)
    return crop(volume, start, shape)


def measured_scan(key: str, title: str, volume: Volume, grid: Grid) -> Scan:
    """A scan on its `own_voxels`, whose size as measured is kept."""
    oblique = axis_positions(volume.grid, grid) is None
    return Scan(key, title, own_voxels(volume, grid), volume.spacing_mm if oblique else None)
