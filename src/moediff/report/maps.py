"""Maps that can be laid over the enhanced scan, as 8-bit layers.

Axes: X Y Z voxels (RAS+), E experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from moediff.core.volume import Grid
from moediff.report.canvas import EXPERT_COLOURS
from moediff.report.data import ReportScans
from moediff.report.layers import Frame, Layer, nearest, quantiles, to_bytes

TOP_QUANTILE = 0.995  # of a map; brighter voxels look like this one
MIN_WEIGHT = 0.05  # summed gate weight below which no expert worked
LESION_COLOUR = "#D55E00"
ALONE = "changed by one expert alone: "


def _top(data_XYZ: Tensor) -> float:
    return max(quantiles(data_XYZ.abs().nan_to_num(0.0), TOP_QUANTILE)[0], 1e-12)


def _heat(key: str, title: str, size_XYZ: Tensor) -> Layer:
    """A map of sizes from 0 to its own highest."""
    top = _top(size_XYZ)
    return Layer(key, title, to_bytes(size_XYZ, 0, top), 0, top)


def _signed(key: str, title: str, change_XYZ: Tensor, top: float = 0.0) -> Layer:
    """A map of changes from -`top` to `top`, or to its own furthest; none is 128."""
    top = top or _top(change_XYZ)
    scaled = (change_XYZ.float() * (127 / top)).nan_to_num_(0.0).round_().clamp_(-127, 127)
    return Layer(key, title, (scaled + 128).to(torch.uint8), -top, top, signed=True)


def _expert_labels(gate_XYZE: Tensor) -> Tensor:
    """The strongest expert's number from 1, 0 where none worked; uint8."""
    best = gate_XYZE.argmax(-1).to(torch.uint8) + 1
    return best * (gate_XYZE.sum(-1) > MIN_WEIGHT)


def _expert_map(scans: ReportScans, gate_XYZE: Tensor, cut: Frame) -> Layer:
    labels = _expert_labels(cut.box(gate_XYZE))
    colours = (EXPERT_COLOURS[i % len(EXPERT_COLOURS)] for i in range(gate_XYZE.shape[3]))
    named = tuple(zip(scans.expert_names, colours, strict=False))
    return Layer("experts", "which expert", labels, 0, len(named), named)


def _alone(scans: ReportScans, changed_XYZE: Tensor, cut: Frame) -> Iterator[Layer]:
    """What each expert alone would have changed, all in one scale."""
    changes = cut.box(changed_XYZE).float().unbind(-1)
    top = max(_top(change) for change in changes)
    for index, (name, change) in enumerate(zip(scans.expert_names, changes, strict=False)):
        yield _signed(f"alone{index + 1}", f"{ALONE}{name}", change, top)


def maps(scans: ReportScans, cut: Frame, grid: Grid) -> list[Layer]:
    """Every map there is.

    Args:
        cut: the box around the enhanced head.
        grid: the box's grid.
    """
    found = []
    if scans.uncertainty_XYZ is not None:
        spread = cut.cut(scans.enhanced.with_data(scans.uncertainty_XYZ.float())).data_XYZ
        found.append(_heat("uncertainty", "uncertainty", spread))
    if scans.gate_XYZE is not None:
        found.append(_expert_map(scans, scans.gate_XYZE, cut))
    if scans.interpolated is not None:
        change = cut.cut(scans.enhanced).data_XYZ - cut.cut(scans.interpolated).data_XYZ
        found.append(_signed("change", "what was changed", change))
    if scans.changed_XYZE is not None:
        found.extend(_alone(scans, scans.changed_XYZE, cut))
    if scans.residual is not None:
        gap = nearest(scans.residual, grid, outside=0.0)
        found.append(_signed("residual", "disagreement with the input", gap))
    if scans.lesions is not None:
        outlined = (nearest(scans.lesions, grid, outside=0.0) > 0.5).to(torch.uint8)
        found.append(Layer("lesions", "outlined lesions", outlined, 0, 1, (("outlined lesion", LESION_COLOUR),)))
    return found
