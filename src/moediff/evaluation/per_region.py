"""Errors part by part: regions of the brain, or the labels of a map.

Axes: X Y Z voxels of the reference's grid, N parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

from moediff.anatomy.regions import REGIONS, scan_regions
from moediff.anatomy.synthesis import whole_numbers
from moediff.core.errors import DataError
from moediff.core.memory import single_thread
from moediff.core.statistics import mean, picked
from moediff.core.volume import Volume
from moediff.evaluation.alignment import require_same_grid
from moediff.evaluation.metrics.fidelity import data_range, nrmse, psnr, ssim_map

LEAST_VOXELS = 100  # smaller parts say nothing
MOST_PARTS = 256

Parts: TypeAlias = "tuple[Tensor, Mapping[int, str]]"  # number of every voxel's part, and their names


def named_parts(ref: Volume, labels: Volume | None) -> Parts:
    """Number of every voxel's part [X, Y, Z], and names; the labels given, or regions by tissue classification.

    Args:
        ref: the reference; skull-stripped and of plain contrast where no labels are given.
        labels: whole numbers on the reference's grid, 0 outside.

    Raises:
        GeometryError: labels on another grid.
        DataError: labels that are no whole numbers, or more than 256 of them; a reference without distinct tissues.
    """
    if labels is None:
        regions = scan_regions(ref.data_XYZ, ref.spacing_mm)
        if regions is None:
            raise DataError(
                "the reference's regions cannot be told apart; expected a skull-stripped scan with clear grey and "
                "white matter: give --labels, or leave --regions out"
            )
        return regions.long(), dict(enumerate(REGIONS))
    require_same_grid("label map", labels.grid, ref.grid, "draw it on the reference, or leave it out")
    numbers = whole_numbers(labels.data_XYZ)
    found = [int(n) for n in numbers.unique() if n != 0]
    if not 0 < len(found) <= MOST_PARTS:
        raise DataError(f"the label map holds {len(found)} labels; expected 1 to {MOST_PARTS}")
    return numbers.long(), {number: str(number) for number in found}


def by_part(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, parts: Parts) -> dict[str, dict[str, float]]:
    """PSNR, SSIM and NRMSE of every part inside the mask that has 100 voxels or more.

    L and SSIM's windows are those of the whole mask, so parts can be compared with each other and with the whole.

    Args:
        pred_XYZ, truth_XYZ: fitted prediction and truth.
        mask_XYZ: where to judge.
        parts: see `named_parts`.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a constant truth.
    """
    number_XYZ, names = parts
    top = data_range(truth_XYZ, mask_XYZ)
    found = {}
    with single_thread():  # many short steps
        alike = ssim_map(pred_XYZ, truth_XYZ, mask_XYZ, top)
        for number, name in names.items():
            part = mask_XYZ & (number_XYZ == number)
            if int(part.sum()) >= LEAST_VOXELS:
                found[name] = {
                    "voxels": int(part.sum()),
                    "psnr": psnr(pred_XYZ, truth_XYZ, part, top),
                    "ssim": mean(picked(alike, part)),
                    "nrmse": nrmse(pred_XYZ, truth_XYZ, part),
                }
    return found
