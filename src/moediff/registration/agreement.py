"""Agreement of two scans after registration: gain between them, difference that is left, and motion that is left.

Both are read as equally blurred copies (`mutual_information.blurred`), so that what differs is not slice thickness.

Axes: X Y Z voxels of the fixed scan's blurred copy, V voxels of the head that both scans hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.normalisation import foreground
from moediff.acquisition.operators import profile_matrix
from moediff.acquisition.placed import ObliqueReading
from moediff.core.resample import apply_axes
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.registration.rigid import HEAD_RADIUS_MM, IDENTITY, Rigid, grid_centre_mm

GAIN_WINDOW_MM = 40.0  # full width at half maximum, over which coils and receivers hardly vary
LEAST_SHARED = 0.2  # of the fixed scan's head, in the moving scan's field of view
AIR = 0.05  # of the bright end
INSIDE = 0.99
TRIMMED = 0.9  # share of the differences that count


@dataclass(frozen=True)
class Agreement:
    """How well two scans of one head agree.

    Args:
        shared: share of the fixed scan's head that the moving scan measured, 0..1.
        gain: moving over fixed intensity, the median of `gain_map`.
        gain_map: the same where it varies slowly, on the fixed scan's lattice.
        mismatch: RMS difference after a smooth gain, over the standard deviation of the fixed scan; 0 is perfect. The
            largest tenth of the differences does not count: a slice may be lost.
        left: motion that would still lessen the difference, in the fixed scan's frame.
    """

    shared: float
    gain: float
    gain_map: Volume
    mismatch: float
    left: Rigid


def agreement(fixed: Volume, moving: Volume, transform: Rigid) -> Agreement:
    """Compare two blurred scans.

    Args:
        fixed, moving: from `blurred`.
        transform: from the fixed scan's frame to the moving one's.
    """
    foreground_XYZ = foreground(fixed.data_XYZ, fixed.spacing_mm)
    reading = ObliqueReading(transform.placed_grid(moving.grid), fixed.grid)
    inside_XYZ = reading.apply(torch.ones(moving.shape)) > INSIDE
    both_XYZ = foreground_XYZ & inside_XYZ
    shared = float(both_XYZ.sum()) / max(int(foreground_XYZ.sum()), 1)
    if shared < LEAST_SHARED:
        return Agreement(shared, 1.0, fixed.with_data(torch.ones(fixed.shape)), 1.0, IDENTITY)
    read_XYZ, fixed_XYZ = reading.apply(moving.data_XYZ), fixed.data_XYZ
    gain = local_gain(fixed_XYZ, read_XYZ, both_XYZ, fixed.spacing_mm)
    expected_XYZ = gain * fixed_XYZ
    tissue_XYZ = both_XYZ & (fixed_XYZ > AIR * quantile(fixed_XYZ, 0.999))
    difference_V, spread = (read_XYZ - expected_XYZ)[tissue_XYZ], expected_XYZ[tissue_XYZ].std()
    motion = _motion_left(Volume(expected_XYZ, fixed.affine), difference_V, tissue_XYZ)
    mismatch = trimmed_rms(difference_V) / float(spread)
    return Agreement(shared, float(gain[tissue_XYZ].median()), fixed.with_data(gain), mismatch, motion)


def trimmed_rms(difference_V: Tensor) -> float:
    """Root mean square without the largest tenth."""
    square_V = difference_V.square()
    return float(square_V[square_V <= quantile(square_V, TRIMMED)].mean().sqrt())


def local_gain(fixed_XYZ: Tensor, moving_XYZ: Tensor, inside_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Ratio of two scans that varies slowly: a least-squares fit in a wide Gaussian window about every voxel."""
    matrices = [
        profile_matrix(n, tuple(float(i) for i in range(n)), "gaussian", GAIN_WINDOW_MM / size)
        for n, size in zip(fixed_XYZ.shape, spacing_mm, strict=True)
    ]
    fixed_XYZ = fixed_XYZ * inside_XYZ
    product, square = (apply_axes(part, matrices) for part in (fixed_XYZ * moving_XYZ, fixed_XYZ.square()))
    overall = float(product.sum() / square.sum().clamp_min(1e-12))
    floor = 1e-3 * float(square.max())
    return (product + floor * overall) / (square + floor)


def _motion_left(expected: Volume, difference_V: Tensor, where_XYZ: Tensor) -> Rigid:
    """The rigid motion that explains a difference best, to first order (Lucas & Kanade 1981).

    The largest tenth of the differences does not count: a dark slice would pull the whole scan.
    """
    inlier_V = difference_V.abs() <= quantile(difference_V.abs(), TRIMMED)
    spacing = expected.affine[:3, :3].norm(dim=0)
    slopes = torch.stack(torch.gradient(expected.data_XYZ), -1)[where_XYZ].double() / spacing
    world = slopes @ (expected.affine[:3, :3] / spacing).T  # of intensity, per mm along R, A and S
    at = where_XYZ.nonzero().double() @ expected.affine[:3, :3].T + expected.affine[:3, 3]
    centre = torch.tensor(grid_centre_mm(expected.grid), dtype=torch.float64)
    turns = torch.linalg.cross(at - centre, world) / HEAD_RADIUS_MM  # all six in mm
    columns = torch.cat([turns, world], 1)
    columns, inliers = columns[inlier_V], difference_V[inlier_V].double()
    solution = torch.linalg.solve(columns.T @ columns, columns.T @ inliers)
    angles = (solution[:3] / HEAD_RADIUS_MM).rad2deg()
    return Rigid.of(angles.tolist(), solution[3:].tolist(), centre.tolist())
