"""Shapes of masks: grown, closed, filled, and what can be reached from where.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def dilated(mask_XYZ: Tensor, reach: int) -> Tensor:
    """Grown by a box of 2 reach + 1 voxels per side, one axis at a time; beyond the faces is nothing."""
    for axis in range(3):
        grown, n = mask_XYZ.clone(), mask_XYZ.shape[axis]
        for step in range(1, min(reach, n - 1) + 1):
            grown.narrow(axis, step, n - step).logical_or_(mask_XYZ.narrow(axis, 0, n - step))
            grown.narrow(axis, 0, n - step).logical_or_(mask_XYZ.narrow(axis, step, n - step))
        mask_XYZ = grown
    return mask_XYZ


def closed(mask_XYZ: Tensor, reach: int) -> Tensor:
    """Morphological closing with a box; the volume's faces erode nothing."""
    return ~dilated(~dilated(mask_XYZ, reach), reach)


def _spread(reached: np.ndarray, free: np.ndarray) -> None:
    """Grow `reached` through `free` along the first axis, there and back, in place."""
    last = reached.shape[0] - 1
    for i in range(1, last + 1):
        reached[i] |= reached[i - 1] & free[i]
    for i in range(last - 1, -1, -1):
        reached[i] |= reached[i + 1] & free[i]


def reached_from(seeds_XYZ: Tensor, free_XYZ: Tensor) -> Tensor:
    """Voxels of `free` that faces of its voxels join to a seed in it.

    Whole slices are swept at once, so a head needs a handful of rounds rather than one per voxel of depth. Each axis
    is swept in a copy that stores its slices in one piece, and by numpy, whose small steps wake no threads: together
    a hundred times faster.
    """
    free = [np.ascontiguousarray(np.moveaxis(free_XYZ.cpu().numpy(), axis, 0)) for axis in range(3)]
    reached = seeds_XYZ.cpu().numpy() & free[0]
    before = -1
    while (now := int(reached.sum())) != before:
        before = now
        for axis in range(3):
            swept = np.array(np.moveaxis(reached, axis, 0), order="C")
            _spread(swept, free[axis])
            reached = np.moveaxis(swept, 0, axis)
    return torch.from_numpy(np.ascontiguousarray(reached)).to(free_XYZ.device)


def filled(mask_XYZ: Tensor) -> Tensor:
    """The mask with its holes: everything that background voxels do not join to the volume's border."""
    border = torch.zeros_like(mask_XYZ)
    for axis in range(3):
        for end in (0, -1):
            border.select(axis, end).fill_(True)
    return ~reached_from(border, ~mask_XYZ)
