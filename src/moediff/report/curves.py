"""Curves of a report as inline SVG: intensity histogram and radial power spectrum.

Axes: X Y Z voxels, K bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from moediff.evaluation.metrics.spectrum import radius
from moediff.report.charts import ticks
from moediff.report.layers import Display, sampled, to_bytes

BINS, SHELLS = 64, 48
HISTOGRAM_VOXELS, SPECTRUM_VOXELS = 1_000_000, 128
AIR_BINS = 5  # the darkest 8 % of the window; air would dwarf everything else
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 420, 240, 48, 12, 42, 10
DECIBELS = 20  # between two lines of the spectrum
SIZES = (8, 4, 3, 2)  # voxels; details this large are marked along the spectrum
OF_ONE_GRID = ("interpolated", "enhanced", "truth")
DRAWN = ("input", *OF_ONE_GRID)  # page.css has a colour for each; further scans and a guide have units of their own


@dataclass(frozen=True)
class Curve:
    """One line of a plot: y over evenly spaced x; the key decides how it is drawn."""

    key: str
    name: str
    y: tuple[float, ...]


@dataclass(frozen=True)
class Plot:
    """A drawn plot: SVG path data per curve, grid lines and the words around it.

    Args:
        title, across, up, note: words.
        x_marks, y_marks: place in user units and text of every grid line.
        curves: key, name and path.
    """

    title: str
    across: str
    up: str
    note: str
    x_marks: tuple[tuple[float, str], ...]
    y_marks: tuple[tuple[float, str], ...]
    curves: tuple[tuple[str, str, str], ...]


def histogram(data_XYZ: Tensor, low: float, high: float) -> Tensor:
    """Share of the head's voxels (air left out) in each of 64 intensity bins between two intensities."""
    levels_XYZ = to_bytes(sampled(data_XYZ, HISTOGRAM_VOXELS), low, high)
    levels_V = np.bincount(levels_XYZ.numpy().ravel(), minlength=256)
    histogram_K = torch.from_numpy(levels_V).reshape(BINS, -1).sum(1).double()
    histogram_K[:AIR_BINS] = 0
    return histogram_K / histogram_K.sum().clamp_min(1)


def _middle(data_XYZ: Tensor) -> Tensor:
    """The central box of at most SPECTRUM_VOXELS a side: tissue, not air."""
    for axis, n in enumerate(data_XYZ.shape):
        size = min(n, SPECTRUM_VOXELS)
        data_XYZ = data_XYZ.narrow(axis, (n - size) // 2, size)
    return data_XYZ.float()


@lru_cache(maxsize=4)
def _shells(shape: torch.Size) -> np.ndarray:
    """Shell of every coefficient of a real transform; SHELLS beyond Nyquist."""
    return (radius(shape) * SHELLS).to(torch.int64).clamp_max(SHELLS).flatten().numpy()


def power_spectrum(data_XYZ: Tensor) -> Tensor:
    """Radially averaged power in dB below its greatest, from 0 to Nyquist of the voxels, in the middle of the head.

    A Hann window on each axis keeps the borders out of it (van der Schaaf & van Hateren 1996).
    """
    data = _middle(data_XYZ)
    data = data - data.mean()
    for axis, n in enumerate(data.shape):
        shape = [n if a == axis else 1 for a in range(3)]
        data = data * torch.hann_window(n, periodic=False).reshape(shape)
    power = torch.view_as_real(torch.fft.rfftn(data)).square().sum(-1)
    index = _shells(data.shape)
    total_K = np.bincount(index, power.flatten().numpy(), SHELLS + 1)
    mean_K = torch.from_numpy(total_K / np.bincount(index, minlength=SHELLS + 1).clip(1))[:SHELLS]
    return 10 * torch.log10((mean_K / mean_K.max().clamp_min(1e-12)).clamp_min(1e-8))


def _x(share: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)


def _y(value: float, low: float, high: float) -> float:
    return round(TOP + (HEIGHT - BOTTOM - TOP) * (high - value) / (high - low), 1)


def _paths(curves: Sequence[Curve], low: float, high: float) -> tuple[tuple[str, str, str], ...]:
    drawn = []
    for curve in curves:
        points = (f"{_x(i / (len(curve.y) - 1))},{_y(v, low, high)}" for i, v in enumerate(curve.y))
        drawn.append((curve.key, curve.name, "M" + "L".join(points)))
    return tuple(drawn)


def _intensities(layers: Display) -> Plot:
    low, high = min(layers.windows[0].low, 0.0), layers.windows[0].high
    drawn = [s for s in layers.scans if s.key in DRAWN]
    curves = [Curve(s.key, s.title, tuple((100 * histogram(s.volume.data_XYZ, low, high)).tolist())) for s in drawn]
    marks = ticks(0, max(max(c.y) for c in curves) or 1.0, 4)
    inside = [t for t in ticks(low, high, 4) if low <= t <= high]
    return Plot(
        "Intensities",
        "intensity in the scan's own units",
        "% of the head",
        "How common each brightness is; air is left out.",
        tuple((_x((t - low) / (high - low)), f"{round(t, 10):g}") for t in inside),
        tuple((_y(t, marks[0], marks[-1]), f"{round(t, 10):g}") for t in marks),
        _paths(curves, marks[0], marks[-1]),
    )


def _detail(layers: Display) -> Plot:
    fine = [s for s in layers.scans if s.key in OF_ONE_GRID]
    curves = [Curve(s.key, s.title, tuple(power_spectrum(s.volume.data_XYZ).tolist())) for s in fine]
    low = DECIBELS * min(-1, math.floor(min(min(c.y) for c in curves) / DECIBELS))
    levels = range(low, 1, DECIBELS)
    return Plot(
        "Detail",
        "size of the detail, in voxels",
        "strength, dB",
        "How much there is of coarse (left) and fine (right) detail; 20 dB down is a tenth of the amplitude.",
        tuple((_x(2 / size), f"{size}") for size in SIZES),
        tuple((_y(v, low, 0), f"{v}") for v in levels),
        _paths(curves, low, 0),
    )


def plots(layers: Display) -> list[Plot]:
    """Histograms, and spectra of all but the input, which lies on coarser voxels of its own."""
    return [_intensities(layers), _detail(layers)]
