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


def evaluate(
    pred: Volume,
    ref: Volume,
    options: EvaluateOptions | None = None,
    *,
    mask: Volume | None = None,
    measured: Volume | None = None,
    labels: Volume | None = None,
) -> dict[str, Any]:
    """Judge a prediction; returns the record that is written as JSON.

    Args:
        pred: the prediction, any intensities.
        ref: the truth; its grid and intensities are the scale.
        mask: on the reference's grid, above 0.5 is judged; the reference's head when absent.
        measured: the low-resolution input, for data consistency.
        labels: whole numbers on the reference's grid; judges every label's voxels.

    Raises:
        ConfigError: see `EvaluateOptions`.
        GeometryError: grids that differ, or fields of view with little in common.
        DataError: NaN, constant volumes, an empty mask, intensities that cannot be fitted, or see `named_parts`.
    """
    options = options or EvaluateOptions()
    notes: list[str] = []
    landed, how = on_grid(pred, ref.grid, resample=options.resample)
    inside = head_mask(ref.data_XYZ) if mask is None else _read_mask(mask, ref)
    if how is not None:
        inside = judged_mask(inside, pred.grid, ref.grid, notes)
    check_pair(landed.data_XYZ, ref.data_XYZ, inside)
    alike, found = doubts(landed.data_XYZ, ref, inside)
    fit = fit_intensities(landed.data_XYZ[inside], ref.data_XYZ[inside]) if options.fit else None
    case = Case(
        (fit or Fit()).apply(landed.data_XYZ.float()), ref.data_XYZ.float(), inside,
        metrics.data_range(ref.data_XYZ, inside), ref.spacing_mm,
    )  # fmt: skip
    parts = named_parts(ref, labels) if options.regions or labels is not None else None
    record = {
        "metrics": {name: METRICS[name](case) for name in options.metrics},
        "consistency": _consistency(pred, measured, options, notes),
        "parts": None if parts is None else by_part(*case.pair, parts),
        "correlation": alike,
        "fit": None if fit is None else {"rule": RULE, "gain": fit.gain, "offset": fit.offset},
        "resampled": how,
        "mask": {"source": "head of the reference" if mask is None else "given", "voxels": int(inside.sum())},
        "data_range": case.data_range,
        "shape": list(ref.shape),
        "spacing_mm": [round(s, 5) for s in ref.spacing_mm],
    }
    return record | {"warnings": [*notes, *found], "moediff": __version__, "note": RESEARCH_ONLY}


def _read_mask(mask: Volume, ref: Volume) -> Tensor:
    require_same_grid("mask", mask.grid, ref.grid, "draw it on the reference, or leave it out")
    if not bool(torch.isfinite(mask.data_XYZ).all()):
        raise DataError("the mask holds NaN or infinite values; expected 0 outside and 1 inside")
    inside = mask.data_XYZ > 0.5
    if not bool(inside.any()):
        raise DataError("the mask is empty: no voxel is above 0.5; expected 0 outside and 1 inside")
    return inside


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
