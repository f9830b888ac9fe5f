"""Label maps on finer voxels, with smooth borders instead of the stair steps that copied voxels would have.

Axes: X Y Z voxels of the map, I voxels along one axis, O finer ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.anatomy.labels import as_label_map
from moediff.core.errors import ConfigError
from moediff.core.geometry import positions_along, with_spacing
from moediff.core.resample import apply_axes, interpolation_matrix
from moediff.core.volume import Volume
from moediff.core.windows import gaussian_matrix

SOFTENING_VOXELS = 0.5  # Gaussian sigma: smooth borders, and sheets of one voxel stay
REACH = 2  # voxels around a label that its smoothed and interpolated membership fills
ROUNDING = 1.02  # a voxel size this much larger than the map's still counts as the same


def finer_label_map(labels: Volume, spacing_mm: float) -> Volume:
    """A label map redrawn on isotropic voxels: each holds the label whose smoothed membership is largest there.

    Args:
        labels: whole numbers, 0 is air.
        spacing_mm: new voxel size, not coarser than the map's; where it is the map's own, nothing is redrawn.

    Returns:
        int32 labels over the same field of view.

    Raises:
        ConfigError: the voxels asked for are coarser than the map's.
        DataError: numbers that are not whole.
    """
    finest, coarsest = min(labels.spacing_mm), max(labels.spacing_mm)
    if not 0 < spacing_mm <= ROUNDING * finest:
        raise ConfigError(
            f"spacing_mm={spacing_mm:g} cannot be drawn from a label map of {finest:.3g} mm; name that or a finer size"
        )
    numbers = as_label_map(labels.data_XYZ)
    if coarsest <= ROUNDING * spacing_mm:
        return labels.with_data(numbers)
    target = with_spacing(labels.grid, (spacing_mm,) * 3)
    positions = positions_along(labels.grid, target)
    matrices_OI = [
        interpolation_matrix(n, at, "linear") @ gaussian_matrix(n, SOFTENING_VOXELS, REACH)
        for n, at in zip(numbers.shape, positions, strict=True)
    ]
    most = torch.zeros(target.shape)
    drawn = torch.zeros(target.shape, dtype=torch.int32)
    for number in numbers.unique().tolist():
        _draw(number, numbers, matrices_OI, most, drawn)
    return Volume(drawn, target.affine)


def _draw(number: int, numbers_XYZ: Tensor, matrices_OI: list[Tensor], most: Tensor, drawn: Tensor) -> None:
    """Take the finer voxels in which no label before had a larger membership; `most` and `drawn` are changed."""
    present_XYZ = numbers_XYZ == number
    where = present_XYZ.nonzero()
    source, finer, parts = [], [], []
    for matrix_OI, first, last in zip(matrices_OI, where.amin(0).tolist(), where.amax(0).tolist(), strict=True):
        inside = slice(first, last + 1)
        reached = matrix_OI[:, inside].any(1).nonzero()[:, 0]
        rows = slice(int(reached[0]), int(reached[-1]) + 1)
        source.append(inside)
        finer.append(rows)
        parts.append(matrix_OI[rows, inside])
    membership = apply_axes(present_XYZ[tuple(source)].float(), parts)
    box = tuple(finer)
    larger = membership > most[box]
    most[box] = torch.where(larger, membership, most[box])
    drawn[box] = drawn[box].masked_fill(larger, number)
