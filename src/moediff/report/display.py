"""Scans as they are shown: canonical, cropped to the head, 8 bits, all on one grid and in one intensity window.

The input keeps its own voxels: each display voxel takes the value of the input voxel it lies in, so thick slices look
thick and all views frame alike.

Axes: X Y Z voxels (RAS+), E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.errors import DataError
from moediff.report.scans import ReportScans
from moediff.volume.geometry import axis_positions, canonicalise, crop, resample
from moediff.volume.intensity import quantile
from moediff.volume.volume import Grid, Volume

WINDOW = (0.01, 0.995)
MARGIN_MM = 4.0
HEAD_LEVEL = 0.06  # of the window; below lies air
SPREAD_QUANTILE = 0.995
MIN_WEIGHT = 0.05  # summed gate weight below which no expert worked


@dataclass(frozen=True)
class Layer:
    """One 8-bit picture or map.

    Args:
        key: short identifier, letters only.
        title: what a reader sees.
        data_XYZ: uint8.
        low: intensity shown as 0.
        high: intensity shown as 255; for labels the highest label.
    """

    key: str
    title: str
    data_XYZ: Tensor
    low: float
    high: float


@dataclass(frozen=True)
class Display:
    """All that is drawn: scans and maps share `grid`; `centre` is the voxel where views open."""

    grid: Grid
    scans: tuple[Layer, ...]
    maps: tuple[Layer, ...]
    centre: tuple[int, int, int]


@dataclass(frozen=True)
class _Frame:
    """Where to cut and which intensities to show."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    window: tuple[float, float]

    def cut(self, volume: Volume) -> Volume:
        return crop(canonicalise(volume)[0], self.start, self.shape)

    def grey(self, key: str, title: str, data_XYZ: Tensor) -> Layer:
        low, high = self.window
        return Layer(key, title, _bytes(data_XYZ, low, high), low, high)


def _bytes(data_XYZ: Tensor, low: float, high: float) -> Tensor:
    scaled = (data_XYZ.float() - low) * (255 / max(high - low, 1e-12))
    return scaled.round().clamp(0, 255).to(torch.uint8)


def _nearest(volume: Volume, grid: Grid) -> Tensor:
    """The value of the voxel that each grid point lies in; linear where the two grids are oblique to each other."""
    canonical = canonicalise(volume)[0]
    positions = axis_positions(canonical.grid, grid)
    if positions is None:
        return resample(canonical, grid, "linear").data_XYZ
    data_XYZ = canonical.data_XYZ
    for axis, (at, n) in enumerate(zip(positions, canonical.shape, strict=True)):
        index = (torch.tensor(at, dtype=torch.float64) + 0.5).floor().long().clamp(0, n - 1)
        data_XYZ = data_XYZ.index_select(axis, index)
    return data_XYZ


def _frame(enhanced: Volume) -> tuple[_Frame, tuple[int, int, int]]:
    data_XYZ = enhanced.data_XYZ
    low, high = (quantile(data_XYZ, q) for q in WINDOW)
    if not high > low:
        raise DataError(f"the enhanced scan has no contrast (window {low}..{high}); expected a scan")
    head = data_XYZ > low + HEAD_LEVEL * (high - low)
    start, shape, centre = [], [], []
    for axis, step in enumerate(enhanced.spacing_mm):
        profile = head.double().sum(dim=[a for a in range(3) if a != axis])
        inside = (profile > 0.001 * profile.max()).nonzero()
        margin = round(MARGIN_MM / step)
        first = max(0, int(inside.min()) - margin)
        last = min(len(profile) - 1, int(inside.max()) + margin)
        middle = float((profile * torch.arange(len(profile))).sum() / profile.sum())
        start.append(first)
        shape.append(last - first + 1)
        centre.append(int(middle) - first)
    return _Frame(tuple(start), tuple(shape), (low, high)), (centre[0], centre[1], centre[2])


def _first_expert(gate_XYZE: Tensor) -> Tensor:
    """Number of the expert with the largest weight, from 1; 0 where none worked (argmax over a short axis is slow)."""
    first, *others = gate_XYZE.unbind(-1)
    best, label, total = first.clone(), torch.ones(first.shape, dtype=torch.uint8), first.clone()
    for number, weight in enumerate(others, 2):
        label[weight > best] = number
        best = torch.maximum(best, weight)
        total += weight
    return label * (total > MIN_WEIGHT)


def _maps(scans: ReportScans, cut: _Frame) -> list[Layer]:
    maps = []

    def place(data_XYZ: Tensor) -> Tensor:
        return cut.cut(scans.enhanced.with_data(data_XYZ.float())).data_XYZ

    if scans.uncertainty_XYZ is not None:
        spread = place(scans.uncertainty_XYZ).nan_to_num(0.0)
        top = max(quantile(spread, SPREAD_QUANTILE), 1e-12)
        maps.append(Layer("uncertainty", "uncertainty", _bytes(spread, 0, top), 0, top))
    if scans.gate_XYZE is not None:
        labels = place(_first_expert(scans.gate_XYZE)).to(torch.uint8)
        maps.append(Layer("experts", "which expert", labels, 0, scans.gate_XYZE.shape[3]))
    if scans.interpolated is not None:
        change = place((scans.enhanced.data_XYZ - scans.interpolated.data_XYZ).abs())
        top = max(quantile(change, SPREAD_QUANTILE), 1e-12)
        maps.append(Layer("change", "what was changed", _bytes(change, 0, top), 0, top))
    return maps


def display(scans: ReportScans) -> Display:
    """Bring everything onto one canonical grid, cropped to the enhanced head.

    Raises:
        DataError: the enhanced scan is constant.
    """
    canonical = canonicalise(scans.enhanced)[0]
    cut, centre = _frame(canonical)
    box = cut.cut(scans.enhanced)
    views = []
    if scans.source is not None:
        views.append(cut.grey("input", "input", _nearest(scans.source, box.grid)))
    if scans.interpolated is not None:
        views.append(cut.grey("interpolated", "interpolated", cut.cut(scans.interpolated).data_XYZ))
    views.append(cut.grey("enhanced", "enhanced", box.data_XYZ))
    if scans.truth is not None:
        views.append(cut.grey("truth", "truth", cut.cut(scans.truth).data_XYZ))
    return Display(box.grid, tuple(views), tuple(_maps(scans, cut)), centre)
