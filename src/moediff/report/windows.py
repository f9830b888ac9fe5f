"""Intensity windows that a reader can choose from: the brain's, a narrow one, and all that there is.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.anatomy.tissue import brain_of
from moediff.core.volume import Volume
from moediff.report.layers import Window, quantiles

BRAIN = (0.01, 0.995)  # quantiles of the brain's voxels
ROOM = 0.05  # of the brain's window, above its brightest voxels
MIDDLE = 0.3  # half axes of the ellipsoid that is taken for the brain of a whole head, as parts of the box
NARROW = 0.5  # of the brain's window: twice its contrast
COARSE = 2  # voxels; quantiles need no more


def presets(enhanced: Volume) -> tuple[Window, ...]:
    """Windows `brain`, `lesion` and `full` of a scan cut to the box around its head.

    The brain is what is left of a stripped scan; in a whole head, whose fat is brighter than the brain, it is taken to
    fill an ellipsoid in the middle of the box.
    """
    data_XYZ = enhanced.data_XYZ[::COARSE, ::COARSE, ::COARSE].float()
    spacing_mm = [COARSE * size for size in enhanced.spacing_mm]
    mask_XYZ = brain_of(data_XYZ, spacing_mm)
    if mask_XYZ is None:
        mask_XYZ = _ellipsoid(data_XYZ.shape) & (data_XYZ > 0)
    inside = data_XYZ[mask_XYZ] if int(mask_XYZ.sum()) > 1000 else data_XYZ.flatten()
    low, middle, high = quantiles(inside, BRAIN[0], 0.5, BRAIN[1])
    least, most = float(data_XYZ.min()), float(enhanced.data_XYZ.max())
    if not high > low:  # half of it is one value
        low, high = least, most
    high += ROOM * (high - low)
    half = NARROW * (high - low) / 2
    return (
        Window("brain", low, high),
        Window("lesion", middle - half, middle + half),
        Window("full", min(least, 0.0) if least < 0 else 0.0, most),
    )


def _ellipsoid(shape: torch.Size) -> Tensor:
    axes = [(torch.arange(n) - (n - 1) / 2) / (MIDDLE * n) for n in shape]
    x, y, z = (axis.square() for axis in axes)
    return x[:, None, None] + y[None, :, None] + z[None, None, :] <= 1
