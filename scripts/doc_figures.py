"""Figures of README and the documentation, made from nilearn's MNI152 average and published results.

    python scripts/doc_figures.py              all, into docs/images/
    python scripts/doc_figures.py steps gains  only these

The template is an average of 152 heads; it shows no person and no face.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from gallery import IMAGES, MNI152, RECIPES, save_small
from moediff.acquisition.degrade import degrade
from moediff.benchmark.aggregate import with_gains
from moediff.benchmark.records import read_results
from moediff.core.config import rng_for
from moediff.core.geometry import resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.result import Enhanced
from moediff.io.scans import load
from moediff.report.layers import EXPERT_COLOURS
from published_numbers import RECIPES as RECIPE_NAMES
from published_numbers import RESULTS

Box = tuple[float, float, float, float]  # left, right, bottom, top in mm
PAPER, INK, FRAME = "#000000", "#f2f2f2", "#ffb000"
CORONAL_MM = -22.0  # through the hippocampus
HEAD: Box = (-78, 78, -66, 84)
ZOOM: Box = (2, 52, -46, 4)  # temporal lobe and hippocampus of one side
HASH = "moediff"  # of the identifiers in SVG files, so that equal figures are equal files
BLUE, ORANGE, GREY = "#2f5fb3", "#c65d00", "#777c87"  # readable on white and on dark paper
STYLE: Any = {  # matplotlib types it as a dictionary of its own keys
    "svg.hashsalt": HASH,
    "svg.fonttype": "none",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
}
STEPS = (
    ("scan", "5 mm slices"),
    ("prepare", "orient, find the head,\ninterpolate (Wiener)"),
    ("encoder", "reads the whole head\nonce"),
    ("gate", "weight of each expert,\nplace by place"),
    ("4 experts", "estimate what\ninterpolation missed"),
    ("data\nconsistency", "acquire again, compare,\ncorrect"),
    ("result", "scan, sidecar,\nmaps"),
)
LABELS = {
    "thick5": "5 mm slices",
    "thick3": "3 mm slices",
    "mixed": "4 mm slices, mixed",
    "low1.5": "1.5 times larger, noisy",
    "iso2": "voxels 2 times larger",
    "inplane2": "2 times in the plane",
    "iso1.5": "voxels 1.5 times larger",
    "low-field": "low field",
}


@cache
def truth() -> Volume:
    """The template, 1 mm."""
    return load(str(files("nilearn").joinpath(MNI152))).volume


@cache
def low() -> Volume:
    """The template as 5 mm slices with 1 % noise."""
    return degrade(truth(), RECIPES["1x1x5mm"], rng_for(0, "demo", "1x1x5mm"))


@cache
def enhanced(*, data_consistency: bool = True) -> Enhanced:
    """The result of the embedded weights on the template's own grid."""
    return Enhancer()(low(), EnhanceOptions(like=truth().grid, data_consistency=data_consistency))


def coronal(volume: Volume, y_mm: float) -> tuple[np.ndarray, Box]:
    """A coronal plane [up, across] and where its outer edges lie, for volumes along the axes."""
    step = [float(volume.affine[axis, axis]) for axis in range(3)]
    first = [float(volume.affine[axis, 3]) for axis in range(3)]
    plane = volume.data_XYZ[:, round((y_mm - first[1]) / step[1])].T.numpy()
    edges = [(first[a] - step[a] / 2, first[a] + (volume.shape[a] - 0.5) * step[a]) for a in (0, 2)]
    return plane, (*edges[0], *edges[1])


def show(axes: Any, plane: np.ndarray, extent: Box, box: Box, **style: Any) -> None:
    """Draw a plane inside a box, without axes."""
    axes.imshow(plane, origin="lower", extent=extent, interpolation="nearest", **style)
    axes.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def steps() -> None:
    """What a scan passes through, from left to right."""
    figure = Figure(figsize=(11, 2.1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, len(STEPS)), ylim=(0, 1))
    axes.set_axis_off()
    for number, (title, text) in enumerate(STEPS):
        ends = number in (0, len(STEPS) - 1)
        colour = GREY if ends else ORANGE if title == "4 experts" else BLUE
        axes.add_patch(
            FancyBboxPatch((number + 0.1, 0.52), 0.72, 0.34, boxstyle="round,pad=0.02,rounding_size=0.05", color=colour)
        )
        axes.text(number + 0.46, 0.69, title, ha="center", va="center", color="white", fontsize=11, weight="bold")
        axes.text(number + 0.46, 0.38, text, ha="center", va="top", color=GREY, fontsize=9)
        if number:
            axes.add_patch(
                FancyArrowPatch(
                    (number - 0.15, 0.69),
                    (number + 0.08, 0.69),
                    arrowstyle="-|>",
                    color=GREY,
                    lw=1.5,
                    mutation_scale=12,
                )
            )
    _save_svg(figure, "steps.svg")


def experts() -> None:
    """Which expert counts most where, beside the scan it read."""
    result = enhanced()
    plane, extent = coronal(result.volume, CORONAL_MM)
    y = round((CORONAL_MM - float(truth().affine[1, 3])) / float(truth().affine[1, 1]))
    stacked = result.gate_XYZE[:, y].permute(1, 0, 2).numpy()  # [up, across, expert]
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in EXPERT_COLOURS])
    inside = stacked.sum(-1, keepdims=True) > 0.5
    painted = np.where(inside, stacked @ colours[: stacked.shape[-1]], 0)
    figure = Figure(figsize=(10, 5.3), dpi=150, facecolor=PAPER)
    left, right = figure.subplots(1, 2)
    show(left, plane, extent, HEAD, cmap="gray")
    show(right, painted, extent, HEAD)
    left.set_title("enhanced", color=INK, fontsize=14)
    right.set_title("weights of the four experts, as colours", color=INK, fontsize=14)
    for number, name in enumerate(result.expert_names):
        figure.text(0.12 + 0.21 * number, 0.03, f"■ {name}", color=EXPERT_COLOURS[number], fontsize=13)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.09, top=0.93, wspace=0.02)
    save_small(figure, IMAGES / "experts.png")


