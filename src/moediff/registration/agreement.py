"""Agreement of two scans after registration: gain between them, difference that is left, and motion that is left.

Both are read as equally blurred copies (`mutual_information.blurred`), so that what differs is not slice thickness.

Axes: X Y Z voxels of the fixed scan's blurred copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from moediff.acquisition.normalisation import foreground
from moediff.acquisition.placed import ObliqueReading
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.registration.motion import MotionLeft, local_gain, motion_left
from moediff.registration.rigid import IDENTITY, Rigid

GAIN_WINDOW_MM = 40.0  # full width at half maximum, over which coils and receivers hardly vary
LEAST_SHARED = 0.2  # of the fixed scan's head, in the moving scan's field of view
AIR = 0.05  # of the bright end
INSIDE = 0.99


@dataclass(frozen=True)
class Agreement:
    """How well two scans of one head agree.

    Args:
        shared: share of the fixed scan's head that the moving scan measured, 0..1.
        gain: moving over fixed intensity, the median of `gain_map`.
        gain_map: the same where it varies slowly, on the fixed scan's lattice.
        motion: what is left of motion, how certain that is, and how much the scans differ.
    """

    shared: float
    gain: float
    gain_map: Volume
    motion: MotionLeft


def agreement(fixed: Volume, moving: Volume, transform: Rigid) -> Agreement:
    """Compare two blurred scans.

    Args:
        fixed, moving: from `blurred`.
        transform: from the fixed scan's frame to the moving one's.
    """
    foreground_XYZ = foreground(fixed.data_XYZ, fixed.spacing_mm)
    reading = ObliqueReading(transform.placed_grid(moving.grid), fixed.grid)
    inside_XYZ = reading.apply(torch.ones(moving.shape)) > INSIDE
    both_XYZ = foreground_XYZ & inside_XYZ
    shared = float(both_XYZ.sum()) / max(int(foreground_XYZ.sum()), 1)
    if shared < LEAST_SHARED:
        nothing = MotionLeft(IDENTITY, math.inf, 1.0)
        return Agreement(shared, 1.0, fixed.with_data(torch.ones(fixed.shape)), nothing)
    read_XYZ, fixed_XYZ = reading.apply(moving.data_XYZ), fixed.data_XYZ
    gain = local_gain(fixed_XYZ, read_XYZ, both_XYZ, GAIN_WINDOW_MM / fixed.spacing_mm[0])
    tissue_XYZ = both_XYZ & (fixed_XYZ > AIR * quantile(fixed_XYZ, 0.999))
    motion = motion_left(fixed, read_XYZ, both_XYZ, tissue_XYZ)
    return Agreement(shared, float(gain[tissue_XYZ].median()), fixed.with_data(gain), motion)
