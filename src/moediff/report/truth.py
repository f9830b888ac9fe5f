"""The truth beside a result: intensities fitted by the rule of `moediff evaluate`, and doubts that both show one head.

Axes: X Y Z voxels of the result's grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.core.errors import DataError, GeometryError
from moediff.core.geometry import field_of_view_mask, resample
from moediff.core.statistics import picked
from moediff.core.volume import Grid, Volume
from moediff.evaluation.alignment import doubts
from moediff.evaluation.intensity_fit import Fit, fit_intensities
from moediff.evaluation.metrics.fidelity import Scores, check_pair, head_mask, score
from moediff.report.layers import air

NOT_FITTED = (
    "its intensities were compared as they are, since no gain and offset bring the result's to them: "
    "another contrast or another head?"
)


def measured_on(what: str, volume: Volume, grid: Grid) -> Tensor:
    """Where on a grid a scan was measured.

    Raises:
        GeometryError: nowhere.
    """
    seen_XYZ = field_of_view_mask(volume.grid, grid)
    if not bool(seen_XYZ.any()):
        raise GeometryError(
            f"the {what} lies wholly outside the enhanced scan, expected the same part of one head: name the right file"
        )
    return seen_XYZ


def truth_on(truth: Volume, grid: Grid) -> tuple[Volume, Tensor | None]:
    """The truth on the enhanced grid, and where it was measured (None: everywhere); elsewhere it holds air."""
    seen_XYZ, read = measured_on("truth", truth, grid), resample(truth, grid)
    if bool(seen_XYZ.all()):
        return read, None
    return read.with_data(read.data_XYZ.masked_fill(~seen_XYZ, air(truth))), seen_XYZ


def judged_on(truth: Volume, seen_XYZ: Tensor | None) -> Tensor:
    """Where scans are compared with a truth: in its head, as far as it was measured."""
    inside_XYZ = head_mask(truth.data_XYZ.float())
    return inside_XYZ if seen_XYZ is None else inside_XYZ & seen_XYZ


def fit_to_truth(scan: Volume, truth: Volume, seen_XYZ: Tensor | None) -> tuple[Fit, tuple[str, ...]]:
    """Gain and offset that bring a scan to the truth's intensities, and what looks doubtful about the two.

    Raises:
        DataError, GeometryError: the two cannot be compared.
    """
    inside = judged_on(truth, seen_XYZ)
    check_pair(scan.data_XYZ, truth.data_XYZ, inside)
    notes: list[str] = []
    try:
        notes = doubts(scan.data_XYZ, truth, inside)[1]
        return fit_intensities(picked(scan.data_XYZ, inside), picked(truth.data_XYZ, inside)), tuple(notes)
    except DataError:
        return Fit(), (*notes, NOT_FITTED)


def in_units_of_result(truth: Volume, fit: Fit) -> Volume:
    """The truth in the intensities of the scan that was fitted to it."""
    return truth.with_data((truth.data_XYZ - fit.offset) / fit.gain)


def score_fitted(scan: Volume, fit: Fit, truth: Volume, seen_XYZ: Tensor | None) -> Scores:
    """Agreement of a scan with the truth, in the truth's intensities.

    Raises:
        DataError, GeometryError: the two cannot be compared.
    """
    data_XYZ, truth_XYZ = fit.apply(scan.data_XYZ.float()), truth.data_XYZ.float()
    if seen_XYZ is not None:  # else windows of SSIM would see beyond it
        data_XYZ = torch.where(seen_XYZ, data_XYZ, truth_XYZ)
    return score(data_XYZ, truth_XYZ, judged_on(truth, seen_XYZ))
