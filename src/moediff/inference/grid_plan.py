"""Grid plan: target grid, working grid and what of the target was measured, decided once for a scan.

Scans and grids are RAS+; only `target_grid` deals with the axis order of files.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.operators import NEARLY_ONE, assumed_sampling, voxel_ratio, with_thickness
from moediff.acquisition.point_spread import Sampling, Samplings
from moediff.core.errors import ConfigError, DataError
from moediff.core.geometry import (
    FACE_VOX,
    PARALLEL_VOX,
    StorageOrder,
    along_axes_of,
    are_parallel,
    axis_positions,
    band_limit,
    bounds_in,
    corner_gap_mm,
    default_spacing,
    drift_vox,
    field_of_view_mask,
    positions_along,
    ras_axes,
    resample,
    with_spacing,
)
from moediff.core.resample import Positions
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.inference.options import HEADER, EnhanceOptions
from moediff.io.label_check import kind_of_map, require_intensities
from moediff.io.nifti.header import MIN_VOXELS
from moediff.io.scans import LoadedScan
from moediff.io.voxels import without_outliers

MAX_OUTPUT_VOXELS = 600_000_000
MARGIN_VOX = 64  # voxels around a target inside the scan that the network works on too (LOG.md, 2026-11-27)
SAME_LATTICE = 1e-2  # voxels
ROUNDED_VOX = 1e-3  # drift of axes that a header's float32 numbers explain
SAME_SIZE = 0.98  # ratio of voxel sizes that count as equal
AIR_QUANTILE = 0.01  # of a scan that goes below zero


@dataclass(frozen=True)
class GridPlan:
    """Grids of one enhancement, and how results are brought from the working grid to the target grid.

    Args:
        source: the scan's grid.
        target: the result's grid.
        storage: the axis order that the result is written in.
        working: where the network works, from `working_grid`; the target itself where that is possible.
        measured_XYZ: which target voxels the scan measured, from `measured_mask`; None means all.
        air: what a scan holds where nothing was measured, raw intensity.
        floor: the least intensity of a result, raw.
        notes: warnings about the scan that planning found.
        sampling: how the scan's axes were acquired; None takes what the voxel sizes suggest.
        one_of_several: it goes through the network however fine it is, for what the others add.
    """

    source: Grid
    target: Grid
    storage: StorageOrder
    working: Grid
    measured_XYZ: Tensor | None
    air: float
    floor: float
    notes: tuple[str, ...] = ()
    sampling: Samplings | None = None
    one_of_several: bool = False

    @classmethod
    def between(cls, scan: Volume, stored_target: Grid) -> GridPlan:
        """The plan for a scan, raw intensities, and a target grid in the axis order of its file.

        Raises:
            DataError: see `working_grid` and `measured_mask`.
        """
        storage = StorageOrder.of(stored_target.affine)
        target = storage.apply_grid(stored_target)
        return cls(
            source=scan.grid,
            target=target,
            storage=storage,
            measured_XYZ=measured_mask(scan.grid, target),
            working=working_grid(scan.grid, target),
            air=min(quantile(scan.data_XYZ, AIR_QUANTILE), 0.0),
            floor=min(float(scan.data_XYZ.min()), 0.0),
        )

    @property
    def stored_target(self) -> Grid:
        """The target grid in the axis order that the result is written in."""
        return self.storage.undo_grid(self.target)

    @cached_property
    def pass_through(self) -> bool:
        """Whether the scan is already as fine as the target, so that the network has nothing to add."""
        return not self.one_of_several and is_as_fine(self.source, self.target)

    @cached_property
    def oblique(self) -> bool:
        """Whether results are interpolated between the working grid and the target grid."""
        return not are_parallel(self.working, self.target)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about the scan, where the target is coarser than it, and where part of it was not measured."""
        coarser = coarser_warnings(self.source, self.target, one_of_several=self.one_of_several)
        notes = [*self.notes, *coarser]
        if self.measured_XYZ is not None:
            share = 1 - float(self.measured_XYZ.double().mean())
            notes.append(
                f"{share:.1%} of the target grid lies outside the scan's field of view: not measured, filled with air"
            )
        return tuple(notes)

    def scan_to_target(self, scan: Volume) -> Volume:
        """A scan on the working grid, brought to the target grid; air where nothing was measured."""
        if not self.oblique:
            return self._masked(move_to_grid(scan, self.target, outside=self.air), self.air)
        moved = move_to_grid(band_limit(scan, self.target), self.target)
        moved.data_XYZ.clamp_(min=self.floor)  # cubic interpolation overshoots
        return self._masked(moved, self.air)

    def map_to_target(self, values: Volume) -> Volume:
        """A map that is never negative, brought from the working to the target grid; 0 where nothing was measured."""
        return self._masked(move_to_grid(values, self.target, "linear", outside=0.0), 0.0)

    def interpolated(self, scan: Volume) -> Volume:
        """The input scan interpolated to the target grid, without outliers; air where nothing was measured."""
        least = self.floor
        if _lattice_start(scan.grid, self.target) is None:
            scan = scan.with_data(without_outliers(scan.data_XYZ))  # one would ring through the head
        else:  # copied, with outliers, which the floor leaves out
            least = min(float(scan.data_XYZ.min()), least)
        moved = resample(band_limit(scan, self.target), self.target)
        moved.data_XYZ.clamp_(min=least)  # splines overshoot, a sharp cut in frequency rings
        return self._masked(moved, self.air)

    def _masked(self, volume: Volume, outside: float) -> Volume:
        if self.measured_XYZ is None:
            return volume
        return volume.with_data(volume.data_XYZ.masked_fill(~self.measured_XYZ, outside))


