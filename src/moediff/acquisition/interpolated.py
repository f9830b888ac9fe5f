"""Scans that were interpolated to finer voxels before: along such an axis fine detail and noise are missing.

The power spectrum of lines along it falls far below that of heads and of the scan's other axes. Axes of real scans
differ by a factor of 3 from each other, interpolated ones by 30 and more (LOG.md, 2026-11-30).

Axes: X Y Z voxels, F bands of frequency.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from moediff.acquisition.sampling_estimate import LOG_POWER, line_power

SCALE, READ = slice(1, 4), (5, 7, 9)  # bands that fix the factor, and those that interpolation empties
LEAST_FALL = 0.85  # log10 of power below that of heads
LEAST_APART = 0.6  # below the scan's fullest axis


def interpolated_axes(scaled_XYZ: Tensor) -> tuple[int, ...]:
    """Axes whose voxels are finer than the scan's detail, as if it had been resampled from coarser ones.

    Args:
        scaled_XYZ: the scan, the brain's median at 0.5.
    """
    falls = [_fall(line_power(scaled_XYZ, axis)) for axis in range(3)]
    known = [fall for fall in falls if fall is not None]
    if len(known) < 2:
        return ()
    least = min(known)
    return tuple(a for a, fall in enumerate(falls) if fall is not None and fall > max(LEAST_FALL, least + LEAST_APART))


def _fall(power_F: np.ndarray | None) -> float | None:
    """Mean of log10, over the bands that are read, by which power is lower than that of heads."""
    if power_F is None:
        return None
    expected_F = np.asarray(LOG_POWER) / np.log(10)
    own_F = np.log10(np.maximum(power_F, 1e-30)) - np.log10(power_F[SCALE].mean())
    of_heads_F = expected_F - np.log10((10 ** expected_F[SCALE]).mean())
    return float(np.mean([of_heads_F[band] - own_F[band] for band in READ]))
