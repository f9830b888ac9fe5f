"""Voxels: from stored numbers to float32, and checks of whether they can be a scan.

Axes: X Y Z voxels in storage order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.statistics import even_step

NONFINITE_LIMIT = 0.05
SLICES_AT_ONCE = 8  # keeps the float64 intermediate small and in cache
SAMPLE_VOXELS = 1 << 19  # enough for the percentiles behind a warning
NEGATIVE_SHARE = 1e-3
OUTLIER_TIMES = 10.0  # of the bright end
LOWER, TAIL, UPPER = 0.001, 0.01, 0.999  # quantiles: the dark end, its tail, the bright end
DARK_SHARE = 0.01  # of the range between the ends; voxels further below the dark end are outliers
TAIL_TIMES = 5.0  # and further than this many lengths of the tail
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


def without_outliers(data_XYZ: Tensor) -> Tensor:
    """The scan with its outliers replaced by the median of their neighbours; the same tensor where there are none.

    One of them could set the offset that intensities are measured from, or ring through the whole interpolation.
    """
    low, high = usual_range(data_XYZ)
    least, greatest = (float(v) for v in torch.aminmax(data_XYZ))
    if low <= least and greatest <= high:
        return data_XYZ
    return fill_from_neighbours(data_XYZ, (data_XYZ < low) | (data_XYZ > high))


def usual_range(data_XYZ: Tensor) -> tuple[float, float]:
    """Least and greatest intensity that is no outlier.

    Dark ones are judged by the lower tail, because noise and dark tissue of standardised scans have a long one, and air
    has none.
    """
    sample = _sample(data_XYZ)
    sizes = np.abs(sample[sample != 0])
    if len(sizes) == 0:
        return -math.inf, math.inf
    reach = OUTLIER_TIMES * float(np.quantile(sizes, UPPER))
    bottom, lower, top = (float(v) for v in np.quantile(sample, (LOWER, TAIL, UPPER)))
    return max(bottom - max(DARK_SHARE * (top - bottom), TAIL_TIMES * (lower - bottom)), -reach), reach


def _sample(data_XYZ: Tensor) -> np.ndarray:
    return data_XYZ.flatten()[:: even_step(data_XYZ.numel(), SAMPLE_VOXELS)].cpu().numpy()


def _warn_of_intensities(data_XYZ: Tensor, low: float, high: float, notes: list[str]) -> None:
    negative = float((_sample(data_XYZ) < 0).mean())
    if negative > NEGATIVE_SHARE:
        notes.append(f"{100 * negative:.1f} % of the voxels are negative, down to {low:.4g}: is this a magnitude scan?")
    least, greatest = usual_range(data_XYZ)
    if low < least or high > greatest:
        count = int(((data_XYZ < least) | (data_XYZ > greatest)).sum())
        ends = [f"down to {low:.4g}"] * (low < least) + [f"up to {high:.4g}"] * (high > greatest)
        notes.append(
            f"outlier intensities: {count} voxels, {' and '.join(ends)}, expected {least:.4g} to {greatest:.4g}; "
            "enhancing replaces them by the median of their neighbours"
        )
