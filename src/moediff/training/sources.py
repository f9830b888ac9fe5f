"""Sources of training patches: sharp scans and synthetic ones, read and scaled once.

Axes: X Y Z voxels, N voxels of the foreground.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.normalisation import brain_scaling, foreground
from moediff.acquisition.operators import gaussian_window_matrix
from moediff.acquisition.point_spread import FWHM
from moediff.anatomy.finer_labels import finer_label_map
from moediff.anatomy.labels import as_brain_label_map
from moediff.anatomy.regions import BACKGROUND, region_map, scan_regions
from moediff.anatomy.synthesis import synthesise
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, InputMissing, prefix_errors
from moediff.core.geometry import positions_along, with_spacing
from moediff.core.resample import apply_axes, interpolation_matrix
from moediff.core.volume import Volume
from moediff.io.label_check import load_intensities, load_truth
from moediff.io.scans import load
from moediff.io.voxels import without_outliers
from moediff.training.cache import ScanSource, TrainingScan, cached, read_training_scans, training_scan
from moediff.training.pairs import pair_of

REMEDY = "give `labels = true` for a label map, which synthesises scans of it, or name a scan"
LEAST_BLUR = 0.1  # voxels
LEAST_VOXELS = 16  # along an axis; smaller heads hold nothing to learn from


def load_training_scans(
    sources: Sequence[ScanSource], root: Path, seed: int, cache: Path | None = None
) -> list[TrainingScan]:
    """Read, prepare and resample every source; label maps become synthetic scans.

    With a `cache` folder, prepared scans are written there and read again by a resumed run, as long as
    files, settings and seed are the same. Regions come from the labels, and from tissue classification for stripped
    scans whose tissues can be distinguished.

    Raises:
        InputMissing: a scan is not there.
        ConfigError: no sources, or a requested voxel size that is finer than the scan.
    """
    if not sources:
        raise ConfigError("no training scans are listed; name at least one under [[scans]]")
    for name in (name for source in sources for name in (source.path, source.input) if name is not None):
        with prefix_errors(root / name):
            if not (root / name).exists():  # before minutes are spent on those that come first
                raise InputMissing("there is no such training scan: check the name")
    scans: list[TrainingScan] = []
    for source in sources:
        if cache is None or source.prepared:
            scans += _scans_of(source, root, seed)
        else:
            scans += cached(source, root, seed, cache, _scans_of)
    return scans


def _scans_of(source: ScanSource, root: Path, seed: int) -> list[TrainingScan]:
    if source.prepared:
        return read_training_scans(root / source.path)
    path = root / source.path
    volume = (load(path) if source.labels else load_intensities(path, REMEDY)).volume
    if source.input is None:
        with prefix_errors(root / source.path):
            return _synthetic_scans(volume, source, seed) if source.labels else _sharp_scans(volume, source)
    low = load_intensities(root / source.input, REMEDY).volume
    with prefix_errors(root / source.input):
        return _sharp_scans(volume, source, brain_scaled(low)[0])


def _sharp_scans(volume: Volume, source: ScanSource, low: Volume | None = None) -> list[TrainingScan]:
    scaled, _ = brain_scaled(volume)
    sizes = _sizes(volume, source)
    scans = []
    for size in sizes:
        at = scaled if size == 0 else _shrink(scaled, size)
        if low is not None:
            scans.append(pair_of(at, low, source.weight / len(sizes)))
            continue
        inside = foreground(at.data_XYZ, at.spacing_mm)
        regions = scan_regions(at.data_XYZ, at.spacing_mm)
        scans.append(training_scan(at.data_XYZ, inside, regions, source.weight / len(sizes)))
    return scans


def coarsest_truth(source: ScanSource, root: Path) -> Volume:
    """A scan as the sharp one that acquisitions are simulated from, on the coarsest voxels that training takes it on.

    A source is resampled because it is less sharp than its finest voxels; errors against those would count that.

    Raises:
        ConfigError: see `load_training_scans`.
    """
    volume = load_truth(root / source.path, REMEDY)
    with prefix_errors(root / source.path):
        size = max(_sizes(volume, source))
    return _shrink(volume, size) if size else volume


def _sizes(volume: Volume, source: ScanSource) -> tuple[float, ...]:
    """Isotropic voxel sizes that a sharp scan is resampled to; 0 leaves its own.

    Raises:
        ConfigError: finer than the scan, or too coarse to learn from.
    """
    sizes = source.spacing_mm or (0.0,)
    finest = min(volume.spacing_mm)
    if any(0 < size < 0.98 * finest for size in sizes):
        raise ConfigError(
            f"spacing_mm={list(sizes)} asks for finer voxels than the scan's {finest:.3g} mm; name sizes from there up"
        )
    coarsest = min(n * mm for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)) / LEAST_VOXELS
    if max(sizes) > coarsest:
        raise ConfigError(
            f"spacing_mm={list(sizes)} would leave fewer than {LEAST_VOXELS} voxels along an axis; name sizes up to "
            f"{coarsest:.3g} mm"
        )
    return sizes


def _shrink(volume: Volume, size_mm: float) -> Volume:
    """A scan on coarser isotropic voxels, blurred first so that nothing aliases; both in one matrix an axis."""
    target = with_spacing(volume.grid, (size_mm,) * 3)
    positions = positions_along(volume.grid, target)
    matrices = []
    for n, at, spacing in zip(volume.shape, positions, volume.spacing_mm, strict=True):
        matrix = interpolation_matrix(n, at, "cubic")
        width = 0.42 * FWHM * math.sqrt(max((size_mm / spacing) ** 2 - 1, 0.0))
        blur = gaussian_window_matrix(n, width) if width > LEAST_BLUR else None
        matrices.append(matrix if blur is None else matrix @ blur)
    return Volume(apply_axes(volume.data_XYZ, matrices), target.affine)


def _synthetic_scans(volume: Volume, source: ScanSource, seed: int) -> list[TrainingScan]:
    volume = volume.with_data(as_brain_label_map(volume.data_XYZ))
    sizes = source.spacing_mm or (0.0,)
    scans = []
    for index, size in enumerate(sizes):
        own = finer_label_map(volume, size) if size else volume
        key = (source.path, index) if index else (source.path,)  # other contrasts on other voxels
        scans += _drawn_scans(own, source, (seed, *key), 1 / len(sizes))
    return scans


def _drawn_scans(volume: Volume, source: ScanSource, key: tuple[Any, ...], share: float) -> list[TrainingScan]:
    """Synthetic scans of checked labels on their own voxels; together they have this share of the source's weight.

    What is random has this key, which begins with the seed.
    """
    labels = volume.data_XYZ
    where = (labels > 0).nonzero()
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(where.amin(0), where.amax(0), strict=True))
    labels = F.pad(labels[box], (8,) * 6)
    region = region_map(labels, volume.spacing_mm)
    scans = []
    for copy in range(source.copies):
        scan = synthesise(labels, rng_for(*key, copy))
        scans.append(training_scan(scan, region != BACKGROUND, region, share * source.weight / source.copies))
    return scans


def brain_scaled(volume: Volume) -> tuple[Volume, Tensor]:
    """A scan in training's intensities, the brain's median 0.5, without outliers, and where its head is."""
    volume = volume.with_data(without_outliers(volume.data_XYZ))
    inside = foreground(volume.data_XYZ, volume.spacing_mm)
    return volume.with_data(brain_scaling(volume.data_XYZ, inside, volume.spacing_mm).apply(volume.data_XYZ)), inside
