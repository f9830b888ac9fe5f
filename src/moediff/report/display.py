"""Scans as they are enhanced_layer: cropped to the head, 8 bits, all on one grid and in one intensity window.

The input keeps its own voxels: each display voxel takes the value of the input voxel it lies in, so thick slices look
thick and all views show the same box.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.volume import Volume
from moediff.report.data import ReportScans
from moediff.report.layers import Display, DisplayBox, Layer, air, nearest, quantiles
from moediff.report.maps import maps

WINDOW = (0.01, 0.995)
MARGIN_MM = 4.0
HEAD_LEVEL = 0.06  # of the window; below lies air
COARSE = 2  # voxels; the head's box is map_layers on every second one


def _profiles(foreground_XYZ: Tensor) -> list[Tensor]:
    """How much head each plane across an axis holds, for all three axes."""
    plane_XY = foreground_XYZ.float().sum(2)
    return [plane_XY.sum(1).double(), plane_XY.sum(0).double(), foreground_XYZ.float().sum((0, 1)).double()]


def _display_box(enhanced: Volume) -> DisplayBox:
    low, high = quantiles(enhanced.data_XYZ, *WINDOW)
    if not high > low:
        raise DataError(f"the enhanced scan has no contrast (window {low}..{high}); expected a scan")
    low = low if abs(low) > 1e-4 * high else 0.0  # rounding left by resampling is no intensity
    foreground = enhanced.data_XYZ[::COARSE, ::COARSE, ::COARSE] > low + HEAD_LEVEL * (high - low)
    start, shape = [], []
    for profile, n, step in zip(_profiles(foreground), enhanced.shape, enhanced.spacing_mm, strict=True):
        inside = (profile > 0.001 * profile.max()).nonzero() * COARSE
        margin = round(MARGIN_MM / step)
        first = max(0, int(inside.min()) - margin)
        last = min(n - 1, int(inside.max()) + COARSE - 1 + margin)
        start.append(first)
        shape.append(last - first + 1)
    return DisplayBox(tuple(start), tuple(shape), (low, high))


def _centre(enhanced_layer: Layer, lesions: Layer | None) -> tuple[int, int, int]:
    """Voxel where the views open: in the outlined lesions if there are any, else the head's centre of mass."""
    if lesions is not None and bool(lesions.data_XYZ.any()):
        return _inside(lesions.data_XYZ > 0)
    foreground = enhanced_layer.data_XYZ[::COARSE, ::COARSE, ::COARSE] > 255 * HEAD_LEVEL
    x, y, z = (
        min(n - 1, int(COARSE * float((p * torch.arange(len(p))).sum() / p.sum())))
        for p, n in zip(_profiles(foreground), enhanced_layer.data_XYZ.shape, strict=True)
    )
    return x, y, z


def _inside(mask_XYZ: Tensor) -> tuple[int, int, int]:
    """A voxel of the mask: in its largest axial plane, in the middle of the longest row there."""
    z = int(mask_XYZ.sum((0, 1)).argmax())
    y = int(mask_XYZ[:, :, z].sum(0).argmax())
    row = mask_XYZ[:, y, z].nonzero().flatten()
    return int(row[len(row) // 2]), y, z


def _scan_layers(scans: ReportScans, box: DisplayBox, cropped: Volume) -> list[Layer]:
    layers = []
    if scans.source is not None:
        layers.append(box.grey("input", "input", nearest(scans.source, cropped.grid, outside=air(scans.source))))
    if scans.interpolated is not None:
        layers.append(box.grey("interpolated", "interpolated", box.crop_volume(scans.interpolated).data_XYZ))
    layers.append(box.grey("enhanced", "enhanced", cropped.data_XYZ))
    if scans.truth is not None:
        layers.append(box.grey("truth", "truth", box.crop_volume(scans.truth).data_XYZ))
    return layers


def display(scans: ReportScans) -> Display:
    """Bring everything onto one grid, cropped to the enhanced head.

    Raises:
        DataError: the enhanced scan is constant.
    """
    box = _display_box(scans.enhanced)
    cropped = box.crop_volume(scans.enhanced)
    layers = _scan_layers(scans, box, cropped)
    enhanced_layer = next(layer for layer in layers if layer.key == "enhanced")
    map_layers = tuple(maps(scans, box, cropped.grid))
    lesions = next((layer for layer in map_layers if layer.key == "lesions"), None)
    return Display(cropped.grid, tuple(layers), map_layers, _centre(enhanced_layer, lesions))
