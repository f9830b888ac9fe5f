"""A figure like the first one of README from a scan of yours: input, interpolated, enhanced, and a zoom.

    python scripts/scan_figure.py SCAN -o OUT.png                     a stripped scan
    python scripts/scan_figure.py SCAN -o OUT.png --strip 8           take the brain out first, for scans with skull
    python scripts/scan_figure.py SCAN -o OUT.png --plane sagittal --at 0.45 --zoom 0.5 0.4

The plane lies across the slices of an axial scan. `--strip` is for pictures only: what is brighter than air is eroded
by so many mm, which breaks the links between brain and scalp, and the largest part grows back. Look at the picture
before you show it to anyone: no face, no name, and a licence that allows it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from doc_figures import FRAME, INK, PAPER
from gallery import save_small
from moediff.core.geometry import resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

TISSUE = 0.3  # of the 99th percentile: what is brighter may be brain
PLANES = {"coronal": (1, 0), "sagittal": (0, 1)}  # axis that is cut, axis that runs from left to right
ZOOM_SIDE = 0.32  # of the plane's width


def brain(data_XYZ: np.ndarray, spacing_mm: tuple[float, ...], erode_mm: float) -> np.ndarray:
    """Mask of the largest part that is left after erosion, grown back; for pictures."""
    bright = data_XYZ > TISSUE * np.percentile(data_XYZ, 99)
    core = ndimage.distance_transform_edt(bright, sampling=spacing_mm) > erode_mm
    parts, count = ndimage.label(core)
    if count == 0:
        raise SystemExit(f"nothing is left after erosion by {erode_mm:g} mm: give a smaller number")
    largest = parts == 1 + int(np.argmax(ndimage.sum_labels(core, parts, range(1, count + 1))))
    grown = ndimage.distance_transform_edt(~largest, sampling=spacing_mm) <= erode_mm + 1
    return ndimage.binary_fill_holes(grown & bright)


def stripped(scan: Volume, erode_mm: float) -> Volume:
    """The scan with zeros outside its brain."""
    mask = brain(scan.data_XYZ.numpy(), tuple(scan.grid.spacing_mm), erode_mm)
    return Volume(scan.data_XYZ * torch.from_numpy(mask), scan.affine)


def plane_of(volume: Volume, plane: str, at: float) -> tuple[np.ndarray, float]:
    """A plane [up, across] at a share of the volume's width, and how tall a voxel is against its width."""
    cut, across = PLANES[plane]
    spacing = volume.grid.spacing_mm
    picture = volume.data_XYZ.select(cut, round(at * (volume.shape[cut] - 1))).T.numpy()
    return picture, float(spacing[2] / spacing[across])


def draw(columns: dict[str, Volume], plane: str, at: float, zoom: tuple[float, float], path: Path) -> None:
    """Two rows: the plane, and a square of it; `zoom` is its corner as shares of width and height."""
    first = next(iter(columns.values()))
    most = float(np.percentile(first.data_XYZ.numpy()[first.data_XYZ.numpy() > 0], 99.7))
    rows, cols = (np.flatnonzero(plane_of(first, plane, at)[0].any(axis=axis)) for axis in (1, 0))
    limits = np.array([(ends[0], ends[-1] + 1) for ends in (cols, rows)], float)  # the head, without the air around it
    limits /= np.array(plane_of(first, plane, at)[0].shape[::-1])[:, None]
    figure = Figure(figsize=(10, 6.8), dpi=150, facecolor=PAPER)
    axes = figure.subplots(2, len(columns), gridspec_kw={"hspace": 0.03, "wspace": 0.03})
    for (top, below), (title, volume) in zip(axes.T, columns.items(), strict=True):
        picture, aspect = plane_of(volume, plane, at)
        height, width = picture.shape
        side = ZOOM_SIDE * width
        corner = zoom[0] * width, zoom[1] * height
        for panel in (top, below):
            panel.imshow(
                picture, origin="lower", cmap="gray", vmin=0, vmax=most, aspect=aspect, interpolation="nearest"
            )
            panel.set(xticks=[], yticks=[])
        top.add_patch(Rectangle(corner, side, side / aspect, fill=False, color=FRAME, lw=1.5))
        top.set_title(title, color=INK, fontsize=15)
        top.set(xlim=limits[0] * width - 0.5, ylim=limits[1] * height - 0.5)
        below.set(xlim=(corner[0], corner[0] + side), ylim=(corner[1], corner[1] + side / aspect))
        for spine in below.spines.values():
            spine.set(color=FRAME, linewidth=1.5)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.945)
    save_small(figure, path)


def main() -> None:
    """Enhance, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PNG")
    parser.add_argument("--strip", type=float, metavar="MM", help="take the brain out of a scan with skull")
    parser.add_argument("--plane", choices=PLANES, default="coronal")
    parser.add_argument("--at", type=float, default=0.5, metavar="SHARE", help="where the plane lies, 0 to 1")
    parser.add_argument(
        "--zoom", type=float, nargs=2, default=(0.5, 0.35), metavar="SHARE", help="its lower left corner"
    )
    args = parser.parse_args()
    tune_allocator()
    scan = load(args.scan).volume
    scan = stripped(scan, args.strip) if args.strip else scan
    result = Enhancer()(scan, EnhanceOptions()).volume
    slices = max(scan.grid.spacing_mm)
    columns = {
        f"input: {slices:.2g} mm slices": scan,
        "interpolated (cubic)": resample(scan, result.grid, "cubic"),
        "enhanced by MoEDiff-SR": result,
    }
    draw(columns, args.plane, args.at, tuple(args.zoom), args.output)


if __name__ == "__main__":
    main()
