"""Voxels: from stored numbers to float32, and checks of whether they can be a scan.

Axes: X Y Z voxels in storage order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import DataError

NONFINITE_LIMIT = 0.05
SLICES_AT_ONCE = 8  # keeps the float64 intermediate small and in cache
SAMPLE_VOXELS = 1 << 19  # enough for the percentiles behind a warning
NEGATIVE_SHARE = 1e-3
OUTLIER_TIMES = 10.0
FILL_AT_ONCE = 1 << 17


def decode(stored_ZYX: np.ndarray, slope: float, inter: float) -> Tensor:
    """float32 voxels data_XYZ = slope * stored + inter; what float32 cannot hold becomes infinite."""
    z_size, y_size, x_size = stored_ZYX.shape
    data_XYZ = torch.empty((x_size, y_size, z_size), dtype=torch.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for z in range(0, z_size, SLICES_AT_ONCE):
            slab = stored_ZYX[z : z + SLICES_AT_ONCE]
            if (slope, inter) != (1.0, 0.0):
                slab = slab * np.float64(slope) + inter
            slab_ZYX = torch.from_numpy(slab.astype(np.float32))
            data_XYZ[:, :, z : z + SLICES_AT_ONCE] = slab_ZYX.permute(2, 1, 0)
    return data_XYZ


def check_voxels(data_XYZ: Tensor, notes: list[str]) -> Tensor:
    """Fill isolated voxels that are not finite; refuse scans without contrast; warn of doubtful intensities.

    Raises:
        DataError: more than 5 % of the voxels are not finite, or all are equal.
    """
    data_XYZ = _fill_nonfinite(data_XYZ, notes)
    low, high = (float(v) for v in torch.aminmax(data_XYZ))
    if low == high:
        raise DataError(f"all voxels have the value {low:g}: expected a scan with contrast; export it again")
    _warn_of_intensities(data_XYZ, low, high, notes)
    return data_XYZ


def _fill_nonfinite(data_XYZ: Tensor, notes: list[str]) -> Tensor:
    if all(math.isfinite(v) for v in torch.aminmax(data_XYZ)):  # much faster than `isfinite` of every voxel
        return data_XYZ
    bad = ~torch.isfinite(data_XYZ)
    count = int(bad.sum())
    if count == data_XYZ.numel():
        raise DataError("no voxel holds a finite number (all NaN or infinite): export the scan again")
    if count > NONFINITE_LIMIT * data_XYZ.numel():
        share = 100 * count / data_XYZ.numel()
        raise DataError(
            f"{share:.1f} % of the voxels are NaN, infinite or beyond float32, expected at most "
            f"{100 * NONFINITE_LIMIT:g} %: export the scan again, or replace them by 0 if they are background"
        )
    notes.append(
        f"{count} voxels that were NaN, infinite or beyond float32 were replaced by the median of their neighbours"
    )
    return fill_from_neighbours(data_XYZ, bad)


def fill_from_neighbours(data_XYZ: Tensor, bad_XYZ: Tensor) -> Tensor:
    """Replace bad voxels by the median of the good ones in 3x3x3, from the edge of each bad region inwards."""
    filled = data_XYZ.masked_fill(bad_XYZ, torch.nan)
    size = torch.tensor(filled.shape)
    steps = torch.arange(-1, 2)
    around = torch.cartesian_prod(steps, steps, steps)
    todo = bad_XYZ.nonzero()
    while len(todo):
        medians = []
        for part in todo.split(FILL_AT_ONCE):
            x, y, z = (part[:, None] + around).clamp(min=torch.zeros(3, dtype=torch.long), max=size - 1).unbind(-1)
            medians.append(filled[x, y, z].nanmedian(dim=1).values)
        median = torch.cat(medians)
        known = ~median.isnan()
        filled[tuple(todo[known].T)] = median[known]
        todo = todo[~known]
    return filled


def _warn_of_intensities(data_XYZ: Tensor, low: float, high: float, notes: list[str]) -> None:
    step = max(1, data_XYZ.numel() // SAMPLE_VOXELS) | 1  # odd, so that it does not follow the rows
    sample = data_XYZ.flatten()[::step].numpy()
    negative = float((sample < 0).mean())
    if negative > NEGATIVE_SHARE:
        notes.append(f"{100 * negative:.1f} % of the voxels are negative, down to {low:.4g}: is this a magnitude scan?")
    sizes = np.abs(sample[sample != 0])
    if len(sizes) == 0:
        return
    usual = float(np.quantile(sizes, 0.999))
    if max(high, -low) > OUTLIER_TIMES * usual:
        notes.append(f"outlier intensities: up to {max(high, -low, key=abs):.4g}, 99.9 % lie below {usual:.4g}")
