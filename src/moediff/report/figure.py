"""One picture that says what enhancement did: three planes through the brain, one column per scan.

Planes are drawn as radiologists read them: anterior or superior up, the patient's right on the image's left, the nose
to the left in sagittal planes. Every scan keeps its own voxels (nearest neighbour), placed by its affine, so thick
slices look thick. All scans share one intensity window.

Axes: X Y Z voxels (RAS+), E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core.errors import ConfigError, DataError, GeometryError
from moediff.core.geometry import axis_positions, resample
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.report.canvas import EXPERT_COLOURS, Column, View, draw, matplotlib_parts, save_figure

ERROR_COLOURS = "RdBu_r"
WINDOW = (0.01, 0.995)
ERROR_QUANTILE = 0.995
SPREAD_COLOURS = "inferno"
MARGIN_MM = 6.0


def _millimetres(volume: Volume) -> str:
    x, y, z = (f"{s:.2f}".rstrip("0").rstrip(".") for s in volume.spacing_mm)
    return f"{x} mm" if x == y == z else f"{x} x {y} x {z} mm"


def _aligned(panels: Mapping[str, Volume]) -> dict[str, Volume]:
    """All panels; one that is oblique to the last panel is resampled onto it."""
    reference = list(panels.values())[-1]
    return {
        name: volume if axis_positions(volume.grid, reference.grid) else resample(volume, reference.grid, "linear")
        for name, volume in panels.items()
    }


def _view(layer: Column, head_XYZ: Tensor) -> View:
    """Planes through the middle of the head, cropped to it."""
    centre, low, high = [], [], []
    for axis in range(3):
        profile = head_XYZ.double().sum(dim=[a for a in range(3) if a != axis])
        index = torch.arange(len(profile), dtype=torch.float64)
        inside = profile.nonzero()
        first, _ = layer.edges_mm(axis)
        step = layer.grid.spacing_mm[axis]
        centre.append(first + (float((profile * index).sum() / profile.sum()) + 0.5) * step)
        low.append(first + float(inside.min()) * step - MARGIN_MM)
        high.append(first + (float(inside.max()) + 1) * step + MARGIN_MM)
    return View(tuple(centre), tuple(low), tuple(high))


def _error_layer(
    volumes: Mapping[str, Volume], names: tuple[str, str], window: tuple[float, float], seen_XYZ: Tensor | None
) -> Column:
    """The difference of two panels in % of the window, nothing where it cannot be told."""
    pred, truth = (volumes[name] for name in names)
    if pred.shape != truth.shape:
        raise GeometryError(f"the error needs one grid, got {pred.shape} and {truth.shape}; resample first")
    percent = (pred.data_XYZ - truth.data_XYZ).float() * (100 / (window[1] - window[0]))
    if seen_XYZ is not None:
        percent = percent * seen_XYZ
    size = percent.abs()
    top = max(quantile(size[size > 0], ERROR_QUANTILE) if bool((size > 0).any()) else 1.0, 0.1)
    title = f"error\n{names[0].splitlines()[0]} - {names[1].splitlines()[0]}"
    return Column(title, percent, truth, ERROR_COLOURS, (-top, top), "% of the shown intensity range")


def _expert_layer(gate_XYZE: Tensor, place: Volume, base: Volume, window: tuple[float, float]) -> Column:
    """Expert colours mixed by gate weight, shaded by the scan so that anatomy stays legible."""
    _, to_rgb = matplotlib_parts()
    if tuple(gate_XYZE.shape[:3]) != place.shape or gate_XYZE.shape[3] > len(EXPERT_COLOURS):
        raise GeometryError(
            f"expected expert weights {place.shape} x at most {len(EXPERT_COLOURS)}, got {tuple(gate_XYZE.shape)}"
        )
    palette = torch.tensor([to_rgb(colour) for colour in EXPERT_COLOURS[: gate_XYZE.shape[3]]])
    shade = ((base.data_XYZ.float() - window[0]) / (window[1] - window[0])).clamp(0, 1)
    data = gate_XYZE.float().clamp(0, 1) @ palette * (0.3 + 0.7 * shade)[..., None]
    return Column("expert map\ncolour = gate weight", data.clamp(0, 1), base, None, (0, 1))


def _spread_layer(spread_XYZ: Tensor, place: Volume, window: tuple[float, float]) -> Column:
    """Standard deviation in % of the window."""
    percent = place.with_data(spread_XYZ.float().nan_to_num(0.0) * (100 / (window[1] - window[0])))
    top = max(quantile(percent.data_XYZ, ERROR_QUANTILE), 0.1)
    title = "uncertainty\nstandard deviation"
    return Column(title, percent.data_XYZ, percent, SPREAD_COLOURS, (0, top), "% of the shown intensity range")


def compare(
    panels: Mapping[str, Volume],
    *,
    error_of: tuple[str, str] | None = None,
    seen_XYZ: Tensor | None = None,
    expert_map_XYZE: Tensor | None = None,
    expert_names: Sequence[str] = (),
    uncertainty_XYZ: Tensor | None = None,
) -> Any:
    """Draw scans side by side, then their error, expert map and uncertainty; returns the matplotlib figure.

    Args:
        panels: column title -> scan, in order; text after a newline in a title is set small. Scans may differ in voxel
            size; the last one sets intensity window and planes, so give the truth (else the enhanced scan) last.
        error_of: titles of two panels on one grid; their difference, as % of the intensity window, becomes a column.
        seen_XYZ: where, on the last panel's grid, both of them were measured; None says everywhere.
        expert_map_XYZE: gate weights on the last panel's grid, 0 where not evaluated; becomes a column.
        expert_names: legend of the expert map.
        uncertainty_XYZ: standard deviation on the last panel's grid; becomes a column.

    Raises:
        ConfigError: matplotlib is not installed, or error_of names no panel.
        DataError: the last panel is constant or not finite.
        GeometryError: error or expert map do not fit their grids.
    """
    matplotlib_parts()
    missing = [name for name in error_of or () if name not in panels]
    if not panels or missing:
        raise ConfigError(f"no panel called {missing}; panels are {list(panels)}")
    volumes, place = _aligned(panels), list(panels.values())[-1]
    reference = list(volumes.values())[-1]
    window = (quantile(reference.data_XYZ, WINDOW[0]), quantile(reference.data_XYZ, WINDOW[1]))
    if not window[1] > window[0]:
        raise DataError(f"the last panel has no contrast (window {window[0]}..{window[1]}); expected a scan")
    layers = []
    for title, volume in volumes.items():
        shown = title if "\n" in title else f"{title}\n{_millimetres(volume)}"
        layers.append(Column(shown, volume.data_XYZ.float(), volume, "gray", window))
    view = _view(layers[-1], reference.data_XYZ > window[0] + 0.08 * (window[1] - window[0]))
    if error_of:
        seen = None if seen_XYZ is None else seen_XYZ
        layers.append(_error_layer(volumes, error_of, window, seen))
    if expert_map_XYZE is not None:
        layers.append(_expert_layer(expert_map_XYZE, place, reference, window))
    if uncertainty_XYZ is not None:
        layers.append(_spread_layer(uncertainty_XYZ, place, window))
    return draw(layers, view, expert_names)


def comparison_figure(panels: Mapping[str, Volume], path: Path, **columns: Any) -> Path:
    """`compare`, written as a PNG; an existing file is replaced.

    Raises:
        CannotCreate: the file cannot be written. And what `compare` raises.
    """
    save_figure(compare(panels, **columns), Path(path))
    return Path(path)
