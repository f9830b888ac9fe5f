"""Data consistency: does the result, acquired again, give back what was measured?

Axes: X Y Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.normalisation import quantile
from moediff.acquisition.prepare import Prepared
from moediff.acquisition.wiener import NOISE_FLOOR, VARIANCE, assumed_profiles, detail_variance, ratio_of, wiener
from moediff.core.geometry import axis_positions
from moediff.core.resample import apply_axes, axis_matrix, band_matrix, profile_matrix, reading_matrix
from moediff.core.volume import Volume

# Variance of the error that the network leaves in what was measured: the first times detail^3 / noise^4. The noisier
# the scan and the smoother the head, the more of the gap is noise that it was right not to follow (LOG.md, 2026-11-26).
ERROR_LEFT, LARGEST_VARIANCE = 2e-4, 1e-2
INNER = 0.2, 0.8  # quantiles of the head along each axis between which its detail is looked at
LEAST, MOST = 16, 128  # samples of that box along an axis
TISSUE = 0.1  # scaled; the brain's median is 0.5
SMALLEST_VARIANCE = 1e-8  # changes nothing

NAMES = {"gaussian": "gaussian slice profile", "band": "k-space truncation", "none": "none"}


@dataclass(frozen=True)
class Acquisition:
    """The assumed linear acquisition: one matrix per axis from the target grid to the measured one.

    Thick slices (one axis much coarser than the others): Gaussian profile as wide as the slice distance.
    Otherwise k-space truncation.
    """

    matrices: tuple[Tensor | None, Tensor | None, Tensor | None]
    names: tuple[str, str, str]

    def apply(self, data_XYZ: Tensor) -> Tensor:
        """Target grid -> measured grid."""
        return apply_axes(data_XYZ, self.matrices)


def assumed_acquisition(prepared: Prepared) -> Acquisition:
    """Guess from the spacing ratios how the scan was acquired."""
    back = axis_positions(prepared.grid, prepared.source.grid)
    assert back is not None  # prepare only accepts parallel grids
    profiles = assumed_profiles(prepared.positions)
    matrices = []
    for profile, p, at, n in zip(profiles, prepared.positions, back, prepared.grid.shape, strict=True):
        if profile == "gaussian":
            matrices.append(profile_matrix(n, at, "gaussian", ratio_of(p)))
        elif profile == "band":
            matrices.append(band_matrix(n, at, n / ratio_of(p)))
        else:
            matrices.append(axis_matrix(n, at, "spline5"))
    x, y, z = (NAMES[profile] for profile in profiles)
    return Acquisition((matrices[0], matrices[1], matrices[2]), (x, y, z))


def discrepancy(data_XYZ: Tensor, prepared: Prepared, acquisition: Acquisition) -> Tensor:
    """Measured minus re-acquired, on the measured grid, scaled; zero where the target grid does not reach."""
    gap_XYZ = prepared.source.data_XYZ - acquisition.apply(data_XYZ)
    for axis, part in enumerate(prepared.reached):
        gap_XYZ.narrow(axis, 0, part.start).zero_()
        gap_XYZ.narrow(axis, part.stop, gap_XYZ.shape[axis] - part.stop).zero_()
    return gap_XYZ


def correct(data_XYZ: Tensor, prepared: Prepared, acquisition: Acquisition, variance: float | None = None) -> Tensor:
    """The result nearer to what was measured, by as much as noise allows; same shape, scaled, foreground only.

    First the posterior mean of the result's error given what it leaves unexplained (a Kalman update, with the prior of
    interpolation at the error's size): errors that many voxels share show far below the noise of one. Then one
    back-projection of what single voxels contradict beyond twice their noise (Irani & Peleg 1991).

    Args:
        data_XYZ: the result, scaled, on the target grid.
        prepared: the scan that it was made from.
        acquisition: from `assumed_acquisition`.
        variance: of the result's error, scaled; None takes `error_variance`.
    """
    gap = discrepancy(data_XYZ, prepared, acquisition)
    noise, left = max(prepared.noise, NOISE_FLOOR), error_variance(prepared) if variance is None else variance
    likely = wiener(gap, prepared.positions, noise * (VARIANCE / left) ** 0.5)
    nearer = likely.mul_(prepared.mask_XYZ).add_(data_XYZ)  # in place: a large head's peak lies here
    gap = discrepancy(nearer, prepared, acquisition)
    beyond = torch.sign(gap) * (gap.abs() - 2 * prepared.noise).clamp_min(0)
    axes = [reading_matrix(n, p, "cubic") for n, p in zip(gap.shape, prepared.positions, strict=True)]
    return apply_axes(beyond, axes).mul_(prepared.mask_XYZ).add_(nearer)


def error_variance(prepared: Prepared) -> float:
    """Variance of the error that the network leaves in what was measured, scaled; from the scan's detail and noise."""
    inner_XYZ = prepared.source.data_XYZ
    tissue_XYZ = inner_XYZ > TISSUE
    for axis in range(3):
        rest = [other for other in range(3) if other != axis]
        first, last = _between(tissue_XYZ.sum(rest))
        inner_XYZ = inner_XYZ.narrow(axis, first, last - first)
    noise = max(prepared.noise, NOISE_FLOOR)
    detail = max(detail_variance(inner_XYZ, prepared.positions, noise), SMALLEST_VARIANCE)
    return min(max(ERROR_LEFT * detail**3 / noise**4, SMALLEST_VARIANCE), LARGEST_VARIANCE)


def _between(tissue_n: Tensor) -> tuple[int, int]:
    """First and one past the last plane of the inner box along an axis, from the tissue voxels of every plane."""
    n = len(tissue_n)
    share_n = tissue_n.double().cumsum(0) / max(int(tissue_n.sum()), 1)
    low, high = (int((share_n < q).sum()) for q in INNER)
    wanted = min(max(high - low, LEAST), MOST, n)
    first = min(max((low + high - wanted) // 2, 0), n - wanted)
    return first, first + wanted


def residual(gap_XYZ: Tensor, prepared: Prepared) -> Volume:
    """Re-acquired minus measured, on the measured grid and in its intensities; from `discrepancy`."""
    return Volume(-gap_XYZ * prepared.scaling.scale, prepared.source.affine)


def summary(gap_XYZ: Tensor, prepared: Prepared, acquisition: Acquisition) -> dict[str, object]:
    """RMS of a discrepancy over the scan's intensity range (up to its 99.9th percentile), for the sidecar."""
    top = max(quantile(prepared.source.data_XYZ, 0.999), 1e-6)
    tissue = prepared.source.data_XYZ[prepared.reached] > 0.05 * top
    rms = float(gap_XYZ[prepared.reached][tissue].square().mean().sqrt()) if bool(tissue.any()) else 0.0
    return {
        "rms_over_range": round(rms / top, 5),
        "noise_over_range": round(prepared.noise / top, 5),
        "assumed": list(acquisition.names),
    }
