"""How a picture of columns is drawn with matplotlib: three planes a column, legends below.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from moediff._version import RESEARCH_ONLY
from moediff.core.errors import ConfigError, prefix_errors
from moediff.core.volume import Volume
from moediff.io.atomic import whole_file

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # across, up, through
EDGES = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
EXPERT_COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#F0E442")  # Okabe & Ito 2008
COLUMN_INCH, GAP_INCH, TITLE_INCH, FOOT_INCH = 2.15, 0.06, 0.62, 0.62
DOTS_PER_INCH = 150
PAPER, INK, FAINT = "#000000", "#f2f2f2", "#9a9a9a"


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
class View:
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


def _draw_plane(axes: Any, layer: Column, plane: str, view: View) -> Any:
    across, up, through = PLANES[plane]
    image = axes.imshow(
        layer.slice_at(plane, view.centre[through]),
        origin="lower",
        extent=layer.extent(plane),
        interpolation="nearest",
        aspect="equal",
        cmap=layer.colours,
        vmin=layer.limits[0],
        vmax=layer.limits[1],
    )
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


def _draw_colour_bar(figure: Any, image: Any, place: tuple[float, float], words: str) -> None:
    left, width = place
    height = figure.get_figheight()
    bar_axes = figure.add_axes((left + 0.12 * width, 0.36 / height, 0.76 * width, 0.09 / height))
    bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=6.5, length=2, pad=1.5)
    bar.set_label(words, color=INK, fontsize=6.5, labelpad=1)


def draw(layers: Sequence[Column], view: View, expert_names: Sequence[str]) -> Any:
    """The figure: one column a layer, one row a plane."""
    figure_class, _ = matplotlib_parts()
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
