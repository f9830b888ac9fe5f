"""Which grid a result lies on, and how it gets there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from moediff.errors import DataError
from moediff.inference.options import EnhanceOptions
from moediff.volume.geometry import axis_positions, canonicalise, default_spacing, resample, with_spacing
from moediff.volume.prepare import canonical_grid
from moediff.volume.volume import Grid, Volume

MAX_OUTPUT_VOXELS = 600_000_000


def target_grid(source: Grid, options: EnhanceOptions) -> Grid:
    """Where the result shall lie, in the input's axis order.

    Raises:
        DataError: the grid would be too large.
    """
    if options.like is not None:
        goal = options.like
    else:
        size: Sequence[float] = options.voxel_size or default_spacing(source.spacing_mm)
        goal = with_spacing(source, tuple(size) * 3 if len(size) == 1 else size)
    voxels = goal.shape[0] * goal.shape[1] * goal.shape[2]
    if voxels > MAX_OUTPUT_VOXELS:
        raise DataError(
            f"the target grid {goal.shape} has {voxels / 1e6:.0f} M voxels, expected at most "
            f"{MAX_OUTPUT_VOXELS / 1e6:.0f} M: ask for larger voxels"
        )
    return goal


def passes_through(source: Grid, goal: Grid) -> bool:
    """True when no target axis is finer than the source along any direction."""
    finest_goal, finest = sorted(canonical_grid(goal).spacing_mm), sorted(canonical_grid(source).spacing_mm)
    return all(g > 0.98 * s for g, s in zip(finest_goal, finest, strict=True))


def aligned_grid(source: Grid, goal: Grid) -> Grid:
    """The goal itself when its axes are parallel to the scan's, else the scan's box with the goal's voxel size."""
    canonical = canonicalise(Volume(torch.empty(1).expand(source.shape), source.affine))[0].grid
    if axis_positions(canonical, canonical_grid(goal)) is not None:
        return goal
    finest = min(goal.spacing_mm)
    return with_spacing(source, [min(finest, s) for s in source.spacing_mm])


def land(volume: Volume, goal: Grid, kernel: str = "cubic") -> Volume:
    """Bring a result in the scan's axis order onto the goal's grid; exact where they are the same voxels."""
    same = volume.shape == goal.shape and torch.allclose(volume.affine, goal.affine, atol=1e-4)
    if same:
        return replace(volume, affine=goal.affine)
    ours, _ = canonicalise(volume)
    theirs = canonical_grid(goal)
    _, undo = canonicalise(Volume(torch.empty(1).expand(goal.shape), goal.affine))
    same = ours.shape == theirs.shape and torch.allclose(ours.affine, theirs.affine, atol=1e-3)
    return replace(undo(ours if same else resample(ours, theirs, kernel)), affine=goal.affine)
