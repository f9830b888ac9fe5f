"""Evaluation of one prediction against its reference: grids checked, intensities fitted, every metric, warnings.

Axes: X Y Z voxels of the reference's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.data_consistency import ConsistencySummary
from moediff.acquisition.point_spread import Samplings
from moediff.core.errors import DataError, GeometryError
from moediff.core.geometry import ras_axes
from moediff.core.memory import single_thread
from moediff.core.statistics import picked
from moediff.core.volume import Volume
from moediff.evaluation.alignment import doubts, judged_mask, on_grid, require_same_grid, same_grid
from moediff.evaluation.calibration import Calibration, calibration
from moediff.evaluation.data_consistency import consistency
from moediff.evaluation.intensity_fit import Fit, fit_intensities
from moediff.evaluation.lesions import LesionScores, judge_lesions
from moediff.evaluation.metrics.fidelity import check_pair, data_range, head_mask
from moediff.evaluation.metrics.perceptual import PerceptualWeights, perceptual
from moediff.evaluation.metrics.registry import METRICS, PERCEPTUAL, MetricInput, check_names, compute
from moediff.evaluation.metrics.tissue_volumes import TissueOverlap, compare_tissues
from moediff.evaluation.per_region import Regions, regions_of, score_regions
from moediff.evaluation.records import Evaluation, IntensityFit, JudgedMask, ScanConsistency
from moediff.evaluation.several_scans import InputScan, several_consistency

LEAST_INSIDE = 0.5  # of a given mask that the reference's head should hold
NEEDS_WEIGHTS = "needs network weights, which are not shipped: give --perceptual FILE"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How to judge.

    Args:
        metrics: names from `METRICS`.
        fit: bring the prediction to the reference's intensities first.
        resample: allow a prediction on another grid; it is resampled on the reference's.
        regions: also judge by region of the brain, found by tissue classification of the reference.
        tissues: also classify the tissues of both, for volumes and Dice.
        perceptual: weights for LPIPS and DISTS, which are not computed without.
        trust_intensities: of pairs of files: take for intensities also what looks like labels, a mask or a map.

    Raises:
        ConfigError: an unknown metric, or none.
    """

    metrics: tuple[str, ...] = METRICS
    fit: bool = True
    resample: bool = False
    regions: bool = False
    tissues: bool = False
    perceptual: PerceptualWeights | None = None
    trust_intensities: bool = False

    def __post_init__(self) -> None:
        check_names(self.metrics)


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Volumes that belong to a pair, on the reference's grid unless stated otherwise.

    Args:
        mask: above 0.5 is judged; the reference's head when absent.
        labels: whole numbers; every label's voxels are judged too.
        lesions: outlines, above 0.5; see `evaluation.lesions`.
        uncertainty: standard deviations of the prediction, on its grid and in its intensities.
    """

    mask: Volume | None = None
    labels: Volume | None = None
    lesions: Volume | None = None
    uncertainty: Volume | None = None


def evaluate(
    pred: Volume,
    ref: Volume,
    options: EvaluateOptions | None = None,
    *,
    measured: Volume | Sequence[InputScan] | None = None,
    sampling: Samplings | None = None,
    annotations: Annotations | None = None,
) -> Evaluation:
    """Judge a prediction; returns the record that `moediff evaluate --json` writes.

    Args:
        pred: the prediction, any intensities.
        ref: the truth; its grid and intensities are the scale.
        measured: the low-resolution input, for data consistency; or several, placed or to be registered.
        sampling: how a single one was sampled, R, A, S; None takes what the voxel sizes suggest.
        annotations: where to judge, labels, lesions, uncertainty.

    Raises:
        ConfigError: see `EvaluateOptions` and `several_consistency`.
        GeometryError: grids that differ, or fields of view with little in common.
        DataError: NaN, constant volumes, an empty mask, intensities that cannot be fitted, or see `regions_of` and
            `several_consistency`.
    """
    options, annotations = options or EvaluateOptions(), annotations or Annotations()
    notes: list[str] = []
    missing: dict[str, str] = {}
    resampled, kernel = on_grid(pred, ref.grid, resample=options.resample)
    with single_thread():  # many short steps
        inside = _where(annotations.mask, ref, notes)
        if kernel is not None:
            inside = judged_mask(inside, pred.grid, ref.grid, notes)
        check_pair(resampled.data_XYZ, ref.data_XYZ, inside)
        match, doubtful = doubts(resampled.data_XYZ, ref, inside)
        fit = fit_intensities(*(picked(scan.data_XYZ, inside) for scan in (resampled, ref))) if options.fit else None
        case = MetricInput(
            (fit or Fit()).apply(resampled.data_XYZ.float()),
            ref.data_XYZ.float(),
            inside,
            data_range(ref.data_XYZ, inside),
            ref.spacing_mm,
            ras_axes(ref.affine)[0][2],
        )
    regions = regions_of(ref, annotations.labels) if options.regions or annotations.labels is not None else None
    metrics = compute(case, options.metrics, missing) | _perceptual(case, options, missing)
    overall, each = _consistency(pred, measured, sampling, options, notes)
    x, y, z = (round(s, 5) for s in ref.spacing_mm)
    source = "head of the reference" if annotations.mask is None else "given"
    return Evaluation(
        metrics=metrics,
        data_consistency=overall,
        inputs=each,
        regions=None if regions is None else score_regions(*case.pair, regions),
        tissues=_tissues(case, missing) if options.tissues else None,
        lesions=None if annotations.lesions is None else _lesions(annotations.lesions, ref, case),
        uncertainty=_uncertainty(annotations.uncertainty, pred, ref, case, fit, regions),
        not_computed=missing,
        correlation=match,
        fit=None if fit is None else IntensityFit(gain=fit.gain, offset=fit.offset),
        resampled=kernel,
        mask=JudgedMask(source=source, voxels=int(inside.sum())),
        data_range=case.data_range,
        shape=ref.shape,
        spacing_mm=(x, y, z),
        warnings=(*notes, *doubtful),
    )


def _perceptual(case: MetricInput, options: EvaluateOptions, missing: dict[str, str]) -> dict[str, float]:
    weights = options.perceptual
    if weights is None and options.metrics != METRICS:
        return {}  # who chose metrics does not miss these
    try:
        values = perceptual(*case.pair, case.data_range, weights, axial=case.axial) if weights is not None else {}
    except DataError as error:
        missing.update(dict.fromkeys(PERCEPTUAL, str(error)))
        return {}
    missing.update({name: NEEDS_WEIGHTS for name in PERCEPTUAL if name not in values})
    return values


def _where(mask: Volume | None, ref: Volume, notes: list[str]) -> Tensor:
    """The mask given, or the reference's head; notes when the two have little in common."""
    foreground_XYZ = head_mask(ref.data_XYZ)
    if mask is None:
        return foreground_XYZ
    inside = _read_mask("mask", mask, ref)
    share = int((inside & foreground_XYZ).sum()) / int(inside.sum())
    if share == 0:
        raise DataError("the mask lies wholly outside the reference's head; is it drawn on this scan?")
    if share < LEAST_INSIDE:
        notes.append(f"only {share:.0%} of the mask lies inside the reference's head; is it drawn on this scan?")
    return inside


