"""Layers of a report page: 8-bit pictures and maps on one grid, with the box and the window that they were cut with.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Layer:
    """One 8-bit picture or map.

    Args:
        key: short identifier, letters and digits only.
        title: what a reader sees.
        data_XYZ: uint8.
        low: intensity shown as 0.
        high: intensity shown as 255; for labels the highest label.
        labels: name and colour (#rrggbb) of labels 1, 2, ...; empty unless the voxels are labels.
        signed: 128 stands for zero, 0 and 255 for -high and high.
    """

    key: str
    title: str
    data_XYZ: Tensor
    low: float
    high: float
    labels: tuple[tuple[str, str], ...] = ()
    signed: bool = False


@dataclass(frozen=True)
class Display:
    """All that is drawn: scans and maps share `grid`; `centre` is the voxel where views open."""

    grid: Grid
    scans: tuple[Layer, ...]
    maps: tuple[Layer, ...]
    centre: tuple[int, int, int]


@dataclass(frozen=True)
class DisplayBox:
    """Box of the enhanced scan that is displayed, and the intensity window."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    window: tuple[float, float]

    def crop_volume(self, volume: Volume) -> Volume:
        """The box of a volume that lies on the enhanced grid."""
        return crop(volume, self.start, self.shape)

    def crop_data(self, data: Tensor) -> Tensor:
        """The same box of bare voxels; axes after the third are kept."""
        return data[tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))]

    def grey(self, key: str, title: str, data_XYZ: Tensor) -> Layer:
        """A scan in the common window."""
        low, high = self.window
        return Layer(key, title, to_bytes(data_XYZ, low, high), low, high)


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
    for axis, (at, n) in enumerate(zip(positions, volume.shape, strict=True)):
        index = (torch.tensor(at, dtype=torch.float64) + 0.5).floor().long()
        data_XYZ = data_XYZ.index_select(axis, index.clamp(0, n - 1))
        if outside is not None:
            beyond = (index < 0) | (index >= n)
            data_XYZ[(slice(None),) * axis + (beyond,)] = outside
    return data_XYZ
