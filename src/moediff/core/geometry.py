"""Geometry of scans: storage order (orientation), grids, and resampling from one grid to another.

Axes: X Y Z voxel axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.core.errors import GeometryError
from moediff.core.resample import (
    COARSER,
    Positions,
    apply_axes,
    interpolation_matrix,
    low_pass_matrix,
    sample_positions,
)
from moediff.core.trilinear import read_trilinear
from moediff.core.volume import Grid, Volume

ISOTROPIC_MM = 1.0  # default target where any axis is coarser than COARSE_MM
COARSE_MM = 1.2
FACE_VOX = 0.02  # a voxel's centre this far outside a field of view counts as inside, because headers are rounded
PLANES = 16  # of an oblique grid that are read at once
PARALLEL_VOX = 0.05  # drift of two grids' axes that counts as none, because headers are rounded; see `drift_vox`


def ras_axes(affine: Tensor) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each anatomical axis R, A, S: the nearest voxel axis, and whether that axis runs in the opposite direction.

    The pairing maximises the product of direction cosines over the six permutations, so oblique scans are safe.
    """
    columns = affine[:3, :3].double()
    cosine = columns / columns.norm(dim=0)
    options = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    order = max(options, key=lambda o: sum(float(cosine[world, axis].abs()) for world, axis in enumerate(o)))
    flips = tuple(bool(cosine[world, axis] < 0) for world, axis in enumerate(order))
    return order, (flips[0], flips[1], flips[2])


def _reorder(shape: Sequence[int], order: Sequence[int], flips: Sequence[bool]) -> Tensor:
    """4x4 map from reordered voxel indices to the indices before."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[old, new] = -1 if flip else 1
        matrix[old, 3] = shape[old] - 1 if flip else 0
    return matrix


@dataclass(frozen=True)
class StorageOrder:
    """Storage order of a scan: which stored axis runs along R, A and S, and in which direction.

    `apply` brings stored voxels to RAS+, `undo` brings them back; no voxel value changes. `undo` accepts any grid with
    RAS+ axes, so a result with another voxel size is stored as its input was.

    Args:
        axes: the stored axis nearest to R, A, S.
        flips: whether that axis runs towards L, P, I.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    @staticmethod
    def of(affine: Tensor) -> StorageOrder:
        """The order of voxels that this affine places."""
        return StorageOrder(*ras_axes(affine))

    def apply(self, stored: Volume) -> Volume:
        """Stored -> RAS+."""
        return Volume(self.apply_data(stored.data_XYZ), self.apply_grid(stored.grid).affine)

    def apply_data(self, stored: Tensor) -> Tensor:
        """Stored -> RAS+ for bare voxels; axes after the third are kept."""
        return _reordered(stored, self.axes, self.flips).contiguous()

    def apply_grid(self, stored: Grid) -> Grid:
        """Stored -> RAS+ for a grid."""
        return _reordered_grid(stored, self.axes, self.flips)

    def undo(self, volume: Volume) -> Volume:
        """RAS+ -> stored."""
        return Volume(self.undo_data(volume.data_XYZ), self.undo_grid(volume.grid).affine)

    def undo_data(self, data: Tensor) -> Tensor:
        """RAS+ -> stored for bare voxels; axes after the third are kept."""
        return _reordered(data, *self._inverse)

    def undo_grid(self, grid: Grid) -> Grid:
        """RAS+ -> stored for a grid."""
        return _reordered_grid(grid, *self._inverse)

    @property
    def _inverse(self) -> tuple[list[int], list[bool]]:
        order = [self.axes.index(axis) for axis in range(3)]
        return order, [self.flips[axis] for axis in order]


def _reordered(data: Tensor, order: Sequence[int], flips: Sequence[bool]) -> Tensor:
    turned = data.permute(*order, *range(3, data.ndim))
    return turned.flip([axis for axis in range(3) if flips[axis]]) if any(flips) else turned


def _reordered_grid(grid: Grid, order: Sequence[int], flips: Sequence[bool]) -> Grid:
    x, y, z = (grid.shape[axis] for axis in order)
    return Grid((x, y, z), grid.affine @ _reorder(grid.shape, order, flips))


RAS = StorageOrder()


def canonical_grid(stored: Grid) -> Grid:
    """A grid with its axes permuted and flipped to run nearest to R, A, S, as `canonicalise` does with a volume."""
    return StorageOrder.of(stored.affine).apply_grid(stored)


