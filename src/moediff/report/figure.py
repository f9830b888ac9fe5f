"""One picture that says what enhancement did: three planes through the brain, one column per scan.

Planes are drawn as radiologists read them: anterior or superior up, the patient's right on the image's left, the nose
to the left in sagittal planes. Every scan keeps its own voxels (nearest neighbour), placed by its affine, so thick
slices look thick. All scans share one intensity window.

Axes: X Y Z voxels (RAS+ after `canonicalise`), E experts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff import RESEARCH_ONLY
from moediff.errors import CannotCreate, ConfigError, DataError, GeometryError
from moediff.inference.options import Enhanced
from moediff.volume.geometry import axis_positions, canonicalise, resample
from moediff.volume.intensity import quantile
from moediff.volume.volume import Volume

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # across, up, through
EDGES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
EXPERT_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#F0E442")  # Okabe & Ito 2008
ERROR_COLOURS = "RdBu_r"
WINDOW = (0.01, 0.995)
ERROR_QUANTILE = 0.995
COLUMN_INCH, GAP_INCH, TITLE_INCH, FOOT_INCH = 2.15, 0.06, 0.62, 0.62
DOTS_PER_INCH = 150
MARGIN_MM = 6.0
PAPER, INK, FAINT = "#000000", "#f2f2f2", "#9a9a9a"


@dataclass(frozen=True)
class _Layer:
    """One column: canonical voxels (XYZ, or XYZ and RGB) and what they are drawn with."""

    title: str
    data: Tensor
    grid: Volume
    colours: str | None
    limits: tuple[float, float]

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
class _View:
    """Where the planes cut and how much of them is drawn, mm along the canonical axes."""

    centre: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def height_inch(self, plane: str) -> float:
        """Height of a row whose width is one column."""
        across, up, _ = PLANES[plane]
        return COLUMN_INCH * (self.high[up] - self.low[up]) / (self.high[across] - self.low[across])


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.colors import to_rgb
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("figures need matplotlib; install it with: pip install 'moediff-sr[report]'") from error
    return Figure, to_rgb


def _millimetres(volume: Volume) -> str:
    x, y, z = (f"{s:.2f}".rstrip("0").rstrip(".") for s in volume.spacing_mm)
    return f"{x} mm" if x == y == z else f"{x} x {y} x {z} mm"


def _aligned(panels: Mapping[str, Volume]) -> dict[str, Volume]:
    """All panels canonical; one that is oblique to the last panel is resampled onto it."""
    canonical = {name: canonicalise(volume)[0] for name, volume in panels.items()}
    reference = next(reversed(canonical.values()))
    return {
        name: volume if axis_positions(volume.grid, reference.grid) else resample(volume, reference.grid, "linear")
        for name, volume in canonical.items()
    }


def _view(layer: _Layer, head_XYZ: Tensor) -> _View:
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
    return _View(tuple(centre), tuple(low), tuple(high))


def _error_layer(volumes: Mapping[str, Volume], names: tuple[str, str], window: tuple[float, float]) -> _Layer:
    pred, truth = (volumes[name] for name in names)
    if pred.shape != truth.shape:
        raise GeometryError(f"the error needs one grid, got {pred.shape} and {truth.shape}; resample first")
    percent = (pred.data_XYZ - truth.data_XYZ).float() * (100 / (window[1] - window[0]))
    size = percent.abs()
    top = max(quantile(size[size > 0], ERROR_QUANTILE) if bool((size > 0).any()) else 1.0, 0.1)
    title = f"error\n{names[0].splitlines()[0]} - {names[1].splitlines()[0]}"
    return _Layer(title, percent, truth, ERROR_COLOURS, (-top, top))


def _expert_layer(gate_XYZE: Tensor, place: Volume, base: Volume, window: tuple[float, float]) -> _Layer:
    """Expert colours mixed by gate weight, shaded by the scan so that anatomy stays legible."""
    _, to_rgb = _matplotlib()
    if tuple(gate_XYZE.shape[:3]) != place.shape or gate_XYZE.shape[3] > len(EXPERT_COLOURS):
        raise GeometryError(
            f"expected expert weights {place.shape} x at most {len(EXPERT_COLOURS)}, got {tuple(gate_XYZE.shape)}"
        )
    experts = [canonicalise(place.with_data(weights))[0].data_XYZ for weights in gate_XYZE.float().unbind(-1)]
    palette = torch.tensor([to_rgb(colour) for colour in EXPERT_COLOURS[: len(experts)]])
    shade = ((base.data_XYZ.float() - window[0]) / (window[1] - window[0])).clamp(0, 1)
    data = torch.stack(experts, -1).clamp(0, 1) @ palette * (0.3 + 0.7 * shade)[..., None]
    return _Layer("expert map\ncolour = gate weight", data.clamp(0, 1), base, None, (0, 1))


def _draw_plane(axes: Any, layer: _Layer, plane: str, view: _View) -> Any:
    across, up, through = PLANES[plane]
    image = axes.imshow(
        layer.slice_at(plane, view.centre[through]),
        origin="lower", extent=layer.extent(plane), interpolation="nearest", aspect="equal",
        cmap=layer.colours, vmin=layer.limits[0], vmax=layer.limits[1],
    )  # fmt: skip
    axes.set_xlim(view.high[across], view.low[across])  # R+ and A+ run leftwards: radiological
    axes.set_ylim(view.low[up], view.high[up])
    axes.set_axis_off()
    return image


def _label_edges(axes: Any, plane: str) -> None:
    left, right, top, bottom = EDGES[plane]
    places = ((0.02, 0.5, left), (0.98, 0.5, right), (0.5, 0.97, top), (0.5, 0.03, bottom))
    for x, y, letter in places:
        axes.text(x, y, letter, transform=axes.transAxes, color=FAINT, fontsize=7, ha="center", va="center")


def _draw_legend(figure: Any, left: float, width: float, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=name) for colour, name in zip(EXPERT_COLOURS, names, strict=False)]
    frame = figure.add_axes((left, 0.0, width, FOOT_INCH / figure.get_figheight()))
    frame.set_axis_off()
    frame.legend(
        handles=patches, loc="center", ncols=1 if len(names) <= 3 else 2, fontsize=6.5, frameon=False,
        labelcolor=INK, handlelength=0.9, handleheight=0.9, columnspacing=0.9, handletextpad=0.5, labelspacing=0.35,
    )  # fmt: skip


def _draw_colour_bar(figure: Any, image: Any, left: float, width: float) -> None:
    height = figure.get_figheight()
    bar_axes = figure.add_axes((left + 0.12 * width, 0.36 / height, 0.76 * width, 0.09 / height))
    bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=6.5, length=2, pad=1.5)
    bar.set_label("% of the shown intensity range", color=INK, fontsize=6.5, labelpad=1)


def _draw(layers: Sequence[_Layer], view: _View, expert_names: Sequence[str]) -> Any:
    figure_class, _ = _matplotlib()
    rows = [view.height_inch(plane) for plane in PLANES]
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
            image = _draw_plane(axes, layer, plane, view)
            top -= GAP_INCH
            if column == 0:
                _label_edges(axes, plane)
        if layer.colours == ERROR_COLOURS:
            _draw_colour_bar(figure, image, left, share)
        if layer.colours is None and expert_names:
            _draw_legend(figure, left, share, expert_names)
    note = f"Patient's right on the image's left; anterior up or left.\n{RESEARCH_ONLY}"
    figure.text(0.12 / width, 0.31 / height, note, color=FAINT, fontsize=7, ha="left", va="center", linespacing=1.5)
    return figure


def _save(figure: Any, path: Path) -> None:
    """Write beside the target and rename, so that no half-written picture is left."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(partial, format="png", facecolor=PAPER)
        os.replace(partial, path)
    except OSError as error:
        raise CannotCreate(f"{path}: cannot write the figure ({error.strerror}); choose another folder") from error
    finally:
        partial.unlink(missing_ok=True)


