"""Maps that can be laid over the enhanced scan, as 8-bit layers.

Axes: X Y Z voxels (RAS+), E experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.morphology import dilated, eroded, filled
from moediff.core.volume import Grid
from moediff.report.data import ReportScans
from moediff.report.layers import EXPERT_COLOURS, DisplayBox, Layer, nearest, quantiles, to_bytes
from moediff.report.several_scans import scan_layers

TOP_QUANTILE = 0.995  # of a map; brighter voxels look like this one
MIN_WEIGHT = 0.05  # summed gate weight below which no expert worked
HEAD_BLOCK = 2  # voxels
LESION_COLOUR = "#D55E00"
LARGEST = "each place has the colour of the expert whose gate weight is the largest there"
SINGLE_EXPERT = "change by a single expert: "


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


def expert_labels(gate_XYZE: Tensor) -> Tensor:
    """The number of the expert of the largest weight from 1, 0 where none worked; uint8.

    Weights are means over 3 x 3 x 3 voxels: the gate decides for blocks, whose steps are not anatomy.
    """
    best_XYZ = torch.zeros(gate_XYZE.shape[:3], dtype=torch.uint8, device=gate_XYZE.device)
    most_XYZ = torch.full_like(best_XYZ, -1, dtype=torch.float32)
    for number, weight_XYZ in enumerate(gate_XYZE.unbind(-1), 1):
        smooth_XYZ = F.avg_pool3d(weight_XYZ[None].float(), 3, 1, 1, count_include_pad=False)[0]
        best_XYZ[smooth_XYZ > most_XYZ] = number
        most_XYZ = torch.maximum(most_XYZ, smooth_XYZ)
    return best_XYZ * (gate_XYZE.sum(-1) > MIN_WEIGHT)


def head_mask(enhanced_XYZ: Tensor, air_below: float) -> Tensor:
    """The head, its cisterns and a rim, on blocks of 2 x 2 x 2 voxels; single bright voxels of air do not count."""
    x, y, z = enhanced_XYZ.shape
    thin_XYZ = enhanced_XYZ[::HEAD_BLOCK, ::HEAD_BLOCK, ::HEAD_BLOCK] > air_below
    inside_XYZ = filled(dilated(eroded(thin_XYZ, 1), 2))
    for axis in range(3):
        inside_XYZ = inside_XYZ.repeat_interleave(HEAD_BLOCK, axis)
    return inside_XYZ[:x, :y, :z]


def _expert_map(scans: ReportScans, gate_XYZE: Tensor, box: DisplayBox, air_below: float) -> Layer:
    """Left out in the air around the head, where there is nothing to tell."""
    labels = expert_labels(box.crop_data(gate_XYZE)) * head_mask(box.crop_volume(scans.enhanced).data_XYZ, air_below)
    colours = (EXPERT_COLOURS[i % len(EXPERT_COLOURS)] for i in range(gate_XYZE.shape[3]))
    named = tuple(zip(scans.expert_names, colours, strict=False))
    return Layer("experts", "expert of the largest weight", labels, 0, len(named), named, note=LARGEST)


def _single_experts(scans: ReportScans, changed_XYZE: Tensor, box: DisplayBox) -> Iterator[Layer]:
    """What each expert alone would have changed, all in one scale."""
    changes = box.crop_data(changed_XYZE).float().unbind(-1)
    top = max(_top(change) for change in changes)
    for index, (name, change) in enumerate(zip(scans.expert_names, changes, strict=False)):
        yield _signed(f"single{index + 1}", f"{SINGLE_EXPERT}{name}", change, top)


def maps(scans: ReportScans, box: DisplayBox, grid: Grid, air_below: float) -> list[Layer]:
    """Every map there is.

    Args:
        box: the box around the enhanced head.
        grid: the box's grid.
        air_below: intensity below which lies air.
    """
    layers = []
    if scans.uncertainty_XYZ is not None:
        spread = box.crop_volume(scans.enhanced.with_data(scans.uncertainty_XYZ.float())).data_XYZ
        layers.append(_heat("uncertainty", "uncertainty", spread))
    if scans.gate_XYZE is not None:
        layers.append(_expert_map(scans, scans.gate_XYZE, box, air_below))
    if scans.interpolated is not None:
        change = box.crop_volume(scans.enhanced).data_XYZ - box.crop_volume(scans.interpolated).data_XYZ
        layers.append(_signed("change", "what was changed", change))
    if scans.changed_XYZE is not None:
        layers.extend(_single_experts(scans, scans.changed_XYZE, box))
    if scans.residual is not None:
        gap = nearest(scans.residual, grid, outside=0.0)
        layers.append(_signed("residual", "disagreement with the input", gap))
    layers.extend(scan_layers(scans.shares, box, grid))
    if scans.guide is not None:
        layers.append(_signed("guide", "from the guide", box.crop_data(scans.guide.correction_XYZ)))
    if scans.lesions is not None:
        outlined = (nearest(scans.lesions, grid, outside=0.0) > 0.5).to(torch.uint8)
        layers.append(Layer("lesions", "outlined lesions", outlined, 0, 1, (("outlined lesion", LESION_COLOUR),)))
    return layers