def canonicalise(stored: Volume) -> tuple[Volume, StorageOrder]:
    """A scan with its axes permuted and flipped to run nearest to R, A, S, and the undo of that."""
    storage = StorageOrder.of(stored.affine)
    return storage.apply(stored), storage


def is_canonical(affine: Tensor) -> bool:
    """Whether the voxel axes run nearest to R, A, S, in this order."""
    return StorageOrder.of(affine) == RAS


def coarsest_axis(spacing_mm: Sequence[float]) -> int:
    """The axis along which samples lie farthest apart: across thick slices."""
    return max(range(3), key=lambda axis: spacing_mm[axis])


def with_spacing(grid: Grid, spacing_mm: Sequence[float]) -> Grid:
    """The same field of view with another voxel size (mm, one per axis).

    With r = new / old voxel size: R' = R diag(r), t' = t + R (r - 1) / 2, so the outer corner stays in place.
    """
    ratio = torch.tensor([new / old for new, old in zip(spacing_mm, grid.spacing_mm, strict=True)], dtype=torch.float64)
    shape = [max(1, round(n / float(r))) for n, r in zip(grid.shape, ratio, strict=True)]
    affine = grid.affine.clone()
    affine[:3, :3] = grid.affine[:3, :3] * ratio
    affine[:3, 3] += grid.affine[:3, :3] @ ((ratio - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine)


def default_spacing(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """1 mm isotropic where any axis is coarser than 1.2 mm, else half the voxel size; axes that are finer stay."""
    if max(spacing_mm) > COARSE_MM + 1e-4:  # a file's float32 affine holds 1.2 as 1.20000005
        x, y, z = (min(s, ISOTROPIC_MM) for s in spacing_mm)
    else:
        x, y, z = (s / 2 for s in spacing_mm)
    return x, y, z


def drift_vox(first: Grid, second: Grid) -> float:
    """How far the axes of two grids drift apart over the larger field of view, in the smallest voxel of both.

    It depends neither on the order of the two nor on how many voxels a field of view is cut into, and a part of one of
    them drifts no further.
    """
    sizes_mm = [torch.tensor(grid.spacing_mm, dtype=torch.float64) for grid in (first, second)]
    one, other = (grid.affine[:3, :3] / size for grid, size in zip((first, second), sizes_mm, strict=True))
    reach_mm = [torch.tensor(grid.shape) * size for grid, size in zip((first, second), sizes_mm, strict=True)]
    apart_mm = ((one - other) * torch.maximum(*reach_mm)).norm()
    return float(apart_mm / torch.cat(sizes_mm).min())


def are_parallel(first: Grid, second: Grid) -> bool:
    """Whether axes of the same number have the same direction, up to the rounding of headers."""
    return drift_vox(first, second) <= PARALLEL_VOX


def positions_along(source: Grid, target: Grid) -> tuple[Positions, Positions, Positions]:
    """Where target voxels lie along each source axis, in source voxels, of grids that are known to be parallel."""
    between = torch.linalg.inv(source.affine) @ target.affine
    step = torch.diagonal(between)[:3]
    x, y, z = (sample_positions(target.shape[a], float(step[a]), float(between[a, 3])) for a in range(3))
    return x, y, z


def axis_positions(source: Grid, target: Grid) -> tuple[Positions, Positions, Positions] | None:
    """Where target voxels lie along each source axis, in source voxels; None when the axes are not parallel."""
    return positions_along(source, target) if are_parallel(source, target) else None


def along_axes_of(grid: Grid, other: Grid) -> Grid:
    """The same voxel sizes from the same first voxel, exactly parallel to another grid."""
    ratio = torch.tensor([a / b for a, b in zip(grid.spacing_mm, other.spacing_mm, strict=True)], dtype=torch.float64)
    affine = grid.affine.clone()
    affine[:3, :3] = other.affine[:3, :3] * ratio
    return Grid(grid.shape, affine)


def corner_gap_mm(first: Grid, second: Grid) -> float:
    """The largest distance between corners of the same number of two fields of view."""

    def corners(grid: Grid) -> Tensor:
        index = itertools.product(*((-0.5, n - 0.5) for n in grid.shape))
        return torch.tensor(list(index), dtype=torch.float64) @ grid.affine[:3, :3].T + grid.affine[:3, 3]

    return float((corners(first) - corners(second)).norm(dim=1).max())


def resample(volume: Volume, target: Grid, kernel: str = "cubic") -> Volume:
    """Resample a volume on another grid; outside its field of view the edge value continues.

    Grids with parallel axes, in any order and direction, are resampled exactly by one matrix per axis; otherwise
    (oblique to each other) the target voxels are read by trilinear interpolation of a copy refined twofold with
    `kernel`.

    Raises:
        GeometryError: the kernel is unknown.
    """
    positions = axis_positions(volume.grid, target)
    if positions is None:
        turned = StorageOrder.of(torch.linalg.inv(target.affine) @ volume.affine).apply(volume)
        positions = axis_positions(turned.grid, target)
        volume = volume if positions is None else turned
    if positions is not None:
        matrices = [interpolation_matrix(n, p, kernel) for n, p in zip(volume.shape, positions, strict=True)]
        return Volume(apply_axes(volume.data_XYZ, matrices), target.affine)
    finer = [s / 2 for s in volume.spacing_mm]
    return _read_oblique(resample(volume, with_spacing(volume.grid, finer), kernel), target)


def _read_oblique(volume: Volume, target: Grid) -> Volume:
    between = (torch.linalg.inv(volume.affine) @ target.affine).float()
    size = torch.tensor(volume.shape, dtype=torch.float32)
    y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in target.shape[1:]), indexing="ij")

    def coordinates(x: int) -> Tensor:
        index = torch.stack([torch.full_like(y, x), y, z, torch.ones_like(y)], -1) @ between[:3].T
        return ((2 * index + 1) / size - 1).flip(-1)  # -1 and 1 are the outer voxel faces

    slabs = []
    for planes in torch.arange(target.shape[0]).split(PLANES):  # a few at a time keep the coordinate field small
        at = torch.stack([coordinates(x) for x in planes.tolist()]).to(volume.data_XYZ)
        slabs.append(read_trilinear(volume.data_XYZ, at[:, None], "border")[:, 0])
    return Volume(torch.cat(slabs), target.affine)