def plan_grids(scan: LoadedScan, options: EnhanceOptions, *, one_of_several: bool = False) -> GridPlan:
    """The grid plan of an enhancement.

    Args:
        scan: as loaded.
        options: of the enhancement.
        one_of_several: see `GridPlan`; a slice thickness is only meant for it where it has thick slices.

    Raises:
        DataError: these are labels, no intensities; the target grid is too large, or lies where the scan measured
            nothing.
        ConfigError: a slice thickness that the scan cannot have, or does not say.
    """
    notes: tuple[str, ...] = ()
    if not options.trust_intensities:
        require_intensities(scan)
    elif kind := kind_of_map(scan):
        notes = (f"the scan looks like {kind}; it was enhanced because intensities are trusted",)
    volume = scan.volume.with_data(without_outliers(scan.volume.data_XYZ))
    plan = GridPlan.between(volume, target_grid(scan.stored_grid, options))
    sampling = None
    if options.profile is not None and not plan.pass_through:
        sampling = stated_sampling(options.profile, scan.storage, plan)
    elif options.slice_thickness is not None and not plan.pass_through:
        sampling = thick_sampling(scan, plan.working, options.slice_thickness, optional=one_of_several)
    notes += _left_out(options.profile, scan.storage, sampling)
    return replace(plan, notes=notes, sampling=sampling, one_of_several=one_of_several)


def thick_sampling(scan: LoadedScan, fine: Grid, thickness: float | str, *, optional: bool = False) -> Samplings | None:
    """How every axis was sampled, R, A, S, with slices of this thickness.

    Args:
        scan: as loaded.
        fine: a grid whose axes are parallel to the scan's.
        thickness: in mm, or "header" for what the file says.
        optional: None for a scan without thick slices.

    Raises:
        ConfigError: the scan does not say how thick its slices are, cannot have such, or has no thick ones.
    """
    assumed = assumed_sampling(positions_along(scan.volume.grid, fine), scan.volume.spacing_mm)
    if optional and all(axis.method != "gaussian" for axis in assumed):
        return None
    if thickness == HEADER:
        if scan.slices is None:
            raise ConfigError(
                "--slice-thickness header: neither the file nor a BIDS sidecar beside it says how thick slices are: "
                "give the number in mm"
            )
        thickness = scan.slices.thickness_mm
    return with_thickness(assumed, scan.volume.spacing_mm, float(thickness))


def stated_sampling(stated: Sequence[Sampling], storage: StorageOrder, plan: GridPlan) -> Samplings:
    """How every axis was sampled, R, A, S.

    Args:
        stated: one for all axes that are coarser than the working grid's, or three in the file's axis order. Along an
            axis whose working voxels are coarser than the scan's there is nothing to undo: it counts as "none".
        storage: of the scan's file.
        plan: its grids.
    """
    positions = positions_along(plan.source, plan.working)
    if len(stated) == 3:
        x, y, z = (
            stated[axis] if voxel_ratio(at) * NEARLY_ONE >= 1 else Sampling()
            for axis, at in zip(storage.axes, positions, strict=True)
        )
        return x, y, z
    x, y, z = (
        stated[0] if voxel_ratio(at) > NEARLY_ONE else axis
        for at, axis in zip(positions, assumed_sampling(positions, plan.source.spacing_mm), strict=True)
    )
    return x, y, z


