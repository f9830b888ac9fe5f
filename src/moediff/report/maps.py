"""Maps that can be laid over the enhanced scan, as 8-bit layers.

Axes: X Y Z voxels (RAS+), E experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from moediff.report.canvas import EXPERT_COLOURS
from moediff.report.layers import Frame, Layer, nearest, quantiles, to_bytes
from moediff.report.scans import ReportScans
from moediff.volume.geometry import canonicalise, crop
from moediff.volume.volume import Grid

TOP_QUANTILE = 0.995  # of a map; brighter voxels look like this one
MIN_WEIGHT = 0.05  # summed gate weight below which no expert worked
LESION_COLOUR = "#D55E00"


def _heat(key: str, title: str, size_XYZ: Tensor, top: float = 0.0) -> Layer:
    """A map of sizes from 0 to `top`, or to its own highest."""
    top = max(top or quantiles(size_XYZ.nan_to_num(0.0), TOP_QUANTILE)[0], 1e-12)
    return Layer(key, title, to_bytes(size_XYZ, 0, top), 0, top)


def _expert_labels(gate_XYZE: Tensor) -> Tensor:
    """The strongest expert's number from 1, 0 where none worked; uint8."""
    best = gate_XYZE.argmax(-1).to(torch.uint8) + 1
    return best * (gate_XYZE.sum(-1) > MIN_WEIGHT)


def _expert_map(scans: ReportScans, gate_XYZE: Tensor, cut: Frame) -> Layer:
    labels = _expert_labels(cut.box(gate_XYZE))
    place = crop(scans.enhanced, cut.start, cut.shape)
    colours = (EXPERT_COLOURS[i % len(EXPERT_COLOURS)] for i in range(gate_XYZE.shape[3]))
    named = tuple(zip(scans.expert_names, colours, strict=False))
    return Layer("experts", "which expert", canonicalise(place.with_data(labels))[0].data_XYZ, 0, len(named), named)


def _alone(scans: ReportScans, changed_XYZE: Tensor, cut: Frame) -> Iterator[Layer]:
    """What each expert alone would have changed, all in one scale."""
    place = crop(scans.enhanced, cut.start, cut.shape)
    sizes = [canonicalise(place.with_data(c.abs()))[0].data_XYZ for c in cut.box(changed_XYZE).float().unbind(-1)]
    top = max(quantiles(size, TOP_QUANTILE)[0] for size in sizes)
    for index, (name, size) in enumerate(zip(scans.expert_names, sizes, strict=False)):
        yield _heat(f"alone{index + 1}", f"changed by {name} alone", size, top)


def maps(scans: ReportScans, cut: Frame, grid: Grid) -> list[Layer]:
    """Every map there is.

    Args:
        cut: the box around the enhanced head.
        grid: the box's canonical grid.
    """
    found = []
    if scans.uncertainty_XYZ is not None:
        spread = cut.cut(scans.enhanced.with_data(scans.uncertainty_XYZ.float())).data_XYZ
        found.append(_heat("uncertainty", "uncertainty", spread))
    if scans.gate_XYZE is not None:
        found.append(_expert_map(scans, scans.gate_XYZE, cut))
    if scans.interpolated is not None:
        change = cut.cut(scans.enhanced).data_XYZ - cut.cut(scans.interpolated).data_XYZ
        found.append(_heat("change", "what was changed", change.abs_()))
    if scans.changed_XYZE is not None:
        found.extend(_alone(scans, scans.changed_XYZE, cut))
    if scans.residual is not None:
        gap = nearest(scans.residual, grid, outside=0.0).abs()
        found.append(_heat("residual", "disagreement with the input", gap))
    if scans.lesions is not None:
        outlined = (nearest(scans.lesions, grid, outside=0.0) > 0.5).to(torch.uint8)
        found.append(Layer("lesions", "outlined lesions", outlined, 0, 1, (("outlined lesion", LESION_COLOUR),)))
    return found
