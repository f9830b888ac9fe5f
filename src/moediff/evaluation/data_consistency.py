"""Data consistency of any prediction: its difference from the measured scan when it is acquired again."""

from __future__ import annotations

from moediff.acquisition.data_consistency import ConsistencySummary, Discrepancy, discrepancy
from moediff.acquisition.point_spread import Samplings
from moediff.acquisition.prepare import PrepareSettings, prepare
from moediff.core.geometry import are_parallel
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.evaluation.intensity_fit import fit_intensities
from moediff.inference.grid_plan import move_to_grid, working_grid


def discrepancy_of(pred: Volume, measured: Volume, *, fit: bool, sampling: Samplings | None = None) -> Discrepancy:
    """The prediction acquired again against a scan with parallel axes; see `consistency`."""
    covered = pred
    if are_parallel(measured.grid, pred.grid):
        # Beyond what was measured nothing is contradicted.
        covered = move_to_grid(pred, working_grid(measured.grid, pred.grid))
    prepared = prepare(measured, covered.grid, PrepareSettings(kernel="cubic"), sampling=sampling)
    data_XYZ = prepared.scaling.apply(covered.data_XYZ.float())
    if fit:
        target = prepared.source.data_XYZ
        tissue = target > 0.05 * quantile(target, 0.999)
        data_XYZ = fit_intensities(prepared.acquisition.apply(data_XYZ)[tissue], target[tissue]).apply(data_XYZ)
    return discrepancy(data_XYZ, prepared)


def consistency(pred: Volume, measured: Volume, *, fit: bool, sampling: Samplings | None = None) -> ConsistencySummary:
    """RMS discrepancy over the measured scan's range, its noise likewise, and the acquisition assumed per axis.

    0.. , lower is better; about the noise is right, far below it the noise was copied (Irani & Peleg 1991). The
    acquisition is guessed from voxel sizes, as for enhancement.

    Args:
        pred: prediction on its own grid, whose axes must be parallel to the measured scan's.
        measured: the low-resolution input.
        fit: bring the re-acquired prediction to the measured intensities first (`evaluation.intensity_fit`).
        sampling: how the scan was sampled, R, A, S; None takes what the voxel sizes suggest.

    Raises:
        GeometryError: the axes are not parallel.
        DataError: no head in the measured scan, or intensities that cannot be fitted.
    """
    return discrepancy_of(pred, measured, fit=fit, sampling=sampling).summary()


def residual_map(pred: Volume, measured: Volume, *, sampling: Samplings | None = None) -> Volume:
    """The prediction acquired again minus the measured scan, on the measured scan's grid.

    Args:
        pred, measured: as in `consistency`.
        sampling: how the scan was sampled, R, A, S; None takes what the voxel sizes suggest.

    Raises:
        GeometryError: the axes are not parallel.
        DataError: no head in the measured scan.
    """
    return discrepancy_of(pred, measured, fit=False, sampling=sampling).residual()