def _left_out(stated: Sequence[Sampling] | None, storage: StorageOrder, sampling: Samplings | None) -> tuple[str, ...]:
    """A sentence about axes of the file whose stated sampling `stated_sampling` did not take."""
    if stated is None or sampling is None or len(stated) != 3:
        return ()
    pairs = zip(storage.axes, sampling, strict=True)
    axes = sorted(axis + 1 for axis, taken in pairs if taken != stated[axis] and stated[axis].method != "none")
    if not axes:
        return ()
    names = " and ".join(f"{axis}" for axis in axes)
    return (
        f"--profile says how axis {names} of the file was sampled, and the target voxels are coarser than the scan's "
        "there: that was left out, there is nothing to undo",
    )


def target_grid(stored: Grid, options: EnhanceOptions) -> Grid:
    """The result's grid in the axis order that it is written in: the input's, or that of a reference grid.

    Args:
        stored: the scan's grid in the axis order of its file.

    Raises:
        DataError: the grid would be too large, or hold too few voxels to show anything.
    """
    if options.like is not None:
        target = options.like
    else:
        size: Sequence[float] = options.voxel_size or default_spacing(stored.spacing_mm)
        target = with_spacing(stored, tuple(size) * 3 if len(size) == 1 else size)
        _check_voxels_left(stored, target)
    _check_size("target grid", target.shape)
    return target


def _check_voxels_left(stored: Grid, target: Grid) -> None:
    """Refuse voxels so large that a scan with enough of them has too few left."""
    for before, after, size in zip(stored.shape, target.shape, target.spacing_mm, strict=True):
        if after < MIN_VOXELS <= before:
            raise DataError(
                f"voxels of {size:.4g} mm leave {after} of {before} along an axis, expected at least {MIN_VOXELS}: "
                "give --voxel-size in mm, smaller than the scan's own voxels"
            )


def _check_size(what: str, shape: tuple[int, int, int]) -> None:
    voxels = math.prod(shape)
    if voxels > MAX_OUTPUT_VOXELS:
        raise DataError(
            f"the {what} {shape} has {voxels / 1e6:.0f} M voxels, expected at most "
            f"{MAX_OUTPUT_VOXELS / 1e6:.0f} M: ask for larger voxels"
        )


def is_as_fine(source: Grid, target: Grid) -> bool:
    """True when no target axis is finer than the scan's axis that is nearest to it."""
    return all(t > SAME_SIZE * s for s, t in _paired_sizes(source, target))


def coarser_warnings(source: Grid, target: Grid, *, one_of_several: bool = False) -> tuple[str, ...]:
    """What happens where the target's voxels are coarser than the scan's: along all axes, or along some.

    Args:
        source, target: grids of the scan, of several the first, and of the result.
        one_of_several: as in `GridPlan`.
    """
    pairs = _paired_sizes(source, target)
    if not any(s < SAME_SIZE * t for s, t in pairs):
        return ()
    scan, result = (" x ".join(f"{size:.3g}" for size in sizes) for sizes in zip(*pairs, strict=True))
    coarser = f"the target voxels of {result} mm are coarser than the scan's {scan}"
    if not is_as_fine(source, target):
        return (f"{coarser} along an axis: detail along it was given up; give three numbers to keep the finer axes",)
    if one_of_several:
        return (f"{coarser}: finer detail was given up; ask for smaller voxels",)
    return (
        f"{coarser}: the scan was only resampled to them, nothing was enhanced; ask for voxels smaller than the scan's",
    )


def _paired_sizes(source: Grid, target: Grid) -> list[tuple[float, float]]:
    """Voxel sizes of the scan and of the target along each axis of the scan, the target's along its nearest axis."""
    nearest, _ = ras_axes(source.affine[:3, :3].T @ target.affine[:3, :3] / torch.tensor(source.spacing_mm)[:, None])
    return [(size, target.spacing_mm[axis]) for size, axis in zip(source.spacing_mm, nearest, strict=True)]


def aligned_grid(source: Grid, target: Grid) -> Grid:
    """A grid exactly parallel to the scan's, so that parts of it and boxes around it are parallel as well.

    The target itself where its axes are the scan's, the target on the scan's axes where they differ by next to nothing,
    else the scan's box with the target's voxel size.
    """
    drift = drift_vox(source, target)
    if drift <= ROUNDED_VOX:
        return target
    if drift <= PARALLEL_VOX:
        return along_axes_of(target, source)
    return parallel_grid(source, target)


def parallel_grid(source: Grid, target: Grid) -> Grid:
    """The scan's box with the target's voxel size, along axes that are finer already with their own."""
    finest = min(target.spacing_mm)
    return with_spacing(source, [min(finest, s) for s in source.spacing_mm])


