"""Alignment of two scans: grids that must agree, resampling, and signs that they do not belong together.

Axes: X Y Z voxels of the reference's grid.
"""

from __future__ import annotations

import itertools
import math

import nibabel as nib
from torch import Tensor

from moediff.core.errors import DataError, GeometryError
from moediff.core.geometry import corner_gap_mm, field_of_view_mask, ras_axes
from moediff.core.statistics import energy, mean, picked, runs
from moediff.core.volume import Grid, Volume
from moediff.inference.grid_plan import move_to_grid

SAME_VOX = 0.02  # corners this close, in voxels, are one grid: room for a header's rounding and no more
RESAMPLED_BY = "cubic"
MOST_UNCOVERED = 0.5  # of the mask; beyond it the scans show different parts
LEAST_CORRELATION = 0.6  # inside the head; measured: degraded scans of one head 0.94, centred other heads 0.3
MIRRORED = -0.3  # correlation of asymmetries; measured: mirrored heads -0.84 and below, other heads above -0.2
EVERY = 2  # voxels, where asymmetries are compared
DIRECTIONS = ("left to right", "front to back", "top to bottom")


def same_grid(a: Grid, b: Grid) -> bool:
    """True where voxels of one index have one position."""
    return a.shape == b.shape and corner_gap_mm(a, b) < SAME_VOX * min(b.spacing_mm)


def _differences(a: Grid, b: Grid) -> str:
    """What differs between two grids, in words."""
    faults = []
    codes = ["".join(nib.aff2axcodes(grid.affine.numpy())) for grid in (a, b)]
    if codes[0] != codes[1]:
        faults.append(f"axes {codes[0]} against {codes[1]}")
    if a.shape != b.shape:
        faults.append(f"shape {a.shape} against {b.shape}")
    sizes = [" x ".join(f"{s:.4g}" for s in grid.spacing_mm) for grid in (a, b)]
    if sizes[0] != sizes[1]:
        faults.append(f"voxels {sizes[0]} mm against {sizes[1]} mm")
    if codes[0] == codes[1] and corner_gap_mm(a, b) > SAME_VOX * min(b.spacing_mm):
        faults.append(f"corners of the field of view up to {corner_gap_mm(a, b):.2f} mm apart")
    return ", ".join(faults)


def require_same_grid(what: str, grid: Grid, ref: Grid, remedy: str) -> None:
    """Refuse a volume on another grid than the reference.

    Raises:
        GeometryError: with the differences and the remedy.
    """
    if not same_grid(grid, ref):
        raise GeometryError(f"the {what} lies on another grid than the reference ({_differences(grid, ref)}): {remedy}")


def on_grid(pred: Volume, ref: Grid, *, resample: bool, kernel: str = RESAMPLED_BY) -> tuple[Volume, str | None]:
    """The prediction on the reference's grid, and the kernel that brought it there (None: it was there already).

    Raises:
        GeometryError: the grids differ and `resample` is False.
    """
    if same_grid(pred.grid, ref):
        return Volume(pred.data_XYZ, ref.affine), None
    if not resample:
        require_same_grid("prediction", pred.grid, ref, "resample it, or allow it with --resample")
    return move_to_grid(pred, ref, kernel), kernel


def judged_mask(mask_XYZ: Tensor, source: Grid, ref: Grid, notes: list[str]) -> Tensor:
    """The mask without voxels outside a resampled prediction's field of view; notes how many were dropped.

    Raises:
        GeometryError: more than half of the mask would be dropped.
    """
    covered = mask_XYZ & field_of_view_mask(source, ref)
    missed = 1 - int(covered.sum()) / max(int(mask_XYZ.sum()), 1)
    if missed > MOST_UNCOVERED:
        raise GeometryError(
            f"the prediction's field of view misses {missed:.0%} of the mask, expected at most {MOST_UNCOVERED:.0%}: "
            "do the two scans show the same part of the same head?"
        )
    if missed > 0:
        notes.append(f"{missed:.1%} of the mask lies outside the prediction's field of view and was not judged")
    return covered


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's correlation of two sets of values; 0 where one of them is constant."""
    mean_x, mean_y = mean(x), mean(y)
    scale = math.sqrt(energy(x, mean_x) * energy(y, mean_y))
    shared = sum(float(a.mul_(b).sum()) for a, b in zip(runs(x, mean_x), runs(y, mean_y), strict=True))
    return shared / scale if scale > 0 else 0.0


def asymmetry_match(x_XYZ: Tensor, y_XYZ: Tensor, mask_XYZ: Tensor, axis: int) -> float:
    """Correlation of the asymmetries of two volumes along an axis: 1 alike, -1 where one of them is mirrored.

    Heads are nearly symmetric, so plain correlations hardly detect a mirrored head; asymmetries do. Every second voxel
    along the other axes is enough.
    """
    thin = tuple(slice(None) if other == axis else slice(None, None, EVERY) for other in range(3))
    x, y, mask = x_XYZ[thin], y_XYZ[thin], mask_XYZ[thin]
    both = mask & mask.flip(axis)
    if not bool(both.any()):
        return 0.0
    return correlation(*(picked(t - t.flip(axis), both) for t in (x, y)))


def _mirrored(pred_XYZ: Tensor, ref: Volume, mask_XYZ: Tensor) -> list[str]:
    """A warning when the prediction looks mirrored, along one axis or several.

    Two flips at once are seen where each axis has an asymmetry of its own: what is odd along both is as it was.
    """
    axes = ras_axes(ref.affine)[0]
    matches = {axis: asymmetry_match(pred_XYZ, ref.data_XYZ, mask_XYZ, axis) for axis in axes}
    doubtful = [axis for axis in axes if matches[axis] < MIRRORED]
    if not doubtful:
        return []
    truth_V = picked(ref.data_XYZ, mask_XYZ)
    tried = [some for many in range(1, len(doubtful) + 1) for some in itertools.combinations(doubtful, many)]
    turned = max(tried, key=lambda some: correlation(picked(pred_XYZ.flip(some), mask_XYZ), truth_V))
    words = " and ".join(DIRECTIONS[axes.index(axis)] for axis in turned)
    worst = min(matches[axis] for axis in turned)
    return [
        f"the prediction looks mirrored {words}: its asymmetries are opposite to the reference's "
        f"(correlation {worst:.2f}); is one of them flipped?"
    ]


def doubts(pred_XYZ: Tensor, ref: Volume, mask_XYZ: Tensor) -> tuple[float, list[str]]:
    """Correlation inside the mask, and warnings: a mirrored prediction, or scans that have little in common.

    Raises:
        DataError: prediction or reference is constant inside the mask.
    """
    pred_V, truth_V = picked(pred_XYZ, mask_XYZ), picked(ref.data_XYZ, mask_XYZ)
    for what, values in (("prediction", pred_V), ("reference", truth_V)):
        if float(values.min()) == float(values.max()):
            raise DataError(f"the {what} is constant where it is judged; expected a scan with contrast")
    alike = correlation(pred_V, truth_V)
    notes = _mirrored(pred_XYZ, ref, mask_XYZ)
    if alike < LEAST_CORRELATION:
        notes.append(
            f"the correlation inside the mask is {alike:.2f}, expected at least {LEAST_CORRELATION}: "
            "different heads, contrasts, or scans that are not aligned?"
        )
    return alike, notes