def band_limit(volume: Volume, target: Grid) -> Volume:
    """The volume without frequencies that the target's voxels cannot represent; itself where no axis gets coarser."""
    own, other = ras_axes(volume.affine)[0], ras_axes(target.affine)[0]
    matrices: list[Tensor | None] = [None] * 3
    for axis, target_axis in zip(own, other, strict=True):
        n, step = volume.shape[axis], target.spacing_mm[target_axis] / volume.spacing_mm[axis]
        if step > COARSER:
            matrices[axis] = low_pass_matrix(n, sample_positions(n, 1.0, 0.0), n / step)
    return volume if matrices == [None] * 3 else volume.with_data(apply_axes(volume.data_XYZ, matrices))


def bounds_in(source: Grid, target: Grid, beyond: float = 0.0) -> list[tuple[float, float]]:
    """First and last source voxel that the target covers, by source axis; `beyond` adds target voxels at both ends."""
    ends = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.float64)
    index = ends * (torch.tensor(target.shape) - 1 + 2 * beyond) - beyond
    between = torch.linalg.inv(source.affine) @ target.affine
    corners = index @ between[:3, :3].T + between[:3, 3]
    return list(zip(corners.amin(0).tolist(), corners.amax(0).tolist(), strict=True))


def field_of_view_mask(source: Grid, target: Grid) -> Tensor:
    """Boolean mask of the target's voxels whose centres lie in the source's field of view."""
    between = (torch.linalg.inv(source.affine) @ target.affine).float()
    x, y, z = (torch.arange(n, dtype=torch.float32) for n in target.shape)
    inside = torch.ones(target.shape, dtype=torch.bool)
    for axis, n in enumerate(source.shape):
        a, b, c, start = between[axis].tolist()
        index = a * x[:, None, None] + b * y[:, None] + (c * z + start)
        inside &= (index > -0.5 - FACE_VOX) & (index < n - 0.5 + FACE_VOX)
    return inside


def crop(volume: Volume, start: Sequence[int], shape: Sequence[int]) -> Volume:
    """A box of voxels, with the affine that leaves it at its position.

    Raises:
        GeometryError: the box does not lie inside the volume.
    """
    stop = [a + n for a, n in zip(start, shape, strict=True)]
    if min(start) < 0 or any(b > n for b, n in zip(stop, volume.shape, strict=True)):
        raise GeometryError(f"the box {list(start)}..{stop} leaves the volume of shape {volume.shape}")
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([float(a) for a in start], dtype=torch.float64)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return Volume(volume.data_XYZ[box], affine)


def centre_crop(volume: Volume, side: int) -> Volume:
    """The central cube of `side` voxels; smaller where the volume is."""
    shape = [min(side, n) for n in volume.shape]
    return crop(volume, [(n - m) // 2 for n, m in zip(volume.shape, shape, strict=True)], shape)
