"""Forward model of a scan that lies at an angle to the common grid: read along its axes, then acquire axis by axis.

Several scans of one head share one fine grid. Each of them is read from it along its own voxel axes (a rigid motion),
and sampled by the separable model of `operators`. The transpose is exact, as least squares needs it.

Axes: X Y Z voxels; x y z voxels of the refined common grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from moediff.acquisition.operators import Acquisition, assumed_acquisition
from moediff.acquisition.point_spread import PROFILES, Samplings
from moediff.core.geometry import are_parallel, positions_along, with_spacing
from moediff.core.resample import apply_axes, interpolation_matrix, transposed
from moediff.core.trilinear import read_trilinear, spread_trilinear
from moediff.core.volume import Grid

SLAB = 48  # planes that are read at once, which need coordinates of some MB
COVERED = 0.995  # share of a measured sample that lies on the common grid, from which it is compared
NEARLY = 0.02  # of a measured voxel, by which it may stick out of the common grid and still lies on it


@dataclass(frozen=True)
class ObliqueReading:
    """R: values of a common grid at the voxels of another, by trilinear interpolation; zero outside.

    Args:
        common: the grid that is read.
        lattice: where it is read.
        refined: read a copy refined twofold by cubic splines: sharper, eight times the memory.
    """

    common: Grid
    lattice: Grid
    refined: bool = False

    def apply(self, data_XYZ: Tensor) -> Tensor:
        """R x: common grid -> lattice."""
        source_XYZ = self._refine(data_XYZ)
        return torch.cat([read_trilinear(source_XYZ, at[:, None])[:, 0] for at in self._coordinates(data_XYZ)])

    def transpose(self, data_XYZ: Tensor) -> Tensor:
        """R' y: lattice -> common grid."""
        shape = [len(m) for m in self._matrices] if self.refined else self.common.shape
        total_XYZ = data_XYZ.new_zeros(*shape)
        for slab_XYZ, at in zip(data_XYZ.split(SLAB), self._coordinates(data_XYZ), strict=True):
            spread_trilinear(slab_XYZ, at, total_XYZ)
        return apply_axes(total_XYZ, transposed(self._matrices)) if self.refined else total_XYZ

    @cached_property
    def _matrices(self) -> list[Tensor]:
        finer = with_spacing(self.common, [size / 2 for size in self.common.spacing_mm])
        positions = positions_along(self.common, finer)
        return [interpolation_matrix(n, p, "cubic") for n, p in zip(self.common.shape, positions, strict=True)]

    def _refine(self, data_XYZ: Tensor) -> Tensor:
        return apply_axes(data_XYZ, self._matrices) if self.refined else data_XYZ

    def _coordinates(self, like: Tensor) -> Iterator[Tensor]:
        """Slab by slab, where the lattice's voxels lie in the common grid: -1 and 1 are its outer faces."""
        between = torch.linalg.inv(self.common.affine) @ self.lattice.affine
        size = torch.tensor(self.common.shape, dtype=torch.float64)
        matrix = 2 * between[:3, :3] / size[:, None]
        shift = (2 * between[:3, 3] + 1) / size - 1
        matrix, shift = matrix.flip(0).float().to(like.device), shift.flip(0).float().to(like.device)
        x, y, z = (torch.arange(n, dtype=torch.float32, device=like.device)[:, None] for n in self.lattice.shape)
        plane = (y * matrix[:, 1])[:, None] + (z * matrix[:, 2] + shift)
        for part in (x * matrix[:, 0]).split(SLAB):
            yield part[:, None, None] + plane


@dataclass(frozen=True)
class PlacedAcquisition:
    """F: from a common fine grid to the grid of one scan, at whatever angle the two lie.

    Args:
        reading: R; None where the axes are parallel.
        acquisition: A, from the lattice that R reads (the common grid without R) to the scan's grid.
        common: the fine grid.
    """

    reading: ObliqueReading | None
    acquisition: Acquisition
    common: Grid

    def apply(self, fine_XYZ: Tensor) -> Tensor:
        """F x = A R x: common grid -> the scan's grid."""
        return self.acquisition.apply(fine_XYZ if self.reading is None else self.reading.apply(fine_XYZ))

    def transpose(self, measured_XYZ: Tensor) -> Tensor:
        """F' y = R' A' y, so that <F x, y> = <x, F' y>."""
        lattice = self.acquisition.transpose(measured_XYZ)
        return lattice if self.reading is None else self.reading.transpose(lattice)


def placed_acquisition(
    common: Grid, scan: Grid, sampling: Samplings | None = None, *, refined: bool = False
) -> PlacedAcquisition:
    """F that the voxel sizes suggest.

    Args:
        common: fine grid, RAS+.
        scan: grid of a scan, RAS+, placed in the common frame.
        sampling: of the scan's axes; None takes what the voxel sizes suggest.
        refined: read the common grid more sharply (see `ObliqueReading`).
    """
    if are_parallel(scan, common):
        return PlacedAcquisition(None, assumed_acquisition(common, scan, sampling), common)
    finest = min(common.spacing_mm)
    lattice = with_spacing(scan, [min(finest, size) for size in scan.spacing_mm])
    return PlacedAcquisition(
        ObliqueReading(common, lattice, refined), assumed_acquisition(lattice, scan, sampling), common
    )


def covered(placed: PlacedAcquisition, scan: Grid) -> Tensor:
    """Which measured samples the common grid explains [X, Y, Z] of the scan's grid: what they average lies on it.

    Parallel to the grid that is a slice between its faces (its profile's tail continues as the edge), and of a sample
    in k-space its centre. At an angle, where the model reads zero outside, it is COVERED of the whole profile.
    """
    if placed.reading is not None:
        return placed.apply(torch.ones(placed.common.shape)) > COVERED
    positions = positions_along(scan, placed.common)
    inside = torch.ones(scan.shape, dtype=torch.bool)
    for axis, (n, at, one) in enumerate(zip(scan.shape, positions, placed.acquisition.sampling, strict=True)):
        half = (at[1] - at[0]) / 2 if len(at) > 1 else 0.5
        # Slices that overlap count as thick as their distance: a scan's own field of view ends between such.
        reach = min(one.width, 1.0) / 2 if one.method in PROFILES else 0.0
        sample = torch.arange(n, dtype=torch.float64)
        outside = (sample < at[0] - half + reach - NEARLY) | (sample > at[-1] + half - reach + NEARLY)
        inside.index_fill_(axis, outside.nonzero()[:, 0], False)
    return inside
