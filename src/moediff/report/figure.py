"""Figure of scans side by side with matplotlib: three planes through the brain, one column per scan, legends below.

Planes are drawn as radiologists read them: anterior or superior up, the patient's right on the image's left, the nose
to the left in sagittal planes. Every scan keeps its own voxels (nearest neighbour), placed by its affine, so thick
slices look thick. All scans share one intensity window.

Axes: X Y Z voxels (RAS+), E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff._version import RESEARCH_ONLY
from moediff.core.errors import ConfigError, DataError, GeometryError, prefix_errors
from moediff.core.geometry import are_parallel, resample
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.inference.result import Enhanced
from moediff.io.atomic import whole_file
from moediff.report.layers import EDGES, EXPERT_COLOURS, PLANES, size_in_words
from moediff.report.maps import expert_labels
from moediff.report.truth import fit_to_truth, in_units_of_result, truth_on

COLUMN_INCH, GAP_INCH, TITLE_INCH, FOOT_INCH = 2.15, 0.06, 0.62, 0.62
DOTS_PER_INCH = 150
PAPER, INK, FAINT = "#000000", "#f2f2f2", "#9a9a9a"
ERROR_COLOURS = "RdBu_r"
WINDOW = (0.01, 0.995)
ERROR_QUANTILE = 0.995
SPREAD_COLOURS = "inferno"
MARGIN_MM = 6.0


@dataclass(frozen=True)
class Column:
    """One column: canonical voxels (XYZ, or XYZ and RGB) and what they are drawn with."""

    title: str
    data: Tensor
    grid: Volume
    colours: str | None
    limits: tuple[float, float]
    bar: str = ""  # words under a colour bar; empty draws none

    def edges_mm(self, axis: int) -> tuple[float, float]:
        """Where the volume's outer faces lie along one of its axes, mm."""
        column = self.grid.affine[:3, axis]
        step = float(column.norm())
        first = float(column @ self.grid.affine[:3, 3]) / step
        return first - step / 2, first + (self.grid.shape[axis] - 0.5) * step

    def slice_at(self, plane: str, at_mm: float) -> np.ndarray:
        """The plane's voxels [up, across(, RGB)], the slice nearest to a position."""
        across, up, through = PLANES[plane]
        low, high = self.edges_mm(through)
        n = self.grid.shape[through]
        index = min(n - 1, max(0, int((at_mm - low) / (high - low) * n)))
        flat = self.data.select(through, index)
        return (flat if across < up else flat.transpose(0, 1)).transpose(0, 1).numpy()

    def extent(self, plane: str) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the drawn slice, mm."""
        across, up, _ = PLANES[plane]
        return (*self.edges_mm(across), *self.edges_mm(up))


@dataclass(frozen=True)
class CutPlanes:
    """Where the planes cut and how much of them is drawn, mm along the canonical axes."""

    centre: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def height_inch(self, plane: str) -> float:
        """Height of a row whose width is one column."""
        across, up, _ = PLANES[plane]
        return COLUMN_INCH * (self.high[up] - self.low[up]) / (self.high[across] - self.low[across])


def matplotlib_parts() -> tuple[Any, Any]:
    """`Figure` and `to_rgb`; imported late, because most commands draw nothing.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.colors import to_rgb
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("figures need matplotlib; install it with: pip install 'moediff-sr[report]'") from error
    return Figure, to_rgb


def _draw_plane(axes: Any, layer: Column, plane: str, planes: CutPlanes) -> Any:
    across, up, through = PLANES[plane]
    image = axes.imshow(
        layer.slice_at(plane, planes.centre[through]),
        origin="lower",
        extent=layer.extent(plane),
        interpolation="nearest",
        aspect="equal",
        cmap=layer.colours,
        vmin=layer.limits[0],
        vmax=layer.limits[1],
    )
    axes.set_xlim(planes.high[across], planes.low[across])  # R+ and A+ run leftwards: radiological
    axes.set_ylim(planes.low[up], planes.high[up])
    axes.set_axis_off()
    return image


def _label_edges(axes: Any, plane: str) -> None:
    left, right, top, bottom = EDGES[plane]
    positions = ((0.02, 0.5, left), (0.98, 0.5, right), (0.5, 0.97, top), (0.5, 0.03, bottom))
    for x, y, letter in positions:
        axes.text(x, y, letter, transform=axes.transAxes, color=FAINT, fontsize=7, ha="center", va="center")


def _draw_legend(figure: Any, left: float, width: float, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=name) for colour, name in zip(EXPERT_COLOURS, names, strict=False)]
    legend_axes = figure.add_axes((left, 0.0, width, FOOT_INCH / figure.get_figheight()))
    legend_axes.set_axis_off()
    legend_axes.legend(
        handles=patches,
        loc="center",
        ncols=1 if len(names) <= 3 else 2,
        fontsize=6.5,
        frameon=False,
        labelcolor=INK,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=0.9,
        handletextpad=0.5,
        labelspacing=0.35,
    )


