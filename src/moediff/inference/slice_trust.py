"""Trust in single slices of one scan among several: those that contradict the other scans count less.

A slice that moved or lost signal (spin history, dropout) leaves far more unexplained than its neighbours. Weights
follow the Geman-McClure function of a slice's residual over what slices of its scan usually have
(Kuklisova-Murgasova 2012).

Axes: X Y Z voxels of the scan or of the common grid, S slices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.acquisition.combine import Measurement
from moediff.acquisition.placed import ObliqueReading
from moediff.core.geometry import axis_positions, coarsest_axis
from moediff.core.statistics import quantile
from moediff.core.volume import Grid

TOLERATED = 3.0  # times the usual residual, up to which a slice is trusted
LEAST_TISSUE = 0.2  # of the fullest slice's, in a slice that is judged
AIR = 0.1  # of the bright end


def slice_trust(measurement: Measurement, others_XYZ: Tensor, known_XYZ: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Trust in every sample, and the same on the common grid; None where all slices are trusted.

    Args:
        measurement: the scan.
        others_XYZ: what the other scans say, on the common grid.
        known_XYZ: where they say anything.
    """
    scan = measurement.scan
    axis = coarsest_axis(scan.spacing_mm)
    rest = [a for a in range(3) if a != axis]
    samples = scan.data_XYZ
    known = measurement.model(measurement.common).apply(known_XYZ.float()) > 0.99
    expected = measurement.acquired(others_XYZ, refined=False)
    gap = measurement.gap_to(expected)
    tissue = (expected > AIR * quantile(samples, 0.999)) & known & measurement.covered_XYZ
    count_S = tissue.sum(rest)
    judged_S = count_S >= max(LEAST_TISSUE * int(count_S.max()), 1)
    if int(judged_S.sum()) < 5:
        return None, None
    residual_S = ((gap.square() * tissue).sum(rest) / count_S.clamp_min(1)).sqrt()
    signal_S = ((expected.square() * tissue).sum(rest) / count_S.clamp_min(1)).sqrt().clamp_min(1e-6)
    ratio_S = residual_S / signal_S
    usual = float(ratio_S[judged_S].median())
    excess_S = torch.where(judged_S, ratio_S / max(usual, 1e-6) / TOLERATED, 0.0)
    if float(excess_S.max()) <= 1:
        return None, None
    trust_S = torch.where(excess_S > 1, (2 / (1 + excess_S.square())).square(), 1.0)
    trust_XYZ = trust_S.reshape([-1 if a == axis else 1 for a in range(3)]).expand(scan.shape).contiguous()
    return trust_XYZ, trust_on_common(trust_XYZ, scan.grid, measurement.common)


def trust_on_common(trust_XYZ: Tensor, scan: Grid, common: Grid) -> Tensor:
    """The least trust near every voxel of the common grid; 1 outside the scan."""
    positions = axis_positions(scan, common)
    doubt_XYZ = 1 - trust_XYZ
    if positions is None:
        return 1 - ObliqueReading(scan, common).apply(doubt_XYZ)
    for axis, at in enumerate(positions):
        index = torch.tensor(at).round().long().clamp(0, scan.shape[axis] - 1)
        doubt_XYZ = doubt_XYZ.index_select(axis, index)
    return 1 - doubt_XYZ
