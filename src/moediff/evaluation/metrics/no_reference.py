"""No-reference metrics: sharpness and noise of a scan. For comparing scans of one head only.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from moediff.acquisition.noise import noise_sigma
from moediff.core.errors import DataError
from moediff.core.statistics import energy, mean, picked
from moediff.evaluation.metrics.fidelity import check_pair, check_range


def sharpness(data_XYZ: Tensor, mask_XYZ: Tensor, spacing_mm: Sequence[float]) -> float:
    """Root mean square gradient over the standard deviation of intensities, inside the mask; 1/mm, 0...

    A Tenengrad (Krotkov 1988) that brightness and contrast do not change; noise raises it too. Central differences;
    voxels at the volume's faces do not count.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a constant volume.
    """
    check_pair(data_XYZ, data_XYZ, mask_XYZ)
    inside = mask_XYZ[1:-1, 1:-1, 1:-1]
    voxels = int(inside.sum())
    check_range(voxels)
    power = 0.0
    for axis, size_mm in enumerate(spacing_mm):
        core = [slice(1, -1)] * 3
        core[axis] = slice(None)
        data = data_XYZ[tuple(core)]
        n = data.shape[axis] - 2
        step = (data.narrow(axis, 2, n) - data.narrow(axis, 0, n)) / (2 * size_mm)
        power += energy(picked(step, inside)) / voxels
    values = picked(data_XYZ[1:-1, 1:-1, 1:-1], inside)
    spread = math.sqrt(energy(values, mean(values)) / voxels)
    if not spread > 0:
        raise DataError("the scan is constant inside the mask; expected one with contrast")
    return math.sqrt(power) / spread


def noise(data_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> float:
    """Noise sigma over L, from the finest diagonal Haar coefficients (Donoho & Johnstone 1994; Coupe 2010); 0...

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    check_pair(data_XYZ, data_XYZ, mask_XYZ)
    check_range(data_range)
    return noise_sigma(data_XYZ, mask_XYZ) / data_range