def _draw_colour_bar(figure: Any, image: Any, left_width: tuple[float, float], words: str) -> None:
    left, width = left_width
    height = figure.get_figheight()
    bar_axes = figure.add_axes((left + 0.12 * width, 0.36 / height, 0.76 * width, 0.09 / height))
    bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=6.5, length=2, pad=1.5)
    bar.set_label(words, color=INK, fontsize=6.5, labelpad=1)


def draw(layers: Sequence[Column], planes: CutPlanes, expert_names: Sequence[str]) -> Any:
    """The figure: one column a layer, one row a plane."""
    figure_class, _ = matplotlib_parts()
    rows = [planes.height_inch(plane) for plane in PLANES]
    width = len(layers) * (COLUMN_INCH + GAP_INCH) + GAP_INCH
    height = TITLE_INCH + sum(rows) + GAP_INCH * len(rows) + FOOT_INCH
    figure = figure_class(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER)
    for column, layer in enumerate(layers):
        left, top = (GAP_INCH + column * (COLUMN_INCH + GAP_INCH)) / width, height - TITLE_INCH
        share = COLUMN_INCH / width
        name, _, detail = layer.title.partition("\n")
        middle = left + share / 2
        figure.text(middle, 1 - 0.2 / height, name, color=INK, fontsize=11, weight="bold", ha="center", va="center")
        figure.text(middle, 1 - 0.43 / height, detail, color=FAINT, fontsize=7.5, ha="center", va="center")
        for plane, row in zip(PLANES, rows, strict=True):
            top -= row
            axes = figure.add_axes((left, top / height, share, row / height))
            image = _draw_plane(axes, layer, plane, planes)
            top -= GAP_INCH
            if column == 0:
                _label_edges(axes, plane)
        if layer.bar:
            _draw_colour_bar(figure, image, (left, share), layer.bar)
        if layer.colours is None and expert_names:
            _draw_legend(figure, left, share, expert_names)
    note = f"Patient's right on the image's left; anterior up or left.\n{RESEARCH_ONLY}"
    figure.text(0.12 / width, 0.31 / height, note, color=FAINT, fontsize=7, ha="left", va="center", linespacing=1.5)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a whole PNG, replacing an older one.

    Raises:
        CannotCreate, OutputFailed: the folder is missing or closed to us, or the disk is full.
    """
    with prefix_errors(path), whole_file(path, overwrite=True) as hidden:
        figure.savefig(hidden, format="png", facecolor=PAPER)


def _aligned(panels: Mapping[str, Volume]) -> dict[str, Volume]:
    """All panels; one that is oblique to the last panel is resampled onto it."""
    reference = list(panels.values())[-1]
    return {
        name: volume if are_parallel(volume.grid, reference.grid) else resample(volume, reference.grid, "linear")
        for name, volume in panels.items()
    }


def _cut_planes(layer: Column, foreground_XYZ: Tensor) -> CutPlanes:
    """Planes through the middle of the head, cropped to it."""
    centre, low, high = [], [], []
    for axis in range(3):
        profile = foreground_XYZ.double().sum(dim=[a for a in range(3) if a != axis])
        index = torch.arange(len(profile), dtype=torch.float64)
        inside = profile.nonzero()
        first, _ = layer.edges_mm(axis)
        step = layer.grid.spacing_mm[axis]
        centre.append(first + (float((profile * index).sum() / profile.sum()) + 0.5) * step)
        low.append(first + float(inside.min()) * step - MARGIN_MM)
        high.append(first + (float(inside.max()) + 1) * step + MARGIN_MM)
    return CutPlanes(tuple(centre), tuple(low), tuple(high))


def _error_layer(
    volumes: Mapping[str, Volume], names: tuple[str, str], window: tuple[float, float], measured_XYZ: Tensor | None
) -> Column:
    """The difference of two panels in % of the window, zero where one of them was not measured."""
    pred, truth = (volumes[name] for name in names)
    if pred.shape != truth.shape:
        raise GeometryError(f"the error needs one grid, got {pred.shape} and {truth.shape}; resample first")
    percent = (pred.data_XYZ - truth.data_XYZ).float() * (100 / (window[1] - window[0]))
    if measured_XYZ is not None:
        percent = percent * measured_XYZ
    size = percent.abs()
    top = max(quantile(size[size > 0], ERROR_QUANTILE) if bool((size > 0).any()) else 1.0, 0.1)
    title = f"error\n{names[0].splitlines()[0]} - {names[1].splitlines()[0]}"
    return Column(title, percent, truth, ERROR_COLOURS, (-top, top), "% of the shown intensity range")


def _expert_layer(gate_XYZE: Tensor, map_grid: Volume, scan: Volume, window: tuple[float, float]) -> Column:
    """The colour of the expert of the largest gate weight, shaded by the scan so that anatomy stays legible.

    The report's map shows the same.
    """
    _, to_rgb = matplotlib_parts()
    if tuple(gate_XYZE.shape[:3]) != map_grid.shape or gate_XYZE.shape[3] > len(EXPERT_COLOURS):
        raise GeometryError(
            f"expected expert weights {map_grid.shape} x at most {len(EXPERT_COLOURS)}, got {tuple(gate_XYZE.shape)}"
        )
    palette = torch.tensor([(0.0, 0.0, 0.0), *map(to_rgb, EXPERT_COLOURS)])
    shade = ((scan.data_XYZ.float() - window[0]) / (window[1] - window[0])).clamp(0, 1)
    data = palette[expert_labels(gate_XYZE).long()] * (0.3 + 0.7 * shade)[..., None]
    return Column("expert map\nlargest gate weight", data.clamp(0, 1), scan, None, (0, 1))


def _spread_layer(spread_XYZ: Tensor, map_grid: Volume, window: tuple[float, float]) -> Column:
    """Standard deviation in % of the window."""
    percent = map_grid.with_data(spread_XYZ.float().nan_to_num(0.0) * (100 / (window[1] - window[0])))
    top = max(quantile(percent.data_XYZ, ERROR_QUANTILE), 0.1)
    title = "uncertainty\nstandard deviation"
    return Column(title, percent.data_XYZ, percent, SPREAD_COLOURS, (0, top), "% of the shown intensity range")


def compare(
    panels: Mapping[str, Volume],
    *,
    error_of: tuple[str, str] | None = None,
    measured_XYZ: Tensor | None = None,
    expert_map_XYZE: Tensor | None = None,
    expert_names: Sequence[str] = (),
    uncertainty_XYZ: Tensor | None = None,
) -> Any:
    """Draw scans side by side, then their error, expert map and uncertainty; returns the matplotlib figure.

    Args:
        panels: column title -> scan, in order; text after a newline in a title is set small. Scans may differ in voxel
            size; the last one sets intensity window and planes, so give the truth (else the enhanced scan) last.
        error_of: titles of two panels on one grid; their difference, as % of the intensity window, becomes a column.
        measured_XYZ: where, on the last panel's grid, both of them were measured; None says everywhere.
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
    volumes, last = _aligned(panels), list(panels.values())[-1]
    reference = list(volumes.values())[-1]
    window = (quantile(reference.data_XYZ, WINDOW[0]), quantile(reference.data_XYZ, WINDOW[1]))
    if not window[1] > window[0]:
        raise DataError(f"the last panel has no contrast (window {window[0]}..{window[1]}); expected a scan")
    layers = []
    for title, volume in volumes.items():
        measured = panels[title]
        size = size_in_words(measured.spacing_mm, resampled=volume is not measured)
        label = title if "\n" in title else f"{title}\n{size}"
        layers.append(Column(label, volume.data_XYZ.float(), volume, "gray", window))
    planes = _cut_planes(layers[-1], reference.data_XYZ > window[0] + 0.08 * (window[1] - window[0]))
    if error_of:
        layers.append(_error_layer(volumes, error_of, window, measured_XYZ))
    if expert_map_XYZE is not None:
        layers.append(_expert_layer(expert_map_XYZE, last, reference, window))
    if uncertainty_XYZ is not None:
        layers.append(_spread_layer(uncertainty_XYZ, last, window))
    return draw(layers, planes, expert_names)