def errors() -> None:
    """The error that interpolation, the network and data consistency leave, beside the predicted uncertainty."""
    parts = {
        "cubic interpolation": resample(low(), truth().grid, "cubic"),
        "network alone": enhanced(data_consistency=False).volume,
        "with data consistency": enhanced().volume,
    }
    most = float(truth().data_XYZ.max())
    mask = truth().data_XYZ > 0.05 * most
    figure = Figure(figsize=(11, 3.1), dpi=150, facecolor=PAPER)
    panels = figure.subplots(1, len(parts) + 1)
    for axes, (title, volume) in zip(panels, parts.items(), strict=False):
        error = volume.data_XYZ - truth().data_XYZ
        plane, extent = coronal(Volume(error, truth().affine), CORONAL_MM)
        show(axes, plane, extent, HEAD, cmap="RdBu_r", vmin=-0.15 * most, vmax=0.15 * most)
        rms = 100 * float((error[mask] ** 2).mean() ** 0.5) / most
        axes.set_title(f"{title}\nRMS error {rms:.1f} %", color=INK, fontsize=12)
    uncertainty = enhanced().uncertainty
    assert uncertainty is not None
    plane, extent = coronal(uncertainty, CORONAL_MM)
    show(panels[-1], plane, extent, HEAD, cmap="inferno", vmin=0, vmax=0.1 * most)
    panels[-1].set_title("predicted uncertainty\n(standard deviation)", color=INK, fontsize=12)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.84, wspace=0.02)
    save_small(figure, IMAGES / "errors.png")


def gains() -> None:
    """Gain over interpolation, a dot per person and a bar for the mean, by recipe."""
    rows = [row for row in with_gains(read_results(RESULTS).rows) if row.method == "faithful"]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    values = {name: [r.gain_psnr for r in rows if r.recipe == name and r.gain_psnr is not None] for name in LABELS}
    assert set(values) == set(RECIPE_NAMES)
    _draw_gains(axes, values)
    _save_svg(figure, "gains.svg")


def _draw_gains(axes: Any, values: Mapping[str, Sequence[float]]) -> None:
    for position, dots in enumerate(values.values()):
        mean = statistics.fmean(dots)
        axes.barh(position, mean, color=BLUE, alpha=0.35, height=0.6)
        axes.plot(dots, [position] * len(dots), "o", color=BLUE, markersize=4)
        axes.text(max(dots) + 0.06, position, f"{mean:.2f}", va="center", color=GREY)
    axes.set_yticks(range(len(values)), [LABELS[name] for name in values])
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, lw=1)
    axes.set_xlabel("gain over the better interpolation, dB PSNR (dots: persons; bar and number: mean)")
    axes.spines[["top", "right"]].set_visible(False)


def files_written() -> None:
    """What one run reads and writes."""
    figure = Figure(figsize=(9, 3.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 9), ylim=(0, 3.4))
    axes.set_axis_off()
    rows = (
        ("sub-01_desc-sr_T2w.nii.gz", "the enhanced scan", BLUE),
        ("sub-01_desc-sr_T2w.json", "the sidecar: settings, warnings, checks", BLUE),
        ("--uncertainty sd.nii.gz", "standard deviation of every voxel", GREY),
        ("--experts experts.nii.gz", "weight of each expert, 4-D", GREY),
        ("--mask mask.nii.gz", "where the network worked", GREY),
        ("--report look.html", "one page, offline", GREY),
    )
    _box(axes, (0.1, 1.35), 2.2, "sub-01_T2w.nii.gz", ORANGE)
    axes.text(1.2, 1.15, "or DICOM, .mgz, .hdr/.img", ha="center", va="top", color=GREY, fontsize=9)
    for number, (name, text, colour) in enumerate(rows):
        y = 2.85 - 0.52 * number
        _box(axes, (3.3, y), 2.6, name, colour)
        axes.text(6.1, y + 0.19, text, va="center", color=GREY, fontsize=10)
        axes.add_patch(
            FancyArrowPatch((2.4, 1.55), (3.22, y + 0.19), arrowstyle="-|>", color=GREY, lw=1, mutation_scale=10)
        )
    axes.text(4.6, 0.06, "blue: always written; grey: on request", ha="center", color=GREY, fontsize=9)
    _save_svg(figure, "files.svg")


def _box(axes: Any, corner: tuple[float, float], width: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            corner, width, 0.36, boxstyle="round,pad=0.01,rounding_size=0.06", facecolor=colour, edgecolor="none"
        )
    )
    axes.text(corner[0] + width / 2, corner[1] + 0.18, text, ha="center", va="center", color="white", fontsize=10)


def _save_svg(figure: Figure, name: str) -> None:
    figure.savefig(IMAGES / name, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


FIGURES: dict[str, Callable[[], None]] = {
    "steps": steps,
    "experts": experts,
    "errors": errors,
    "gains": gains,
    "files": files_written,
}


def main() -> None:
    """Draw what is named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(FIGURES)} (default: all)")
    wanted = parser.parse_args().figures or list(FIGURES)
    if unknown := [name for name in wanted if name not in FIGURES]:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(FIGURES)}")
    tune_allocator()
    for name in wanted:
        with rc_context(STYLE):
            FIGURES[name]()
        print(name)


if __name__ == "__main__":
    main()
