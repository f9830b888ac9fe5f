"""Slice intensity of interleaved acquisitions: slices that alternate in brightness (cross-talk, steady state).

Slices next to each other show different anatomy, so the gain of a single slice cannot be separated from its
content. What alternates from every slice to the next can: anatomy does not.

Axes: X Y Z voxels, N slices, x y the plane of the slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.geometry import coarsest_axis

THICK = 1.5  # times the plane's voxel size: slices as thick as this were acquired one by one
TISSUE = 0.2  # scaled intensity (the brain's median is 0.5): darker voxels say little about a gain
MINIMUM_VOXELS, MINIMUM_SLICES = 400, 6
NOTICEABLE = 0.006  # log-gain; scans without alternation have measured up to 0.004
CERTAIN = 4.0  # standard errors


@dataclass(frozen=True)
class SliceIntensity:
    """How the brightness of slices alternates from one to the next.

    Args:
        axis: across the slices, 0..2.
        log_gain: the first, third, ... slice is exp(2 log_gain) times as bright as those between.
        error: standard error of `log_gain`.
    """

    axis: int
    log_gain: float
    error: float

    @property
    def noticeable(self) -> bool:
        """Whether it is more than chance and anatomy make."""
        return abs(self.log_gain) > max(NOTICEABLE, CERTAIN * self.error)

    @property
    def difference(self) -> float:
        """How much brighter the brighter half of the slices is, as a share."""
        return math.exp(2 * abs(self.log_gain)) - 1

    def corrected(self, data_XYZ: Tensor) -> Tensor:
        """Both halves of the slices brought to their geometric mean; intensities count from air = 0."""
        sides = [1, 1, 1]
        sides[self.axis] = data_XYZ.shape[self.axis]
        sign_N = 1 - 2 * (torch.arange(sides[self.axis], device=data_XYZ.device) % 2)
        return data_XYZ * torch.exp(-self.log_gain * sign_N.to(data_XYZ.dtype)).reshape(sides)


def measure_slice_intensity(scaled_XYZ: Tensor, spacing_mm: Sequence[float]) -> SliceIntensity | None:
    """Measure the alternation of a scan whose brain's median is 0.5 and whose air is 0.

    Neighbouring slices' log ratio, the median over tissue, is summed up to a curve over slices; its fourth difference
    drops what changes slowly (anatomy, bias) and keeps sixteen times what alternates. The median over slices counts.

    Returns:
        None where there are no thick slices, or too few of them.
    """
    axis = coarsest_axis(spacing_mm)
    others = [size for each, size in enumerate(spacing_mm) if each != axis]
    if spacing_mm[axis] < THICK * math.sqrt(others[0] * others[1]):
        return None
    step_N, known_N = _steps(scaled_XYZ.movedim(axis, 0))
    curve_N = F.pad(step_N.cumsum(0), (1, 0))
    if len(curve_N) < MINIMUM_SLICES + 4:
        return None
    kernel = torch.tensor([1.0, -4.0, 6.0, -4.0, 1.0], dtype=curve_N.dtype) / 16
    rough_N = (curve_N.unfold(0, 5, 1) * kernel).sum(-1)
    sign_N = 1 - 2 * (torch.arange(len(rough_N)) % 2)
    alternation_N = (rough_N * sign_N)[known_N.unfold(0, 4, 1).all(-1)]
    if len(alternation_N) < MINIMUM_SLICES:
        return None
    log_gain = alternation_N.median()
    deviation = 1.4826 * (alternation_N - log_gain).abs().median()  # of a normal distribution
    return SliceIntensity(axis, float(log_gain), float(1.2533 * deviation / math.sqrt(len(alternation_N))))


def _steps(scaled_Nxy: Tensor) -> tuple[Tensor, Tensor]:
    """Log of every slice over the one before it [N - 1], and where enough tissue says so; on the CPU."""
    smooth_Nxy = F.avg_pool2d(scaled_Nxy[:, None].float(), 3, 1, 1)[:, 0]
    steps, known = [], []
    for before, after in pairwise(smooth_Nxy):
        both = (before > TISSUE) & (after > TISSUE)
        enough = int(both.sum()) >= MINIMUM_VOXELS
        steps.append(float((after[both] / before[both]).log().median()) if enough else 0.0)
        known.append(enough)
    return torch.tensor(steps, dtype=torch.float64), torch.tensor(known, dtype=torch.bool)
