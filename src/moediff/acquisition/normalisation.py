"""Intensity normalisation: the foreground of a scan, and a scale by its brain.

Axes: X Y Z voxels, RAS+.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.morphology import closed, dilated, filled
from moediff.core.statistics import quantile

LATTICE_MM = 4.0  # the foreground is found on blocks of about this size
CLOSING = 2  # blocks
VERTEX_TO_CENTRE_MM = 65.0  # an adult brain's centre lies about this far below the top of the head
BALL_MM = 50.0
BRAIN_MEDIAN = 0.5  # the brain's median maps here


@dataclass(frozen=True)
class Scaling:
    """The affine map of intensities: scaled = (raw - offset) / scale."""

    offset: float = 0.0
    scale: float = 1.0

    def apply(self, data: Tensor) -> Tensor:
        """Raw intensities to scaled ones."""
        return (data - self.offset) / self.scale

    def undo(self, data: Tensor) -> Tensor:
        """Scaled intensities to raw ones; undo(apply(x)) = x to rounding."""
        return data * self.scale + self.offset


def _blocks(data_XYZ: Tensor, spacing_mm: Sequence[float]) -> tuple[Tensor, list[int]]:
    """Mean over blocks of about LATTICE_MM, and the block size in voxels; ragged ends repeat the edge."""
    size = [max(1, round(LATTICE_MM / s)) for s in spacing_mm]
    pad = [(-n) % b for n, b in zip(data_XYZ.shape, size, strict=True)]
    padded = F.pad(data_XYZ[None, None], (0, pad[2], 0, pad[1], 0, pad[0]), mode="replicate")
    return F.avg_pool3d(padded, size), size


def _threshold(blocks: Tensor) -> float:
    """An intensity above air and below tissue: a fraction of the robust top, raised above the noise in air."""
    top = quantile(blocks, 0.98)
    air = blocks[blocks < 0.15 * top]
    floor = quantile(air, 0.5) if air.numel() > 0.02 * blocks.numel() else 0.0
    return max(0.12 * top, 2.0 * floor)


def foreground(data_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Boolean mask of the head with its cavities filled, about 4 mm generous, same shape as the data.

    Raises:
        DataError: nothing stands out from the background.
    """
    blocks, size = _blocks(data_XYZ - data_XYZ.min(), spacing_mm)
    bright = (blocks > _threshold(blocks)).float()
    solid = F.avg_pool3d(bright, 3, 1, 1, count_include_pad=False)[0, 0] > 0.25  # drop specks, mend gaps
    mended = closed(F.pad(solid, (CLOSING,) * 6), CLOSING)[(slice(CLOSING, -CLOSING),) * 3]
    inside = F.pad(solid | mended, (1,) * 6)  # so that air joins around the volume
    inside = dilated(filled(inside, diagonal=True)[1:-1, 1:-1, 1:-1], 1)
    if not float(inside.float().mean()) > 0.001:
        raise DataError("no head found: nothing stands out from the air, expected a head: is it the right scan?")
    for axis, factor in enumerate(size):
        inside = inside.repeat_interleave(factor, dim=axis)
    x, y, z = data_XYZ.shape
    return inside[:x, :y, :z]


def brain_scaling(data_XYZ: Tensor, mask_XYZ: Tensor, spacing_mm: Sequence[float]) -> Scaling:
    """Map air to 0 and the brain's median to 0.5, so that bright scalp fat does not set the scale.

    The brain is taken as the bright-enough voxels of a 50 mm ball whose centre lies 65 mm below the top of the head
    (or at mid-height of a shorter field of view).

    Raises:
        DataError: no usable intensities where the brain should be.
    """
    stride = [max(1, round(2 / s)) for s in spacing_mm]
    small = data_XYZ[:: stride[0], :: stride[1], :: stride[2]].float()
    inside = mask_XYZ[:: stride[0], :: stride[1], :: stride[2]]
    step = torch.tensor([s * k for s, k in zip(spacing_mm, stride, strict=True)])
    where = inside.nonzero() * step.to(inside.device)
    centre = where.median(dim=0).values
    top, bottom = float(where[:, 2].max()), float(where[:, 2].min())
    centre[2] = max(top - VERTEX_TO_CENTRE_MM, (top + bottom) / 2)
    ball = small[inside][((where - centre) ** 2).sum(1) < BALL_MM**2]
    outside = small[~inside]
    offset = quantile(outside, 0.01) if outside.numel() > 100 else min(float(small.min()), 0.0)
    offset = min(offset, 0.0) if offset < 0.05 * quantile(small, 0.99) else offset
    tissue = ball[ball > offset + 0.1 * (quantile(ball, 0.9) - offset)] if ball.numel() else ball
    scale = (quantile(tissue, 0.5) - offset) / BRAIN_MEDIAN if tissue.numel() else 0.0
    if not (math.isfinite(scale) and scale > 0):
        raise DataError("the middle of the head is empty, expected tissue brighter than air: is it the right scan?")
    return Scaling(offset, scale)
