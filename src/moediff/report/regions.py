"""Regions of a report: which expert worked where, what it changed, and how uncertain each region is.

Axes: X Y Z voxels, E experts, N voxels where an expert worked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moediff.core.geometry import field_of_view_mask, resample
from moediff.report.data import ReportScans
from moediff.report.layers import EXPERT_COLOURS, quantiles
from moediff.report.maps import MIN_WEIGHT
from moediff.report.sanitise import one_line

THIN = 2  # voxels
RANGE = (0.0, 0.999)  # quantiles between which the scan's intensity range lies
MOST = 0.95  # of a region's voxels are no more unsure than its second number
MEANT_FOR = {
    "deep white matter": "white matter deep in the brain, which is even and should stay smooth",
    "cortex": "the folded rim of grey matter, with its narrow furrows",
    "junction": "the border between grey and white matter",
    "rest": "all else: fluid, deep grey matter, skull, air",
}


@dataclass(frozen=True)
class Expert:
    """What one expert did.

    Args:
        name, colour: as everywhere on the page.
        meant_for: in plain words; empty for experts of other models.
        share: of the enhanced voxels, by weight; 0..1.
        changed: mean change where it weighed most, over the scan's intensity range; None without the input.
        apart: mean distance there between its own answer and the result, likewise; None without its answers.
    """

    name: str
    colour: str
    meant_for: str
    share: float
    changed: float | None = None
    apart: float | None = None


@dataclass(frozen=True)
class Region:
    """How unsure a part of the scan is, over the scan's intensity range.

    Args:
        name: of the part.
        share: of the head, 0..1.
        unsure: mean standard deviation.
        most: 95 % of its voxels have no larger one.
        wrong: mean absolute difference from the truth; None without one, or where it was not measured.
    """

    name: str
    share: float
    unsure: float
    most: float
    wrong: float | None = None


def _thin(data: Tensor) -> Tensor:
    """Every second voxel along each axis: means of millions of voxels need no more."""
    return data[::THIN, ::THIN, ::THIN].float()


def _range(scans: ReportScans) -> float:
    low, high = quantiles(_thin(scans.enhanced.data_XYZ), *RANGE)
    return max(high - low, 1e-12)


def experts(scans: ReportScans) -> list[Expert]:
    """Shares, and what happened where each expert weighed most."""
    if scans.gate_XYZE is None:
        return []
    gate_XYZE = _thin(scans.gate_XYZE)
    inside = gate_XYZE.sum(-1) > MIN_WEIGHT
    gate_NE = gate_XYZE[inside]
    count = gate_NE.shape[1]
    share_E = gate_NE.sum(0) / gate_NE.sum().clamp_min(1e-12)
    best_N = gate_NE.argmax(-1)
    voxels_E = torch.bincount(best_N, minlength=count).clamp_min(1) * _range(scans)
    differences: dict[str, Tensor] = {}
    if scans.interpolated is not None:
        change_N = (_thin(scans.enhanced.data_XYZ) - _thin(scans.interpolated.data_XYZ))[inside]
        differences["changed"] = change_N.abs()
        if scans.changed_XYZE is not None:
            own_NE = _thin(scans.changed_XYZE)[inside]
            differences["apart"] = (own_NE.gather(1, best_N[:, None])[:, 0] - change_N).abs()
    means = {what: torch.bincount(best_N, values, minlength=count) / voxels_E for what, values in differences.items()}
    return [
        Expert(
            one_line(name),
            EXPERT_COLOURS[i % len(EXPERT_COLOURS)],
            MEANT_FOR.get(name, ""),
            float(share_E[i]),
            **{what: float(mean_E[i]) for what, mean_E in means.items()},
        )
        for i, name in enumerate(scans.expert_names[:count])
    ]


def _parts(scans: ReportScans, worked_XYZ: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names and masks on thinned voxels: the head, where each expert weighed most, outlined lesions."""
    yield "whole head", worked_XYZ
    if scans.gate_XYZE is not None:
        gate_XYZE = _thin(scans.gate_XYZE)
        best_XYZ = gate_XYZE.argmax(-1).masked_fill(gate_XYZE.sum(-1) <= MIN_WEIGHT, -1)
        for index, name in enumerate(scans.expert_names[: gate_XYZE.shape[-1]]):
            yield name, (best_XYZ == index) & worked_XYZ
    if scans.lesions is not None:
        grid = scans.enhanced.grid
        lesion_XYZ = (
            _thin(resample(scans.lesions, grid, "linear").data_XYZ * field_of_view_mask(scans.lesions.grid, grid)) > 0.5
        )
        yield "outlined lesions", lesion_XYZ & worked_XYZ


def _gap(scans: ReportScans) -> Tensor:
    """How far the result is from the truth, on thinned voxels; NaN where no truth is known."""
    if scans.shown_truth is None:
        return torch.full_like(_thin(scans.enhanced.data_XYZ), torch.nan)
    gap_XYZ = (_thin(scans.enhanced.data_XYZ) - _thin(scans.shown_truth.data_XYZ)).abs()
    seen_XYZ = scans.truth_seen_XYZ
    return gap_XYZ if seen_XYZ is None else gap_XYZ.masked_fill(_thin(seen_XYZ) == 0, torch.nan)


def regions(scans: ReportScans) -> list[Region]:
    """Uncertainty of every part; empty without an uncertainty."""
    if scans.uncertainty_XYZ is None:
        return []
    size = _range(scans)
    spread_XYZ = _thin(scans.uncertainty_XYZ).nan_to_num(0.0)
    worked_XYZ = spread_XYZ > 0  # zero where the network did not work
    gap_XYZ = _gap(scans)
    rows = []
    for name, part_XYZ in _parts(scans, worked_XYZ):
        spread_N = spread_XYZ[part_XYZ].numpy() / size
        if len(spread_N):
            wrong = float(gap_XYZ[part_XYZ].nanmean()) / size
            rows.append(
                Region(
                    one_line(name),
                    len(spread_N) / int(worked_XYZ.sum()),
                    float(spread_N.mean()),
                    float(np.quantile(spread_N, MOST)),
                    None if math.isnan(wrong) else wrong,
                )
            )
    return rows