def comparison_figure(panels: Mapping[str, Volume], path: Path, **columns: Any) -> Path:
    """`compare`, written as a PNG; an existing file is replaced.

    Raises:
        CannotCreate: the file cannot be written. And what `compare` raises.
    """
    save_figure(compare(panels, **columns), Path(path))
    return Path(path)


def plot(result: Enhanced, path: Path | str | None = None, *, truth: Volume | None = None) -> Any:
    """Input, interpolated, enhanced (truth, error), experts and uncertainty in three planes, one intensity window.

    Columns that a result lacks are left out: experts where the scan was passed through, uncertainty in mode `detail`
    with one sample.

    Args:
        path: where a PNG goes; an existing file is replaced, None writes nothing.
        truth: the true scan, on any grid; brought to the result's intensities. No error is shown where it was not
            measured.

    Returns:
        The matplotlib figure.

    Raises:
        ConfigError: matplotlib is not installed.
        DataError: the result is constant.
        GeometryError: the truth lies wholly elsewhere.
        CannotCreate: the PNG cannot be written.
    """
    panels = {"input": result.source.volume, "interpolated": result.interpolated, "enhanced": result.volume}
    measured_XYZ = None
    if truth is not None:
        placed, measured_XYZ = truth_on(truth, result.volume.grid)
        fit, _ = fit_to_truth(result.volume, placed, measured_XYZ)
        panels["truth"] = in_units_of_result(placed, fit)
    figure = compare(
        panels,
        error_of=None if truth is None else ("enhanced", "truth"),
        measured_XYZ=measured_XYZ,
        expert_map_XYZE=result.gate_XYZE if bool(result.mask_XYZ.any()) else None,
        expert_names=result.expert_names,
        uncertainty_XYZ=None if result.uncertainty is None else result.uncertainty.data_XYZ,
    )
    if path is not None:
        save_figure(figure, Path(path))
    return figure
