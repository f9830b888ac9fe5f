"""Scans as they are shown: cropped to the head, 8 bits, all on one grid and in one intensity window.

The input keeps its own voxels: each display voxel takes the value of the input voxel it lies in, so thick slices look
thick and all views frame alike.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.volume import Volume
from moediff.report.data import ReportScans
from moediff.report.layers import Display, Frame, Layer, air, nearest, quantiles
from moediff.report.maps import maps

WINDOW = (0.01, 0.995)
MARGIN_MM = 4.0
HEAD_LEVEL = 0.06  # of the window; below lies air
COARSE = 2  # voxels; the head's box is found on every second one


def _profiles(head_XYZ: Tensor) -> list[Tensor]:
    """How much head each plane across an axis holds, for all three axes."""
    plane_XY = head_XYZ.float().sum(2)
    return [plane_XY.sum(1).double(), plane_XY.sum(0).double(), head_XYZ.float().sum((0, 1)).double()]


def _frame(enhanced: Volume) -> Frame:
    low, high = quantiles(enhanced.data_XYZ, *WINDOW)
    if not high > low:
        raise DataError(f"the enhanced scan has no contrast (window {low}..{high}); expected a scan")
    low = low if abs(low) > 1e-4 * high else 0.0  # rounding left by resampling is no intensity
    head = enhanced.data_XYZ[::COARSE, ::COARSE, ::COARSE] > low + HEAD_LEVEL * (high - low)
    start, shape = [], []
    for profile, n, step in zip(_profiles(head), enhanced.shape, enhanced.spacing_mm, strict=True):
        inside = (profile > 0.001 * profile.max()).nonzero() * COARSE
        margin = round(MARGIN_MM / step)
        first = max(0, int(inside.min()) - margin)
        last = min(n - 1, int(inside.max()) + COARSE - 1 + margin)
        start.append(first)
        shape.append(last - first + 1)
    return Frame(tuple(start), tuple(shape), (low, high))


def _centre(shown: Layer, lesions: Layer | None) -> tuple[int, int, int]:
    """Where views open: in the outlined lesions if there are any, else the head's centre of mass."""
    if lesions is not None and bool(lesions.data_XYZ.any()):
        return _inside(lesions.data_XYZ > 0)
    head = shown.data_XYZ[::COARSE, ::COARSE, ::COARSE] > 255 * HEAD_LEVEL
    x, y, z = (
        min(n - 1, int(COARSE * float((p * torch.arange(len(p))).sum() / p.sum())))
        for p, n in zip(_profiles(head), shown.data_XYZ.shape, strict=True)
    )
    return x, y, z


def _inside(mask_XYZ: Tensor) -> tuple[int, int, int]:
    """A voxel of the mask: in its largest axial plane, in the middle of the longest row there."""
    z = int(mask_XYZ.sum((0, 1)).argmax())
    y = int(mask_XYZ[:, :, z].sum(0).argmax())
    row = mask_XYZ[:, y, z].nonzero().flatten()
    return int(row[len(row) // 2]), y, z


def _views(scans: ReportScans, cut: Frame, box: Volume) -> list[Layer]:
    views = []
    if scans.source is not None:
        views.append(cut.grey("input", "input", nearest(scans.source, box.grid, outside=air(scans.source))))
    if scans.interpolated is not None:
        views.append(cut.grey("interpolated", "interpolated", cut.cut(scans.interpolated).data_XYZ))
    views.append(cut.grey("enhanced", "enhanced", box.data_XYZ))
    if scans.truth is not None:
        views.append(cut.grey("truth", "truth", cut.cut(scans.truth).data_XYZ))
    return views


def display(scans: ReportScans) -> Display:
    """Bring everything onto one grid, cropped to the enhanced head.

    Raises:
        DataError: the enhanced scan is constant.
    """
    cut = _frame(scans.enhanced)
    box = cut.cut(scans.enhanced)
    views = _views(scans, cut, box)
    shown = next(view for view in views if view.key == "enhanced")
    found = tuple(maps(scans, cut, box.grid))
    lesions = next((layer for layer in found if layer.key == "lesions"), None)
    return Display(box.grid, tuple(views), found, _centre(shown, lesions))
