"""Rendering of cases to blinded PNG slices: one grid, one intensity window and one set of slices for all methods.

Axes: X Y Z voxels (RAS+).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import DataError, prefix_errors
from moediff.core.morphology import components
from moediff.core.volume import Volume
from moediff.evaluation.alignment import on_grid
from moediff.evaluation.pairs import load_annotation
from moediff.io.label_check import load_intensities
from moediff.report.layers import PLANES, air, nearest, quantiles, to_bytes
from moediff.report.slices import png, slice_HW
from moediff.study.cases import Case
from moediff.study.records import INPUT, LESIONS, REFERENCE, Lesion, Stack

REMEDY = "name scans, and outlines of lesions by --lesions"
WINDOW = (0.01, 0.998)  # quantiles of the scan that the window is taken from
HEAD_LEVEL = 0.08  # of the window; below lies air
MIDDLE = 0.9  # of the head's slices: the outermost show nothing
GAIN_RANGE = (0.7, 1.4)  # of a result against the window's scan; beyond it the intensities have another unit


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """How cases are rendered.

    Args:
        plane: axial, coronal or sagittal.
        slices: at most this many, evenly spaced through the head.
        match_intensity: fit each result's intensities to the input's by a gain and an offset first.
    """

    plane: str = "axial"
    slices: int = 32
    match_intensity: bool = False

    def __post_init__(self) -> None:
        if self.plane not in PLANES or self.slices < 1:
            raise DataError(f"plane {self.plane!r} and {self.slices} slices: expected {', '.join(PLANES)}, at least 1")


@dataclass(frozen=True, kw_only=True)
class RenderedCase:
    """A case as pictures.

    Args:
        stack: size that all images share.
        images: method or role -> PNG files of the slices.
        window: intensities shown as black and white.
        lesions: those on the slices shown; None where no outlines were given.
        hidden_lesions: outlined lesions that no slice shows.
        warnings: doubts about the files.
    """

    stack: Stack
    images: dict[str, list[bytes]]
    window: tuple[float, float]
    lesions: tuple[Lesion, ...] | None
    hidden_lesions: int
    warnings: tuple[str, ...]


def render_case(case: Case, options: RenderOptions) -> RenderedCase:
    """Every image of a case on the grid of its reference (without one: of its first result), in one window.

    The window is the widest that the input and the results ask for: none of them is clipped. The input keeps its
    own voxels. The reference gets the window that the same quantiles give it: it may come from another scanner.

    Raises:
        DataError: a scan is constant, or a result's intensities have another unit than the input's.
        InputMissing, GeometryError: a file cannot be used.
    """
    scans = _load_scans(case)
    warnings = []
    target = scans.get(REFERENCE, scans[next(iter(case.results))])
    results = {}
    for method in case.results:
        moved, kernel = on_grid(scans[method], target.grid, resample=True)
        if kernel:
            warnings.append(f"{method} was resampled ({kernel}) to the grid of the case")
        results[method] = moved
    source = _on(scans[INPUT], target) if INPUT in scans else _mean(list(results.values()))
    window = _window(source)
    results = {method: _matched(method, result, source, window, options) for method, result in results.items()}
    windows = [window, *map(_window, results.values())]
    window = min(low for low, _ in windows), max(high for _, high in windows)
    through = PLANES[options.plane][2]
    displayed = _slices(source, window, through, options.slices)
    images = {method: _pngs(result, window, options.plane, displayed) for method, result in results.items()}
    if INPUT in scans:
        images[INPUT] = _pngs(source, window, options.plane, displayed)
    if REFERENCE in scans:
        images[REFERENCE] = _pngs(target, _window(target), options.plane, displayed)
    lesions, hidden = None, 0
    if LESIONS in case.others:
        lesions, hidden = _lesions(case.others[LESIONS], target, options.plane, displayed)
        if hidden:
            warnings.append(
                f"outlined lesions that lie between the slices shown and do not count: {hidden}; show more (--slices)"
            )
    return RenderedCase(
        stack=_stack(target, options.plane, displayed),
        images=images,
        window=window,
        lesions=lesions,
        hidden_lesions=hidden,
        warnings=tuple(warnings),
    )


def _load_scans(case: Case) -> dict[str, Volume]:
    files = {name: path for name, path in (case.results | case.others).items() if name != LESIONS}
    return {name: load_intensities(path, REMEDY).volume for name, path in files.items()}


def _on(volume: Volume, target: Volume) -> Volume:
    return target.with_data(nearest(volume, target.grid, outside=air(volume)))


def _mean(volumes: list[Volume]) -> Volume:
    return volumes[0].with_data(sum((v.data_XYZ for v in volumes), torch.zeros(())) / len(volumes))


def _window(volume: Volume) -> tuple[float, float]:
    low, high = quantiles(volume.data_XYZ, *WINDOW)
    if not high > low:
        raise DataError(f"the scan has no contrast (window {low}..{high}); expected a scan")
    return low, high


def _matched(
    method: str, result: Volume, source: Volume, window: tuple[float, float], options: RenderOptions
) -> Volume:
    """The result in the intensities of the window's scan: unchanged, or fitted where that was asked for."""
    inside = source.data_XYZ > window[0] + HEAD_LEVEL * (window[1] - window[0])
    x, y = (volume.data_XYZ[inside].double() for volume in (result, source))
    variance = float(x.var())
    gain = float(((x - x.mean()) * (y - y.mean())).mean()) / variance if variance > 0 else math.nan
    if not math.isfinite(gain) or gain <= 0:
        raise DataError(f"the result of {method} does not show what the others show: do its files belong to this case?")
    if options.match_intensity:
        return result.with_data((gain * (result.data_XYZ - float(x.mean())) + float(y.mean())).float())
    scale = float(y.mean() / x.mean()) if float(x.mean()) else math.inf
    if not GAIN_RANGE[0] < scale < GAIN_RANGE[1]:
        raise DataError(
            f"intensities of {method} times {scale:.3g} would be those of the other images, so one window cannot show "
            "both: allow fitting them (--match-intensity)"
        )
    return result


