"""One prediction against its reference: grids checked, intensities fitted, every metric, and what looks doubtful.

Axes: X Y Z voxels of the reference's grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moediff import RESEARCH_ONLY, __version__
from moediff.errors import ConfigError, DataError, GeometryError
from moediff.evaluation import blind, haar, metrics, similarity, spectrum
from moediff.evaluation.fit import RULE, Fit, fit_intensities
from moediff.evaluation.lesions import judge_lesions
from moediff.evaluation.metrics import check_pair, head_mask
from moediff.evaluation.pairing import doubts, judged_mask, on_grid, require_same_grid
from moediff.evaluation.parts import by_part, named_parts
from moediff.evaluation.remeasure import consistency
from moediff.volume.volume import Volume


@dataclass(frozen=True)
class Case:
    """What metrics see: prediction (fitted) and truth on one grid, where to judge, L, and voxel size."""

    pred_XYZ: Tensor
    truth_XYZ: Tensor
    mask_XYZ: Tensor
    data_range: float
    spacing_mm: tuple[float, float, float]

    @property
    def pair(self) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction, truth and mask."""
        return self.pred_XYZ, self.truth_XYZ, self.mask_XYZ


METRICS: dict[str, Callable[[Case], float]] = {
    "psnr": lambda c: metrics.psnr(*c.pair, c.data_range),
    "nrmse": lambda c: metrics.nrmse(*c.pair),
    "ssim": lambda c: metrics.ssim(*c.pair, c.data_range),
    "ms_ssim": lambda c: similarity.ms_ssim(*c.pair, c.data_range),
    "haarpsi": lambda c: haar.haarpsi(*c.pair, c.data_range, haar.STANDARD),
    "haarpsi_med": lambda c: haar.haarpsi(*c.pair, c.data_range, haar.MEDICAL),
    "gmsd": lambda c: similarity.gmsd(*c.pair, c.data_range),
    "vif": lambda c: similarity.vif(*c.pair, c.data_range),
    "hf_ratio": lambda c: spectrum.high_frequency_ratio(*c.pair),
    "spectral_distance_db": lambda c: spectrum.radial_spectral_distance(*c.pair),
    "sharpness": lambda c: blind.sharpness(c.pred_XYZ, c.mask_XYZ, c.spacing_mm),
    "sharpness_ref": lambda c: blind.sharpness(c.truth_XYZ, c.mask_XYZ, c.spacing_mm),
    "noise": lambda c: blind.noise(c.pred_XYZ, c.mask_XYZ, c.data_range),
    "noise_ref": lambda c: blind.noise(c.truth_XYZ, c.mask_XYZ, c.data_range),
}


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How to judge.

    Args:
        metrics: names from `METRICS`.
        fit: bring the prediction to the reference's intensities first.
        resample: allow a prediction on another grid; it is resampled on the reference's.
        regions: also judge by region of the brain, found by tissue classification of the reference.

    Raises:
        ConfigError: an unknown metric, or none.
    """

    metrics: tuple[str, ...] = tuple(METRICS)
    fit: bool = True
    resample: bool = False
    regions: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise ConfigError(f"no metric called {(unknown or [''])[0]!r}; choose from {', '.join(METRICS)}")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Volumes drawn on the reference's grid.

    Args:
        mask: above 0.5 is judged; the reference's head when absent.
        labels: whole numbers; every label's voxels are judged too.
        lesions: outlines, above 0.5; see `evaluation.lesions`.
    """

    mask: Volume | None = None
    labels: Volume | None = None
    lesions: Volume | None = None


def evaluate(
    pred: Volume,
    ref: Volume,
    options: EvaluateOptions | None = None,
    *,
    measured: Volume | None = None,
    drawn: Drawn | None = None,
) -> dict[str, Any]:
    """Judge a prediction; returns the record that is written as JSON.

    Args:
        pred: the prediction, any intensities.
        ref: the truth; its grid and intensities are the scale.
        measured: the low-resolution input, for data consistency.
        drawn: where to judge, labels, lesions.

    Raises:
        ConfigError: see `EvaluateOptions`.
        GeometryError: grids that differ, or fields of view with little in common.
        DataError: NaN, constant volumes, an empty mask, intensities that cannot be fitted, or see `named_parts`.
    """
    options, drawn = options or EvaluateOptions(), drawn or Drawn()
    notes: list[str] = []
    landed, how = on_grid(pred, ref.grid, resample=options.resample)
    inside = head_mask(ref.data_XYZ) if drawn.mask is None else _read_mask("mask", drawn.mask, ref)
    if how is not None:
        inside = judged_mask(inside, pred.grid, ref.grid, notes)
    check_pair(landed.data_XYZ, ref.data_XYZ, inside)
    alike, found = doubts(landed.data_XYZ, ref, inside)
    fit = fit_intensities(landed.data_XYZ[inside], ref.data_XYZ[inside]) if options.fit else None
    case = Case(
        (fit or Fit()).apply(landed.data_XYZ.float()), ref.data_XYZ.float(), inside,
        metrics.data_range(ref.data_XYZ, inside), ref.spacing_mm,
    )  # fmt: skip
    parts = named_parts(ref, drawn.labels) if options.regions or drawn.labels is not None else None
    record = {
        "metrics": {name: METRICS[name](case) for name in options.metrics},
        "consistency": _consistency(pred, measured, options, notes),
        "parts": None if parts is None else by_part(*case.pair, parts),
        "lesions": None if drawn.lesions is None else _lesions(drawn.lesions, ref, case),
        "correlation": alike,
        "fit": None if fit is None else {"rule": RULE, "gain": fit.gain, "offset": fit.offset},
        "resampled": how,
        "mask": {"source": "head of the reference" if drawn.mask is None else "given", "voxels": int(inside.sum())},
        "data_range": case.data_range,
        "shape": list(ref.shape),
        "spacing_mm": [round(s, 5) for s in ref.spacing_mm],
    }
    return record | {"warnings": [*notes, *found], "moediff": __version__, "note": RESEARCH_ONLY}


def _read_mask(what: str, mask: Volume, ref: Volume) -> Tensor:
    require_same_grid(what, mask.grid, ref.grid, "draw it on the reference, or leave it out")
    if not bool(torch.isfinite(mask.data_XYZ).all()):
        raise DataError(f"the {what} holds NaN or infinite values; expected 0 outside and 1 inside")
    inside = mask.data_XYZ > 0.5
    if not bool(inside.any()):
        raise DataError(f"the {what} is empty: no voxel is above 0.5; expected 0 outside and 1 inside")
    return inside


def _lesions(outlines: Volume, ref: Volume, case: Case) -> dict[str, object]:
    lesion = _read_mask("lesion mask", outlines, ref)
    pred, truth = case.pred_XYZ / case.data_range, case.truth_XYZ / case.data_range
    return judge_lesions(pred, truth, case.mask_XYZ, lesion, case.spacing_mm)


def _consistency(
    pred: Volume, measured: Volume | None, options: EvaluateOptions, notes: list[str]
) -> dict[str, object] | None:
    if measured is None:
        return None
    try:
        return consistency(pred, measured, fit=options.fit)
    except GeometryError as error:
        notes.append(f"data consistency was not computed: {error}")
        return None
