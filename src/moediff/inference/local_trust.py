"""Trust in samples of one scan among several: where all scans together leave much of it unexplained, it counts less.

What moved between the scans (fluid that flows, a jaw, an eye, a fetus) has no image that explains all of them. Least
squares that believe each sample to its noise then answer with a pattern of single voxels. So the noise is taken for as
large as the residual says, place by place.

Axes: X Y Z voxels of the scan.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from moediff.acquisition.combine import Measurement
from moediff.acquisition.operators import gaussian_window_matrix
from moediff.acquisition.wiener import NOISE_FLOOR
from moediff.core.resample import apply_axes

WINDOW_MM = 8.0  # full width at half maximum, within which residuals count together
TOLERATED = 2.0  # times the noise, up to which a residual is taken for it
LITTLE, CHANCE = 0.25, 0.005  # weight, and share of samples that have less without any contradiction


def with_local_trust(measurement: Measurement, result_XYZ: Tensor) -> Measurement:
    """The scan with less weight where a result contradicts it.

    Args:
        measurement: the scan, perhaps with weights already.
        result_XYZ: what all scans together say, on the common grid.
    """
    covered_XYZ = measurement.covered_XYZ.float()
    energy_XYZ = _smoothed(measurement.gap(result_XYZ).square(), measurement)
    share_XYZ = _smoothed(covered_XYZ, measurement).clamp_min(1e-3)
    tolerated = (TOLERATED * max(measurement.noise, NOISE_FLOOR)) ** 2
    trust_XYZ = (tolerated / (energy_XYZ / share_XYZ).clamp_min(1e-12)).clamp_max_(1.0)
    if measurement.weight_XYZ is not None:
        trust_XYZ *= measurement.weight_XYZ
    return replace(measurement, weight_XYZ=trust_XYZ)


def is_doubted(measurement: Measurement) -> bool:
    """Whether a scan has more samples of little weight than chance explains."""
    if measurement.weight_XYZ is None:
        return False
    weight_V = measurement.weight_XYZ[measurement.covered_XYZ]
    return bool((weight_V < LITTLE).float().mean() > CHANCE) if weight_V.numel() else False


def _smoothed(data_XYZ: Tensor, measurement: Measurement) -> Tensor:
    scan = measurement.scan
    sizes = zip(scan.shape, scan.spacing_mm, strict=True)
    return apply_axes(data_XYZ, [gaussian_window_matrix(n, max(WINDOW_MM / size, 1.0)) for n, size in sizes])
