"""Data consistency: does the result, acquired again, give back what was measured?

Axes: X Y Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.volume.geometry import axis_positions
from moediff.volume.intensity import quantile
from moediff.volume.prepare import Prepared
from moediff.volume.resample import apply_axes, axis_matrix, band_matrix, profile_matrix
from moediff.volume.volume import Volume
from moediff.volume.wiener import NOISE_FLOOR, VARIANCE, assumed_profiles, ratio_of, wiener

# Variance of the error that the network leaves in what was measured: the first over noise^3, scaled. The noisier the
# scan, the more of the gap is noise that it was right not to follow. From training persons (docs/decisions.md).
ERROR_LEFT, LARGEST_VARIANCE = 3e-9, 1e-2

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
    """Measured minus re-acquired, on the measured grid, scaled."""
    return prepared.source.data_XYZ - acquisition.apply(data_XYZ)


def correct(data_XYZ: Tensor, prepared: Prepared, acquisition: Acquisition) -> Tensor:
    """The result nearer to what was measured, by as much as noise allows; same shape, scaled, foreground only.

    First the posterior mean of the result's error given what it leaves unexplained (a Kalman update, with the prior of
    interpolation at the error's size): errors that many voxels share show far below the noise of one. Then one
    back-projection of what single voxels contradict beyond twice their noise (Irani & Peleg 1991).
    """
    gap = discrepancy(data_XYZ, prepared, acquisition)
    noise = max(prepared.noise, NOISE_FLOOR)
    variance = min(ERROR_LEFT / noise**3, LARGEST_VARIANCE)
    likely = wiener(gap, prepared.positions, noise * (VARIANCE / variance) ** 0.5)
    nearer = likely.mul_(prepared.mask_XYZ).add_(data_XYZ)  # in place: a large head's peak lies here
    gap = discrepancy(nearer, prepared, acquisition)
    beyond = torch.sign(gap) * (gap.abs() - 2 * prepared.noise).clamp_min(0)
    axes = [axis_matrix(n, p, "cubic") for n, p in zip(gap.shape, prepared.positions, strict=True)]
    return apply_axes(beyond, axes).mul_(prepared.mask_XYZ).add_(nearer)


def residual(gap_XYZ: Tensor, prepared: Prepared) -> Volume:
    """Re-acquired minus measured, on the measured grid and in its intensities; from `discrepancy`."""
    return Volume(-gap_XYZ * prepared.scaling.scale, prepared.source.affine)


def summary(gap_XYZ: Tensor, prepared: Prepared, acquisition: Acquisition) -> dict[str, object]:
    """RMS of a discrepancy over the scan's intensity range (99th percentile), for the sidecar."""
    top = max(quantile(prepared.source.data_XYZ, 0.999), 1e-6)
    tissue = prepared.source.data_XYZ > 0.05 * top
    rms = float(gap_XYZ[tissue].square().mean().sqrt()) if bool(tissue.any()) else 0.0
    return {
        "rms_over_range": round(rms / top, 5),
        "noise_over_range": round(prepared.noise / top, 5),
        "assumed": list(acquisition.names),
    }
