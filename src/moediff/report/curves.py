"""Two plots as inline SVG: how often each intensity occurs, and how much detail of each fineness there is.

Axes: X Y Z voxels, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from moediff.evaluation.spectrum import radius
from moediff.report.layers import Display, sampled

BINS, SHELLS = 64, 48
HISTOGRAM_VOXELS, SPECTRUM_VOXELS = 1_000_000, 128
AIR_BINS = 5  # the darkest 8 % of the window; air would dwarf everything else
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 220, 46, 38, 10
COLOURS = {"input": "#999999", "interpolated": "#E69F00", "enhanced": "#0072B2", "truth": "#009E73"}


@dataclass(frozen=True)
class Curve:
    """One line of a plot: y over evenly spaced x."""

    name: str
    colour: str
    y: tuple[float, ...]


@dataclass(frozen=True)
class Plot:
    """A drawn plot: SVG path data per curve and the words around it."""

    title: str
    across: str
    up: str
    x_ends: tuple[str, str]
    curves: tuple[tuple[str, str, str], ...]  # name, colour, path


def histogram(data_XYZ: Tensor) -> Tensor:
    """Share of the head's voxels (8-bit, air left out) in each of 64 intensity bins."""
    levels_V = np.bincount(sampled(data_XYZ, HISTOGRAM_VOXELS).numpy().ravel(), minlength=256)
    counts_K = torch.from_numpy(levels_V).reshape(BINS, -1).sum(1).double()
    counts_K[:AIR_BINS] = 0
    return counts_K / counts_K.sum().clamp_min(1)


def _middle(data_XYZ: Tensor) -> Tensor:
    """The central box of at most SPECTRUM_VOXELS a side: tissue, not air."""
    for axis, n in enumerate(data_XYZ.shape):
        kept = min(n, SPECTRUM_VOXELS)
        data_XYZ = data_XYZ.narrow(axis, (n - kept) // 2, kept)
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


def _path(y: Sequence[float], low: float, high: float) -> str:
    width, height = WIDTH - LEFT - 8, HEIGHT - BOTTOM - TOP
    points = (
        f"{LEFT + width * i / (len(y) - 1):.1f},{TOP + height * (high - value) / (high - low):.1f}"
        for i, value in enumerate(y)
    )
    return "M" + "L".join(points)


def _plot(words: tuple[str, str, str], x_ends: tuple[str, str], curves: Sequence[Curve]) -> Plot:
    low, high = min(min(c.y) for c in curves), max(max(c.y) for c in curves)
    high = high if high > low else low + 1
    drawn = tuple((c.name, c.colour, _path(c.y, low, high)) for c in curves)
    title, across, up = words
    return Plot(title, across, f"{up}, {low:.3g} to {high:.3g}", x_ends, drawn)


def plots(shown: Display) -> list[Plot]:
    """Histogram of every scan, and spectrum of all but the input, which lies on coarser voxels of its own."""
    low, high = shown.scans[0].low, shown.scans[0].high
    bars = [Curve(s.title, COLOURS[s.key], tuple(histogram(s.data_XYZ).tolist())) for s in shown.scans]
    fine = [s for s in shown.scans if s.key != "input"]
    power = [Curve(s.title, COLOURS[s.key], tuple(power_spectrum(s.data_XYZ).tolist())) for s in fine]
    intensities = ("Intensities", "intensity in the scan's own units", "share of the head")
    detail = ("Detail", "fineness: from coarse shapes to single voxels", "power in dB")
    return [
        _plot(intensities, (f"{low:.4g}", f"{high:.4g}"), bars),
        _plot(detail, ("coarse", "finest"), power),
    ]
