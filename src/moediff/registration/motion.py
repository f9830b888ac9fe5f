"""Motion that is left between two scans of one head, to first order, and how well they determine it.

Receive coils brighten one side of a scan, which pulls edges towards it. So the scans are compared after a smooth gain,
and, in a narrower window, after another gain and an offset (as local correlation does).

Axes: X Y Z voxels of the fixed scan's blurred copy, V voxels of the head that both scans hold, P six numbers of a
motion, B blocks of the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.operators import gaussian_window_matrix
from moediff.core.resample import apply_axes
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.registration.rigid import HEAD_RADIUS_MM, Rigid, grid_centre_mm

GAIN_VOX, LOCAL_VOX = 10.0, 7.0  # full width at half maximum of the two windows: 20 and 14 mm for slices up to 5 mm
TRIMMED = 0.9  # share of the differences that count: a dark slice would pull the whole scan
# Root-mean-square errors of 60 motions were 2 to 4 times what leaving out an eighth of the head says: what is left of
# a bias field is alike in all of it (LOG.md, 2026-11-30).
SYSTEMATIC = 3.5
TINY = 1e-30  # in place of 0, whatever the unit of the intensities


@dataclass(frozen=True)
class MotionLeft:
    """What a difference says of motion.

    Args:
        left: motion that would still lessen the difference, in the fixed scan's frame.
        uncertain_mm: predicted error of where the scan lies, RMS over the head.
        mismatch: RMS of what local gain and offset do not explain, over the moving scan's local contrast; 0 is perfect.
            The largest tenth of the differences does not count.
    """

    left: Rigid
    uncertain_mm: float
    mismatch: float


def smoothed(data_XYZ: Tensor, fwhm_vox: float) -> Tensor:
    """Mean in a Gaussian window."""
    return apply_axes(data_XYZ, [gaussian_window_matrix(n, fwhm_vox) for n in data_XYZ.shape])


def local_gain(fixed_XYZ: Tensor, moving_XYZ: Tensor, inside_XYZ: Tensor, fwhm_vox: float) -> Tensor:
    """Ratio of two scans that varies slowly: a least-squares fit in a Gaussian window about every voxel."""
    fixed_XYZ = fixed_XYZ * inside_XYZ
    product, square = (smoothed(part, fwhm_vox) for part in (fixed_XYZ * moving_XYZ, fixed_XYZ.square()))
    overall = float(product.sum() / square.sum().clamp_min(TINY))
    floor = 1e-3 * float(square.max())
    return (product + floor * overall) / (square + floor)


def motion_left(fixed: Volume, moving_XYZ: Tensor, both_XYZ: Tensor, tissue_XYZ: Tensor) -> MotionLeft:
    """Compare two blurred scans on one lattice.

    Args:
        fixed: one of them.
        moving_XYZ: the other, read at the fixed one's voxels.
        both_XYZ: the head, where both measured.
        tissue_XYZ: voxels that count.
    """
    inside_XYZ = both_XYZ.float()
    flat_XYZ = fixed.data_XYZ * local_gain(fixed.data_XYZ, moving_XYZ, inside_XYZ, GAIN_VOX)

    def mean(data_XYZ: Tensor) -> Tensor:
        return smoothed(inside_XYZ * data_XYZ, LOCAL_VOX) / share_XYZ

    share_XYZ = smoothed(inside_XYZ, LOCAL_VOX).clamp_min(1e-3)
    flat_mean_XYZ, moving_mean_XYZ = mean(flat_XYZ), mean(moving_XYZ)
    both_vary_XYZ = mean(flat_XYZ * moving_XYZ) - flat_mean_XYZ * moving_mean_XYZ
    varies_XYZ = mean(flat_XYZ.square()) - flat_mean_XYZ.square()
    floor = 1e-2 * float(varies_XYZ[both_XYZ].mean())
    overall = float(both_vary_XYZ[both_XYZ].sum() / varies_XYZ[both_XYZ].sum().clamp_min(TINY))
    gain_XYZ = (both_vary_XYZ + floor * overall) / (varies_XYZ + floor)
    moving_V = (moving_XYZ - moving_mean_XYZ)[tissue_XYZ]
    difference_V = moving_V - (gain_XYZ * (flat_XYZ - flat_mean_XYZ))[tissue_XYZ]
    left, uncertain_mm = _least_squares(Volume(flat_XYZ * gain_XYZ, fixed.affine), difference_V, tissue_XYZ)
    return MotionLeft(left, uncertain_mm, trimmed_rms(difference_V) / max(float(moving_V.std()), TINY))


def trimmed_rms(difference_V: Tensor) -> float:
    """Root mean square without the largest tenth."""
    square_V = difference_V.square()
    return float(square_V[square_V <= quantile(square_V, TRIMMED)].mean().sqrt())


def _least_squares(expected: Volume, difference_V: Tensor, where_XYZ: Tensor) -> tuple[Rigid, float]:
    """The rigid motion that explains a difference best (Lucas & Kanade 1981), and its predicted error in mm."""
    centre = torch.tensor(grid_centre_mm(expected.grid), dtype=torch.float64)
    inlier_V = difference_V.abs() <= quantile(difference_V.abs(), TRIMMED)
    where_V3 = where_XYZ.nonzero()[inlier_V]
    affine = expected.affine
    at = (where_V3.double() @ affine[:3, :3].T + (affine[:3, 3] - centre)).float()
    spacing = affine[:3, :3].norm(dim=0)
    slopes = torch.stack([slope[where_V3.unbind(1)] for slope in torch.gradient(expected.data_XYZ)], -1)
    world = slopes @ (affine[:3, :3] / spacing.square()).T.float()  # of intensity, per mm along R, A and S
    columns = torch.cat([torch.linalg.cross(at, world) / HEAD_RADIUS_MM, world], 1)  # all six in mm
    difference_V, octants = difference_V[inlier_V], _octants(at)
    parts = [(columns[octants == b], difference_V[octants == b]) for b in range(8)]
    normal_BPP = torch.stack([part.T @ part for part, _ in parts]).double()
    right_BP = torch.stack([part.T @ rest for part, rest in parts]).double()
    total_PP, total_P = normal_BPP.sum(0), right_BP.sum(0)
    ridge = 1e-9 * total_PP.trace().clamp_min(TINY)  # where nothing varies, nothing moved
    total_PP += ridge * torch.eye(6, dtype=torch.float64)
    solution = torch.linalg.solve(total_PP, total_P)
    without_BP = torch.linalg.solve(total_PP - normal_BPP, total_P - right_BP)
    angles = (solution[:3] / HEAD_RADIUS_MM).rad2deg()
    motion = Rigid.of(angles.tolist(), solution[3:].tolist(), centre.tolist())
    return motion, SYSTEMATIC * _jackknife_mm(without_BP)


def _octants(at_V3: Tensor) -> Tensor:
    """Number 0..7 of the eighth of the head that a point lies in; cut at the median along each axis."""
    above = at_V3 > at_V3.median(0).values
    return above.long() @ torch.tensor([4, 2, 1])


def _jackknife_mm(without_BP: Tensor) -> float:
    """Standard error of a motion from estimates that each leave out one block (Tukey 1958), RMS over the head."""
    blocks = len(without_BP)
    variance_P = (without_BP - without_BP.mean(0)).square().sum(0) * (blocks - 1) / blocks
    return float((variance_P[:3].sum() * 2 / 5 + variance_P[3:].sum()).sqrt())