def comparison_figure(
    panels: Mapping[str, Volume],
    path: Path | None = None,
    *,
    error_of: tuple[str, str] | None = None,
    expert_map_XYZE: Tensor | None = None,
    expert_names: Sequence[str] = (),
) -> Any:
    """Draw scans side by side, then their error and expert map; returns the matplotlib figure.

    Args:
        panels: column title -> scan, in order; text after a newline in a title is set small. Scans may differ in voxel
            size; the last one sets intensity window and planes, so give the truth (else the enhanced scan) last.
        path: where a PNG goes; an existing file is replaced. None writes nothing.
        error_of: titles of two panels on one grid; their difference, as % of the intensity window, becomes a column.
        expert_map_XYZE: gate weights on the last panel's grid, 0 where not evaluated; becomes a column.
        expert_names: legend of the expert map.

    Raises:
        ConfigError: matplotlib is not installed, or error_of names no panel.
        DataError: the last panel is constant or not finite.
        GeometryError: error or expert map do not fit their grids.
        CannotCreate: the file cannot be written.
    """
    _matplotlib()
    missing = [name for name in error_of or () if name not in panels]
    if not panels or missing:
        raise ConfigError(f"no panel called {missing}; panels are {list(panels)}")
    volumes = _aligned(panels)
    reference = list(volumes.values())[-1]
    window = (quantile(reference.data_XYZ, WINDOW[0]), quantile(reference.data_XYZ, WINDOW[1]))
    if not window[1] > window[0]:
        raise DataError(f"the last panel has no contrast (window {window[0]}..{window[1]}); expected a scan")
    layers = []
    for title, volume in volumes.items():
        shown = title if "\n" in title else f"{title}\n{_millimetres(volume)}"
        layers.append(_Layer(shown, volume.data_XYZ.float(), volume, "gray", window))
    view = _view(layers[-1], reference.data_XYZ > window[0] + 0.08 * (window[1] - window[0]))
    if error_of:
        layers.append(_error_layer(volumes, error_of, window))
    if expert_map_XYZE is not None:
        place = next(reversed(list(panels.values())))
        layers.append(_expert_layer(expert_map_XYZE, place, reference, window))
    figure = _draw(layers, view, expert_names)
    if path is not None:
        _save(figure, Path(path))
    return figure


def result_figure(result: Enhanced, path: Path | None = None, truth: Volume | None = None) -> Any:
    """Input, interpolated and enhanced scan (and truth and error when it is given) with the expert map.

    Args:
        result: what `Enhancer` returned.
        path: where a PNG goes; an existing file is replaced. None writes nothing.
        truth: the true scan on the result's grid.

    Raises:
        As `comparison_figure`.
    """
    panels = {"input": result.source.volume, "interpolated": result.interpolated}
    panels |= {"enhanced": result.volume} | ({} if truth is None else {"truth": truth})
    worked = bool(result.mask_XYZ.any())  # nothing did where a scan was passed through
    return comparison_figure(
        panels, path, error_of=None if truth is None else ("enhanced", "truth"),
        expert_map_XYZE=result.gate_XYZE if worked else None, expert_names=result.expert_names if worked else (),
    )  # fmt: skip