def working_grid(source: Grid, target: Grid) -> Grid:
    """Where the network works: voxels parallel to the scan's, over the target and a margin around it.

    They end where the scan was measured. A parallel target that reaches every measured sample and no further is the
    grid itself.

    Raises:
        DataError: the grid would be too large.
    """
    lattice = aligned_grid(source, target)
    positions = positions_along(source, lattice)
    spans = []
    for axis, (low, high) in enumerate(bounds_in(source, target, 0.5)):
        step = lattice.spacing_mm[axis] / source.spacing_mm[axis]
        spans.append(_span(source.shape[axis], positions[axis], step, (low, high)))
    _check_size("part of the scan to work on", (len(spans[0]), len(spans[1]), len(spans[2])))
    if all((s.start, s.stop) == (0, n) for s, n in zip(spans, lattice.shape, strict=True)):
        return lattice
    affine = lattice.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([float(s.start) for s in spans], dtype=torch.float64)
    return Grid((len(spans[0]), len(spans[1]), len(spans[2])), affine)


def _span(n: int, positions: Positions, step: float, target: tuple[float, float]) -> range:
    """Indices on the lattice, which may leave it, that are worked on along an axis of n samples.

    Args:
        positions: of the lattice's voxels, in samples.
        step: from one to the next.
        target: where the target begins and ends, in samples.
    """

    def index(sample: float) -> float:
        return (sample - positions[0]) / step

    (low, high), margin = target, MARGIN_VOX * step
    first, end = math.ceil(index(-0.5 - FACE_VOX)), math.floor(index(n - 0.5 + FACE_VOX)) + 1
    # Less than a sample short is as good as complete: degraded scans are up to that much longer than their truth.
    nearly, almost = 0.5 - FACE_VOX, n - 1.5 + FACE_VOX
    start = 0 if low < nearly else first if low - margin < nearly else math.ceil(index(low - margin) - SAME_LATTICE)
    stop = end
    if high > almost:
        stop = len(positions)
    elif high + margin < almost:
        stop = math.floor(index(high + margin) + SAME_LATTICE) + 1
    start = max(start, first)
    return range(start, max(min(stop, end), start + 1))


def measured_mask(source: Grid, target: Grid) -> Tensor | None:
    """Which of the target's voxels lie in the scan's field of view [X, Y, Z]; None where all of them do.

    Raises:
        DataError: none of them does.
    """
    spans = zip(bounds_in(source, target), source.shape, strict=True)
    if all(low > -0.5 - FACE_VOX and high < n - 0.5 + FACE_VOX for (low, high), n in spans):
        return None
    inside_XYZ = field_of_view_mask(source, target)
    if not bool(inside_XYZ.any()):
        raise DataError(
            "the target grid (--like) lies wholly outside the scan's field of view, expected the same part of one "
            "head: register the two scans, or leave --like out"
        )
    return inside_XYZ


def move_to_grid(volume: Volume, grid: Grid, kernel: str = "cubic", outside: float | None = None) -> Volume:
    """A volume on another grid; exact where voxels coincide.

    Args:
        outside: value of voxels beyond the volume where both grids are parts of one lattice, which is then cut or
            padded; None resamples by the kernel, and the edge continues.
    """
    apart = SAME_LATTICE * min(*volume.spacing_mm, *grid.spacing_mm)
    if volume.shape == grid.shape and corner_gap_mm(volume.grid, grid) <= apart:
        return replace(volume, affine=grid.affine)
    start = None if outside is None else _lattice_start(volume.grid, grid)
    if start is None:
        return resample(volume, grid, kernel)
    ends = [(-a, a + m - n) for a, m, n in zip(start, grid.shape, volume.shape, strict=True)]
    sides = [side for pair in reversed(ends) for side in pair]
    return Volume(F.pad(volume.data_XYZ, sides, value=outside), grid.affine)


def _lattice_start(first: Grid, second: Grid) -> list[int] | None:
    """Index of the second grid's first voxel in the first, where both are parts of one lattice."""
    positions = axis_positions(first, second)
    if positions is None:
        return None
    ends = [(p[0] - round(p[0]), p[-1] - round(p[0]) - (len(p) - 1)) for p in positions]
    same_size = all(abs(a / b - 1) < SAME_LATTICE for a, b in zip(first.spacing_mm, second.spacing_mm, strict=True))
    if not same_size or max(abs(gap) for pair in ends for gap in pair) > SAME_LATTICE:
        return None
    return [round(p[0]) for p in positions]