def _read_mask(what: str, mask: Volume, ref: Volume) -> Tensor:
    require_same_grid(what, mask.grid, ref.grid, "draw it on the reference, or leave it out")
    if not bool(torch.isfinite(mask.data_XYZ).all()):
        raise DataError(f"the {what} holds NaN or infinite values; expected 0 outside and 1 inside")
    inside = mask.data_XYZ > 0.5
    if not bool(inside.any()):
        raise DataError(f"the {what} is empty: no voxel is above 0.5; expected 0 outside and 1 inside")
    return inside


def _lesions(outlines: Volume, ref: Volume, case: MetricInput) -> LesionScores:
    lesion = _read_mask("lesion mask", outlines, ref)
    pred, truth = case.pred_XYZ / case.data_range, case.truth_XYZ / case.data_range
    return judge_lesions(pred, truth, case.mask_XYZ, lesion, case.spacing_mm)


def _tissues(case: MetricInput, missing: dict[str, str]) -> dict[str, TissueOverlap] | None:
    try:
        return compare_tissues(case.pred_XYZ, case.truth_XYZ, case.spacing_mm)
    except DataError as error:
        missing["tissues"] = str(error)
        return None


def _uncertainty(
    sd: Volume | None, pred: Volume, ref: Volume, case: MetricInput, fit: Fit | None, regions: Regions | None
) -> dict[str, Calibration] | None:
    """Calibration of standard deviations, brought to the grid and intensities where the prediction was brought."""
    if sd is None:
        return None
    if not same_grid(sd.grid, pred.grid):
        raise GeometryError("the uncertainty lies on another grid than the prediction; give the map that belongs to it")
    resampled, _ = on_grid(sd, ref.grid, resample=True, kernel="linear")  # splines swing below zero
    spread_XYZ = resampled.data_XYZ.float() * (fit or Fit()).gain
    return calibration(case.pred_XYZ - case.truth_XYZ, spread_XYZ, case.mask_XYZ, regions)


def _consistency(
    pred: Volume,
    measured: Volume | Sequence[InputScan] | None,
    sampling: Samplings | None,
    options: EvaluateOptions,
    notes: list[str],
) -> tuple[ConsistencySummary | None, tuple[ScanConsistency, ...]]:
    """Over all inputs, and with each of several."""
    if measured is None:
        return None, ()
    if not isinstance(measured, Volume):
        several = several_consistency(pred, measured, fit=options.fit)
        notes += several.warnings
        return several.overall, several.scans
    try:
        return consistency(pred, measured, fit=options.fit, sampling=sampling), ()
    except GeometryError as error:
        notes.append(f"data consistency was not computed: {error}")
        return None, ()
