"""Data consistency: compare a result, acquired again, with the measured scan, and correct it.

Axes: X Y Z voxels, V samples in tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.prepare import Prepared
from moediff.acquisition.wiener import NOISE_FLOOR, VARIANCE, detail_variance, wiener
from moediff.core.resample import antialiased_matrix, apply_axes
from moediff.core.statistics import quantile
from moediff.core.volume import Volume

# Variance of the network's error: the factor times detail^3 / noise^4. The noisier the scan and the smoother the head,
# the more of the gap is noise, which the result should not follow (LOG.md, 2026-11-26).
ERROR_FACTOR, LARGEST_VARIANCE = 2e-4, 1e-2
INNER = 0.2, 0.8  # quantiles of the head along each axis between which its detail is measured
SHORTEST, LONGEST = 16, 128  # samples of that box along an axis
TISSUE = 0.1  # scaled; the brain's median is 0.5
TISSUE_OVER_RANGE = 0.05  # of the intensity range: above it a discrepancy counts
SMALLEST_VARIANCE = 1e-8  # changes nothing


@dataclass(frozen=True)
class ConsistencySummary:
    """A discrepancy in a few numbers, for records.

    Args:
        rms_over_range: its RMS over the scan's intensity range (up to the 99.9th percentile), in tissue.
        noise_over_range: the scan's noise sigma over the same range.
        assumed: how each axis was taken to be acquired, in words.
    """

    rms_over_range: float
    noise_over_range: float
    assumed: tuple[str, str, str]


@dataclass(frozen=True)
class TissueGap:
    """A discrepancy where the scan holds tissue.

    Args:
        gap_V: measured minus re-acquired, one number a sample, scaled.
        top: the scan's intensity range, scaled.
        noise: its noise sigma, scaled.
        assumed: how each axis was taken to be acquired, in words.
    """

    gap_V: Tensor
    top: float
    noise: float
    assumed: tuple[str, str, str]

    def summary(self) -> ConsistencySummary:
        """In a few numbers."""
        rms = float(self.gap_V.square().mean().sqrt()) if self.gap_V.numel() else 0.0
        return ConsistencySummary(round(rms / self.top, 5), round(self.noise / self.top, 5), self.assumed)


@dataclass(frozen=True)
class Discrepancy:
    """What a result leaves unexplained of the measured scan; from `discrepancy`, once for every result.

    Args:
        gap_XYZ: measured minus re-acquired (see `magnitude_gap`), on the measured grid, scaled; zero where the target
            grid does not reach.
        below_XYZ: where the result, acquired again, is below zero, bool.
        prepared: the measured scan.
    """

    gap_XYZ: Tensor
    below_XYZ: Tensor
    prepared: Prepared

    def residual(self) -> Volume:
        """Re-acquired minus measured (see `magnitude_residual`), on the measured grid and in its intensities."""
        residual_XYZ = magnitude_residual(self.gap_XYZ, self.below_XYZ)
        return Volume(residual_XYZ * self.prepared.scaling.scale, self.prepared.source.affine)

    def samples(self) -> TissueGap:
        """The gap in tissue alone."""
        source_XYZ, reached = self.prepared.source.data_XYZ, self.prepared.reached
        top = intensity_range(source_XYZ)
        tissue = source_XYZ[reached] > TISSUE_OVER_RANGE * top
        return TissueGap(self.gap_XYZ[reached][tissue], top, self.prepared.noise, self.prepared.acquisition.names)

    def summary(self) -> ConsistencySummary:
        """In a few numbers."""
        return self.samples().summary()


def intensity_range(data_XYZ: Tensor) -> float:
    """Range of a scan by which discrepancies are divided: up to the 99.9th percentile."""
    return max(quantile(data_XYZ, 0.999), 1e-6)


def discrepancy(data_XYZ: Tensor, prepared: Prepared) -> Discrepancy:
    """Compare a result, scaled, on the target grid, with what was measured."""
    again_XYZ = prepared.acquisition.apply(data_XYZ)
    return Discrepancy(_gap_to(again_XYZ, prepared), again_XYZ < 0, prepared)


def _gap(data_XYZ: Tensor, prepared: Prepared) -> Tensor:
    return _gap_to(prepared.acquisition.apply(data_XYZ), prepared)


def _gap_to(again_XYZ: Tensor, prepared: Prepared) -> Tensor:
    gap_XYZ = magnitude_gap(prepared.source.data_XYZ, again_XYZ)
    for axis, part in enumerate(prepared.reached):
        gap_XYZ.narrow(axis, 0, part.start).zero_()
        gap_XYZ.narrow(axis, part.stop, gap_XYZ.shape[axis] - part.stop).zero_()
    return gap_XYZ


def magnitude_gap(measured_XYZ: Tensor, again_XYZ: Tensor) -> Tensor:
    """Measured minus re-acquired: a magnitude scan has lost the sign of what rings below zero (LOG.md, 2026-11-30)."""
    return torch.where(again_XYZ < 0, -measured_XYZ.abs(), measured_XYZ).sub_(again_XYZ)


def magnitude_residual(gap_XYZ: Tensor, below_XYZ: Tensor) -> Tensor:
    """Re-acquired minus measured, for people: of magnitudes where the result, acquired again, is below zero.

    Args:
        gap_XYZ: from `magnitude_gap`.
        below_XYZ: where the result, acquired again, is below zero, bool.
    """
    return torch.where(below_XYZ, gap_XYZ, -gap_XYZ)


def correct(data_XYZ: Tensor, prepared: Prepared, variance: float | None = None) -> Tensor:
    """A result corrected towards the measurement, by as much as noise allows; same shape, scaled, foreground only.

    First the posterior mean of the result's error given what it leaves unexplained (a Kalman update, with the prior of
    interpolation at the error's size): errors that many voxels share are found far below the noise of one. Then one
    back-projection of what single voxels contradict beyond twice their noise (Irani & Peleg 1991).

    Args:
        data_XYZ: the result, scaled, on the target grid.
        prepared: the measured scan.
        variance: of the result's error, scaled; None takes `error_variance`.
    """
    gap = _gap(data_XYZ, prepared)
    noise, variance = max(prepared.noise, NOISE_FLOOR), error_variance(prepared) if variance is None else variance
    error_XYZ = wiener(gap, prepared.positions, noise * (VARIANCE / variance) ** 0.5, prepared.known_sampling)
    updated_XYZ = error_XYZ.mul_(prepared.mask_XYZ).add_(data_XYZ)  # in place: memory peaks here
    gap = _gap(updated_XYZ, prepared)
    excess = torch.sign(gap) * (gap.abs() - 2 * prepared.noise).clamp_min(0)
    axes = [antialiased_matrix(n, p, "cubic") for n, p in zip(gap.shape, prepared.positions, strict=True)]
    return apply_axes(excess, axes).mul_(prepared.mask_XYZ).add_(updated_XYZ)


def error_variance(prepared: Prepared) -> float:
    """Variance of the network's error in what was measured, scaled; from the scan's detail and noise."""
    inner_XYZ = prepared.source.data_XYZ
    tissue_XYZ = inner_XYZ > TISSUE
    for axis in range(3):
        rest = [other for other in range(3) if other != axis]
        first, last = _inner_range(tissue_XYZ.sum(rest))
        inner_XYZ = inner_XYZ.narrow(axis, first, last - first)
    noise = max(prepared.noise, NOISE_FLOOR)
    detail = max(detail_variance(inner_XYZ, prepared.positions, noise, prepared.known_sampling), SMALLEST_VARIANCE)
    return min(max(ERROR_FACTOR * detail**3 / noise**4, SMALLEST_VARIANCE), LARGEST_VARIANCE)


def _inner_range(tissue_n: Tensor) -> tuple[int, int]:
    """First and one past the last plane of the inner box along an axis, from the tissue voxels of every plane."""
    n = len(tissue_n)
    share_n = tissue_n.double().cumsum(0) / max(int(tissue_n.sum()), 1)
    low, high = (int((share_n < q).sum()) for q in INNER)
    length = min(max(high - low, SHORTEST), LONGEST, n)
    first = min(max((low + high - length) // 2, 0), n - length)
    return first, first + length
