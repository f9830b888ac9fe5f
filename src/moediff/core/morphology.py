"""Morphology of masks: dilation, erosion, closing, holes, connected components, distance to the surface.

Masks are boolean tensors on any device; scipy works on the CPU. Only `within` is our own: for a few millimetres,
shifted copies are thirty times as fast as a distance transform.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

FULL = np.ones((3, 3, 3), dtype=bool)  # a voxel and its 26 neighbours


def _array(mask_XYZ: Tensor) -> np.ndarray:
    return mask_XYZ.cpu().numpy().astype(np.uint8)


def _mask(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(bool)).to(like.device)


def dilated(mask_XYZ: Tensor, reach: int) -> Tensor:
    """Grown by a box of 2 reach + 1 voxels per side; beyond the faces is nothing."""
    return _mask(ndimage.maximum_filter(_array(mask_XYZ), 2 * reach + 1, mode="constant", cval=0), mask_XYZ)


def eroded(mask_XYZ: Tensor, reach: int) -> Tensor:
    """Shrunk by a box of 2 reach + 1 voxels per side; beyond the faces is outside."""
    return _mask(ndimage.minimum_filter(_array(mask_XYZ), 2 * reach + 1, mode="constant", cval=0), mask_XYZ)


def closed(mask_XYZ: Tensor, reach: int) -> Tensor:
    """Morphological closing with a box; the volume's faces erode nothing."""
    return ~dilated(~dilated(mask_XYZ, reach), reach)


def components(mask_XYZ: Tensor, *, diagonal: bool = True) -> Tensor:
    """Number of every voxel's connected group, 1..n in the order of their first voxels; 0 outside; int64.

    Args:
        mask_XYZ: what is labelled.
        diagonal: whether edges and corners connect voxels too (26 neighbours instead of 6).
    """
    numbers, _ = ndimage.label(_array(mask_XYZ), FULL if diagonal else None)
    return torch.from_numpy(numbers.astype(np.int64)).to(mask_XYZ.device)


def reached_from(seeds_XYZ: Tensor, free_XYZ: Tensor, *, diagonal: bool = False) -> Tensor:
    """Voxels of `free` that are connected, within it, to a seed in it."""
    number_XYZ = components(free_XYZ, diagonal=diagonal)
    reached = torch.zeros(int(number_XYZ.max()) + 1, dtype=torch.bool, device=free_XYZ.device)
    reached[number_XYZ[seeds_XYZ & free_XYZ]] = True
    return reached[number_XYZ]


def border(mask_XYZ: Tensor) -> Tensor:
    """The voxels on the volume's six faces."""
    faces = torch.ones_like(mask_XYZ)
    faces[1:-1, 1:-1, 1:-1] = False
    return faces


def filled(mask_XYZ: Tensor, *, diagonal: bool = False) -> Tensor:
    """The mask with its holes: everything that background voxels do not connect to the volume's border."""
    return ~reached_from(border(mask_XYZ), ~mask_XYZ, diagonal=diagonal)


def depth_mm(mask_XYZ: Tensor, spacing_mm: Sequence[float], most_mm: float) -> Tensor:
    """Depth below the mask's surface in layers of the mean voxel size, up to most_mm; 0 outside."""
    step = sum(spacing_mm) / len(spacing_mm)
    layers = ndimage.distance_transform_cdt(np.pad(_array(mask_XYZ), 1), "chessboard")[1:-1, 1:-1, 1:-1]
    return torch.from_numpy(np.minimum(layers, math.ceil(most_mm / step))).to(mask_XYZ.device) * step


def within(mask_XYZ: Tensor, reach_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Voxels whose centre is at most reach_mm (Euclidean) from a voxel of the mask."""
    reached = torch.zeros_like(mask_XYZ)
    steps = [int(reach_mm / s + 1e-6) for s in spacing_mm]
    padded = F.pad(mask_XYZ, (steps[2],) * 2 + (steps[1],) * 2 + (steps[0],) * 2)
    x, y, z = mask_XYZ.shape
    for i in range(-steps[0], steps[0] + 1):
        for j in range(-steps[1], steps[1] + 1):
            left = reach_mm**2 - (i * spacing_mm[0]) ** 2 - (j * spacing_mm[1]) ** 2
            if left < -1e-9:
                continue
            k = int((max(left, 0.0) ** 0.5) / spacing_mm[2] + 1e-6)
            row = padded[
                steps[0] + i : steps[0] + i + x, steps[1] + j : steps[1] + j + y, steps[2] - k : steps[2] + k + z
            ]
            for shift in range(2 * k + 1):
                reached |= row[..., shift : shift + z]
    return reached
