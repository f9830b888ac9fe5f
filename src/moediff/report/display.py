"""Scans as a page shows them: cut to the box around the head, in their own units, with windows to look at them.

The input keeps its own voxels, so thick slices look thick; all views show the same box.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.core.errors import DataError
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.report.data import ReportScans
from moediff.report.layers import Display, DisplayBox, Layer, Scan, measured_scan, quantiles
from moediff.report.maps import maps
from moediff.report.sanitise import one_line
from moediff.report.several_scans import registered_scans
from moediff.report.windows import presets

BRIGHT = 0.999  # quantile that stands for a scan's bright end
WINDOW = (0.01, 0.995)
MARGIN_MM = 4.0
HEAD_LEVEL = 0.06  # of the window; below lies air
BRAIN_BELOW_TOP_MM = 75.0  # its middle, in a head with neck or jaw, whose centre of mass lies below the brain
COARSE = 2  # voxels; the head's box is looked for on every second one


def _profiles(foreground_XYZ: Tensor) -> list[Tensor]:
    """How much head each plane across an axis holds, for all three axes."""
    plane_XY = foreground_XYZ.float().sum(2)
    return [plane_XY.sum(1).double(), plane_XY.sum(0).double(), foreground_XYZ.float().sum((0, 1)).double()]


def _display_box(enhanced: Volume) -> tuple[DisplayBox, float]:
    """The box around the head, and the intensity below which lies air."""
    low, high = quantiles(enhanced.data_XYZ, *WINDOW)
    if not high > low:
        raise DataError(f"the enhanced scan has no contrast (window {low}..{high}); expected a scan")
    low = low if abs(low) > 1e-4 * high else 0.0  # rounding left by resampling is no intensity
    air_below = low + HEAD_LEVEL * (high - low)
    foreground = enhanced.data_XYZ[::COARSE, ::COARSE, ::COARSE] > air_below
    start, shape = [], []
    for profile, n, step in zip(_profiles(foreground), enhanced.shape, enhanced.spacing_mm, strict=True):
        inside = (profile > 0.001 * profile.max()).nonzero() * COARSE
        margin = round(MARGIN_MM / step)
        first = max(0, int(inside.min()) - margin)
        last = min(n - 1, int(inside.max()) + COARSE - 1 + margin)
        start.append(first)
        shape.append(last - first + 1)
    return DisplayBox(tuple(start), tuple(shape)), air_below


def _centre(enhanced: Volume, lesions: Layer | None, air_below: float) -> tuple[int, int, int]:
    """Voxel where the views open: in the outlined lesions if there are any, else amid the head, within the brain."""
    if lesions is not None and bool(lesions.data_XYZ.any()):
        return _inside(lesions.data_XYZ > 0)
    foreground = enhanced.data_XYZ[::COARSE, ::COARSE, ::COARSE] > air_below
    x, y, z = (
        min(n - 1, int(COARSE * float((p * torch.arange(len(p))).sum() / p.sum())))
        for p, n in zip(_profiles(foreground), enhanced.shape, strict=True)
    )
    below_top_mm = MARGIN_MM + BRAIN_BELOW_TOP_MM
    return x, y, max(z, enhanced.shape[2] - 1 - round(below_top_mm / enhanced.spacing_mm[2]))


def _inside(mask_XYZ: Tensor) -> tuple[int, int, int]:
    """A voxel of the mask: in its largest axial plane, in the middle of the longest row there."""
    z = int(mask_XYZ.sum((0, 1)).argmax())
    y = int(mask_XYZ[:, :, z].sum(0).argmax())
    row = mask_XYZ[:, y, z].nonzero().flatten()
    return int(row[len(row) // 2]), y, z


def as_bright(scan: Volume, other: Volume) -> Volume:
    """A scan of another contrast, scaled so that one window fits both."""
    top, own = (quantile(volume.data_XYZ, BRIGHT) for volume in (other, scan))
    return scan.with_data(scan.data_XYZ * (top / own)) if own > 0 < top else scan


def _scans(scans: ReportScans, box: DisplayBox, cropped: Volume) -> list[Scan]:
    scan_list = []
    if scans.source is not None:
        scan_list.append(measured_scan("input", "input", scans.source, cropped.grid))
    scan_list.extend(registered_scans(scans.shares, cropped.grid))
    if scans.guide is not None:
        title = f"guide: {one_line(scans.guide.name)}"
        scan_list.append(measured_scan("sharp", title, as_bright(scans.guide.scan, cropped), cropped.grid))
    if scans.interpolated is not None:
        scan_list.append(Scan("interpolated", "interpolated", box.crop_volume(scans.interpolated)))
    scan_list.append(Scan("enhanced", "enhanced", cropped))
    if scans.shown_truth is not None:
        scan_list.append(Scan("truth", "truth", box.crop_volume(scans.shown_truth)))
    return scan_list


def display(scans: ReportScans) -> Display:
    """Bring everything into one box around the enhanced head.

    Raises:
        DataError: the enhanced scan is constant.
    """
    box, air_below = _display_box(scans.enhanced)
    cropped = box.crop_volume(scans.enhanced)
    map_layers = tuple(maps(scans, box, cropped.grid, air_below))
    lesions = next((layer for layer in map_layers if layer.key == "lesions"), None)
    centre = _centre(cropped, lesions, air_below)
    return Display(cropped.grid, tuple(_scans(scans, box, cropped)), map_layers, centre, presets(cropped))
