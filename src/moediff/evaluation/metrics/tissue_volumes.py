"""Tissue volumes of prediction and reference after the same classification of both, and their Dice overlap.

Axes: X Y Z voxels of the reference's grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.anatomy.tissue import FLUID, GREY, WHITE, brain_of, tissue_map
from moediff.core.errors import DataError

TISSUES = {"fluid": FLUID, "grey": GREY, "white": WHITE}


@dataclass(frozen=True, kw_only=True)
class TissueOverlap:
    """One tissue: volume in reference and prediction, and Dice."""

    volume_ref_ml: float
    volume_pred_ml: float
    dice: float


def compare_tissues(pred_XYZ: Tensor, truth_XYZ: Tensor, spacing_mm: Sequence[float]) -> dict[str, TissueOverlap]:
    """Volume in both, and Dice, of every tissue.

    Both scans are classified by themselves (`anatomy.tissue`), inside the reference's brain: few methods leave air
    around it at zero.

    Args:
        pred_XYZ, truth_XYZ: fitted prediction and truth.
        spacing_mm: voxel sizes.

    Raises:
        DataError: tissues cannot be separated; names the scan.
    """
    brain = brain_of(truth_XYZ, spacing_mm)
    if brain is None:
        raise DataError("the reference does not look like a skull-stripped brain")
    inside = {"reference": torch.where(brain, truth_XYZ, 0.0), "prediction": torch.where(brain, pred_XYZ, 0.0)}
    tissues = {name: tissue_map(data, spacing_mm) for name, data in inside.items()}
    for name, tissue in tissues.items():
        if tissue is None:
            raise DataError(f"the tissues of the {name} overlap too much to be separated by intensity")
    ref, pred = (tissue for tissue in tissues.values() if tissue is not None)
    return {name: _overlap(pred == number, ref == number, spacing_mm) for name, number in TISSUES.items()}


def _overlap(pred_XYZ: Tensor, ref_XYZ: Tensor, spacing_mm: Sequence[float]) -> TissueOverlap:
    voxel_ml, in_pred, in_ref = math.prod(spacing_mm) / 1000, int(pred_XYZ.sum()), int(ref_XYZ.sum())
    both = int((pred_XYZ & ref_XYZ).sum())
    return TissueOverlap(
        volume_ref_ml=in_ref * voxel_ml,
        volume_pred_ml=in_pred * voxel_ml,
        dice=2 * both / max(in_pred + in_ref, 1),
    )