def _slices(source: Volume, window: tuple[float, float], through: int, most: int) -> list[int]:
    """Indices, evenly spaced through the middle of the head."""
    inside_head = source.data_XYZ > window[0] + HEAD_LEVEL * (window[1] - window[0])
    profile = inside_head.float().sum([axis for axis in range(3) if axis != through])
    inside = (profile > 0.02 * profile.max()).nonzero().flatten()
    first, last = int(inside.min()), int(inside.max())
    margin = (1 - MIDDLE) / 2 * (last - first)
    first, last = math.ceil(first + margin), math.floor(last - margin)
    step = max(1, math.ceil((last - first + 1) / most))
    return list(range(first, last + 1, step))[:most]


def _pngs(volume: Volume, window: tuple[float, float], plane: str, displayed: list[int]) -> list[bytes]:
    grey_XYZ = to_bytes(volume.data_XYZ, *window)
    return [png(slice_HW(grey_XYZ, plane, index)) for index in displayed]


def _stack(target: Volume, plane: str, displayed: list[int]) -> Stack:
    across, up, through = PLANES[plane]
    step = displayed[1] - displayed[0] if len(displayed) > 1 else 1
    return Stack(
        slices=len(displayed),
        width=target.shape[across],
        height=target.shape[up],
        width_mm=round(target.shape[across] * target.spacing_mm[across], 3),
        height_mm=round(target.shape[up] * target.spacing_mm[up], 3),
        gap_mm=round(step * target.spacing_mm[through], 3),
    )


def _lesions(path: Path, target: Volume, plane: str, displayed: list[int]) -> tuple[tuple[Lesion, ...], int]:
    """Outlined lesions as runs of pixels on the slices shown, and how many of them none shows."""
    with prefix_errors(path):
        mask_XYZ = nearest(load_annotation(path), target.grid, outside=0.0) > 0.5
    labels_XYZ = components(mask_XYZ)
    lesions = [_runs(labels_XYZ == label, plane, displayed) for label in range(1, int(labels_XYZ.max()) + 1)]
    seen = [Lesion(runs=runs) for runs in lesions if runs]
    return tuple(seen), len(lesions) - len(seen)


def _runs(mask_XYZ: Tensor, plane: str, displayed: list[int]) -> tuple[tuple[int, int, int, int], ...]:
    runs = []
    for position, index in enumerate(displayed):
        mask_HW = slice_HW(mask_XYZ.to(torch.uint8), plane, index)
        for row in np.flatnonzero(mask_HW.any(axis=1)):
            edges = np.flatnonzero(np.diff(np.pad(mask_HW[row].astype(np.int8), 1)))
            runs += [(position, int(row), int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return tuple(runs)
