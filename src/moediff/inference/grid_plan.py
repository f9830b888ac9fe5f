"""Which grid a result lies on, where the network works for it, and what of it the scan measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.geometry import (
    FACE_VOX,
    axis_positions,
    bounds_in,
    default_spacing,
    field_of_view_mask,
    resample,
    with_spacing,
)
from moediff.core.resample import Positions
from moediff.core.volume import Grid, Volume
from moediff.inference.options import EnhanceOptions

MAX_OUTPUT_VOXELS = 600_000_000
MARGIN_VOX = 64  # voxels around a goal inside the scan that the network works on too (LOG.md, 2026-11-27)
SAME_LATTICE = 1e-2  # voxels


def target_grid(source: Grid, options: EnhanceOptions) -> Grid:
    """Where the result shall lie, in the input's axis order; a reference grid keeps its own.

    Args:
        source: the scan's grid in the axis order of its file.

    Raises:
        DataError: the grid would be too large.
    """
    if options.like is not None:
        goal = options.like
    else:
        size: Sequence[float] = options.voxel_size or default_spacing(source.spacing_mm)
        goal = with_spacing(source, tuple(size) * 3 if len(size) == 1 else size)
    _check_size("target grid", goal.shape)
    return goal


def _check_size(what: str, shape: tuple[int, int, int]) -> None:
    voxels = math.prod(shape)
    if voxels > MAX_OUTPUT_VOXELS:
        raise DataError(
            f"the {what} {shape} has {voxels / 1e6:.0f} M voxels, expected at most "
            f"{MAX_OUTPUT_VOXELS / 1e6:.0f} M: ask for larger voxels"
        )


def passes_through(source: Grid, goal: Grid) -> bool:
    """True when no target axis is finer than the scan's along it; sorted sizes count where axes are not parallel."""
    sizes = [list(grid.spacing_mm) for grid in (goal, source)]
    if axis_positions(source, goal) is None:
        sizes = [sorted(size) for size in sizes]
    return all(g > 0.98 * s for g, s in zip(*sizes, strict=True))


def aligned_grid(source: Grid, goal: Grid) -> Grid:
    """The goal itself when its axes are parallel to the scan's, else the scan's box with the goal's voxel size."""
    if axis_positions(source, goal) is not None:
        return goal
    finest = min(goal.spacing_mm)
    return with_spacing(source, [min(finest, s) for s in source.spacing_mm])


def working_grid(source: Grid, goal: Grid) -> Grid:
    """Where the network works: voxels parallel to the scan's, over the goal and some way around it.

    They end where the scan was measured. A parallel goal that reaches every measured sample and no further is the grid
    itself.

    Raises:
        DataError: the grid would be too large.
    """
    lattice = aligned_grid(source, goal)
    positions = axis_positions(source, lattice)
    assert positions is not None  # that is what aligned means
    spans = []
    for axis, (low, high) in enumerate(bounds_in(source, goal, 0.5)):
        step = lattice.spacing_mm[axis] / source.spacing_mm[axis]
        spans.append(_span(source.shape[axis], positions[axis], step, (low, high)))
    _check_size("part of the scan to work on", (len(spans[0]), len(spans[1]), len(spans[2])))
    if all((s.start, s.stop) == (0, n) for s, n in zip(spans, lattice.shape, strict=True)):
        return lattice
    affine = lattice.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor([float(s.start) for s in spans], dtype=torch.float64)
    return Grid((len(spans[0]), len(spans[1]), len(spans[2])), affine)


def _span(n: int, positions: Positions, step: float, goal: tuple[float, float]) -> range:
    """Indices on the lattice, which may leave it, that are worked on along an axis of n samples.

    Args:
        positions: of the lattice's voxels, in samples.
        step: from one to the next.
        goal: where the goal begins and ends, in samples.
    """

    def index(place: float) -> float:
        return (place - positions[0]) / step

    (low, high), margin = goal, MARGIN_VOX * step
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


def measured(source: Grid, goal: Grid) -> Tensor | None:
    """Which of the goal's voxels lie in the scan's field of view [X, Y, Z]; None where all of them do.

    Raises:
        DataError: none of them does.
    """
    spans = zip(bounds_in(source, goal), source.shape, strict=True)
    if all(low > -0.5 - FACE_VOX and high < n - 0.5 + FACE_VOX for (low, high), n in spans):
        return None
    inside_XYZ = field_of_view_mask(source, goal)
    if not bool(inside_XYZ.any()):
        raise DataError(
            "the target grid (--like) lies wholly outside the scan's field of view, expected the same part of one "
            "head: register the two scans, or leave --like out"
        )
    return inside_XYZ


def land(volume: Volume, goal: Grid, kernel: str = "cubic", outside: float | None = None) -> Volume:
    """Bring a result onto the goal's grid; exact where they are the same voxels.

    Args:
        outside: what voxels beyond the volume get where both grids are parts of one lattice, which is then cut or
            padded; None reads it by the kernel, and the edge continues.
    """
    if volume.shape == goal.shape and torch.allclose(volume.affine, goal.affine, atol=1e-3):
        return replace(volume, affine=goal.affine)
    start = None if outside is None else _lattice_start(volume.grid, goal)
    if start is None:
        return resample(volume, goal, kernel)
    ends = [(-a, a + m - n) for a, m, n in zip(start, goal.shape, volume.shape, strict=True)]
    sides = [side for pair in reversed(ends) for side in pair]
    return Volume(F.pad(volume.data_XYZ, sides, value=outside), goal.affine)


def _lattice_start(ours: Grid, theirs: Grid) -> list[int] | None:
    """Index of the second grid's first voxel in the first, where both are parts of one lattice."""
    positions = axis_positions(ours, theirs)
    if positions is None:
        return None
    ends = [(p[0] - round(p[0]), p[-1] - round(p[0]) - (len(p) - 1)) for p in positions]
    same_size = all(abs(a / b - 1) < SAME_LATTICE for a, b in zip(ours.spacing_mm, theirs.spacing_mm, strict=True))
    if not same_size or max(abs(gap) for pair in ends for gap in pair) > SAME_LATTICE:
        return None
    return [round(p[0]) for p in positions]
