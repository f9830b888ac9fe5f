"""Forward model A: how an acquisition samples a scan, one matrix per axis, and its transpose.

Thick slices are averages under a slice profile, fewer samples over the same field of view are k-space truncation. Axes
are sampled independently of each other, so a matrix per axis says all of it. Simulated scans (`degrade`), Wiener
interpolation and data consistency all read their A here.

Axes: X Y Z voxels, O measured samples, I fine samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from torch import Tensor

from moediff.acquisition.point_spread import NAMES, NARROWEST, PROFILES, WIDEST, WINDOWS, Sampling, Samplings
from moediff.acquisition.recipe import AxisRecipe
from moediff.core.errors import ConfigError, GeometryError
from moediff.core.geometry import are_parallel, positions_along
from moediff.core.resample import (
    Positions,
    apply_axes,
    interpolation_matrix,
    low_pass,
    low_pass_matrix,
    mirrored,
    sample_positions,
    transposed,
    weights,
)
from moediff.core.volume import Grid

NEARLY_ONE = 1.001  # a measured voxel up to this many fine voxels large counts as equally fine
THICK = 1.8  # beside finer axes, one axis coarser than this many target or own finest voxels is one of thick slices
THICKER = 1.5  # times as coarse as the second axis, at least
LEAST_RATIO = 1.25  # to coarse target voxels, from which undoing a slice's profile gains, whatever is wanted (LOG.md)
LEAST_SUM = 1e-6  # of the weights' magnitudes: a smaller sum is none
Matrices: TypeAlias = "tuple[Tensor | None, Tensor | None, Tensor | None]"


@lru_cache(maxsize=512)
def profile_matrix(n_in: int, positions: Positions, profile: str, width_vox: float) -> Tensor:
    """Slice-profile averages [O, I] around `positions`, of a profile in PROFILES.

    Samples outside the axis repeat the edge sample.

    Raises:
        GeometryError: no such profile.
        ConfigError: it is too narrow to weigh any sample.
    """
    if profile not in PROFILES:
        raise GeometryError(f"no slice profile called {profile!r}; choose from {', '.join(PROFILES)}")
    at = np.asarray(positions)
    reach = int(np.ceil(PROFILES[profile].reach * width_vox)) + 1
    taps = np.round(at).astype(int)[:, None] + np.arange(-reach, reach + 1)
    weight = PROFILES[profile].weight(np.abs(at[:, None] - taps), width_vox)
    weight = _averaging(weight, profile)
    dense = np.zeros((len(at), n_in))
    np.add.at(dense, (np.arange(len(at))[:, None], np.clip(taps, 0, n_in - 1)), weight)
    return weights(dense)


def _averaging(weight_OI: np.ndarray, method: str) -> np.ndarray:
    """Weights that sum to one along every row.

    Raises:
        ConfigError: those of a row cancel, or there are none.
    """
    total_O = weight_OI.sum(1, keepdims=True)
    if bool((np.abs(total_O) <= LEAST_SUM * np.abs(weight_OI).sum(1, keepdims=True)).any()):
        raise ConfigError(
            f"the {NAMES[method]} is so narrow that a measured voxel has no weight on the grid that it is modelled on: "
            f"give a larger width, as in {method}:1"
        )
    return weight_OI / total_O


def gaussian_window_matrix(n: int, fwhm_vox: float) -> Tensor:
    """Averages [n, n] in a Gaussian window about every sample; the edge sample is repeated."""
    return profile_matrix(n, tuple(float(i) for i in range(n)), "gaussian", fwhm_vox)


def sampling_matrix(n_in: int, positions: Positions, method: str, ratio: float, thickness: float = 1.0) -> Tensor:
    """A of one axis [O, I].

    Args:
        n_in: fine samples.
        positions: of the measured samples, in fine voxels.
        method: a key of NAMES; "none" reads between fine samples and is the identity where the two coincide.
        ratio: measured over fine voxel size.
        thickness: width of the point spread over the measured voxel size.
    """
    if method == "none":
        return interpolation_matrix(n_in, positions, "spline5")
    if method in WINDOWS:
        cutoff = min(n_in / ratio / max(thickness, 1.0), n_in)  # the fine samples hold no higher frequency
        return (
            low_pass_matrix(n_in, positions, cutoff)
            if method == "truncate"
            else window_matrix(n_in, positions, method, cutoff)
        )
    return profile_matrix(n_in, positions, method, ratio * thickness)


@lru_cache(maxsize=512)
def window_matrix(n_in: int, positions: Positions, window: str, cutoff: float) -> Tensor:
    """Weights [O, I] that read at `positions` what a window leaves, up to the Nyquist frequency of `cutoff` samples."""
    return weights(_windowed(np.asarray(positions), np.arange(n_in), n_in, (window, cutoff)))


def _windowed(at_O: np.ndarray, at_I: np.ndarray, n: int, window: tuple[str, float]) -> np.ndarray:
    """Sum of the cosines of a line of n samples, mirrored about its ends, under a window with this cutoff."""
    name, cutoff = window
    harmonic_K = np.arange(1, int(np.floor(cutoff + 1e-9)) + 1)
    weight_K = 2 * WINDOWS[name](harmonic_K / cutoff)
    waves_OK, waves_IK = (np.cos(np.pi * (at[:, None] + 0.5) * harmonic_K / n) for at in (at_O, at_I))
    return (1 + (waves_OK * weight_K) @ waves_IK.T) / n


def mirrored_sampling(n_out: int, fine_I: np.ndarray, sampling: Sampling) -> np.ndarray:
    """A of one axis [O, I] from a line that goes on beyond both ends of the field of view by mirroring, float64.

    The covariance of Wiener interpolation lives on that line. Away from the ends it is `sampling_matrix`; only here a
    profile is not cut off.

    Args:
        n_out: measured samples; they fill the field of view.
        fine_I: positions of the fine samples in it, in measured voxels.
        sampling: how the axis was sampled; "none" counts as k-space truncation.
    """
    measured, method = np.arange(n_out), sampling.method
    if method in PROFILES:
        step = float(fine_I[1] - fine_I[0]) if len(fine_I) > 1 else 1.0
        profile, width_vox = PROFILES[method].weight, sampling.width / step
        weight = mirrored(lambda gap: profile(np.abs(gap) / step, width_vox), measured[:, None], fine_I, n_out)
    elif method in ("none", "truncate"):
        cutoff = n_out / max(sampling.width, 1.0)
        weight = mirrored(lambda gap: low_pass(gap, cutoff, 2 * n_out), measured[:, None], fine_I, n_out, periodic=True)
    else:
        weight = _windowed(measured, fine_I, n_out, (method, n_out / max(sampling.width, 1.0)))
    return _averaging(weight, method)


@dataclass(frozen=True)
class Acquisition:
    """A separable forward model from a fine grid to a measured one.

    Args:
        matrices: weights [O, I] per axis; None leaves an axis as it is.
        sampling: how every axis was sampled.
    """

    matrices: Matrices
    sampling: Samplings

    @property
    def names(self) -> tuple[str, str, str]:
        """How every axis was sampled, in words."""
        x, y, z = (axis.words for axis in self.sampling)
        return x, y, z

    def apply(self, fine_XYZ: Tensor) -> Tensor:
        """A x: fine grid -> measured grid."""
        return apply_axes(fine_XYZ, self.matrices)

    def transpose(self, measured_XYZ: Tensor) -> Tensor:
        """A' y: measured grid -> fine grid, so that <A x, y> = <x, A' y>."""
        return apply_axes(measured_XYZ, transposed(self.matrices))


def _recipe_axis(n_in: int, axis: AxisRecipe) -> tuple[Tensor | None, float]:
    if axis.method == "none":
        return None, 1.0
    if axis.method in WINDOWS:
        n_out = max(1, round(n_in / axis.factor))
        ratio = n_in / n_out  # k-space truncation keeps the field of view
    else:
        n_out = max(1, math.ceil(n_in / axis.factor - 1e-6))
        ratio = axis.factor
    positions = sample_positions(n_out, ratio, (ratio - 1) / 2)
    return sampling_matrix(n_in, positions, axis.method, ratio, axis.thickness), ratio


def recipe_acquisition(shape: Sequence[int], axes: Sequence[AxisRecipe]) -> tuple[Acquisition, list[float]]:
    """A of a recipe for a fine grid of this shape, and per axis the exact measured over fine voxel size."""
    (x, rx), (y, ry), (z, rz) = (_recipe_axis(n, axis) for n, axis in zip(shape, axes, strict=True))
    return Acquisition((x, y, z), recipe_sampling(axes)), [rx, ry, rz]


def recipe_sampling(axes: Sequence[AxisRecipe]) -> Samplings:
    """How a recipe samples every axis."""
    x, y, z = (Sampling(axis.method, axis.thickness) if axis.method != "none" else Sampling() for axis in axes)
    return x, y, z


def voxel_ratio(positions: Positions) -> float:
    """Measured over target voxel size along one axis, from where target voxels lie in measured ones."""
    return 1.0 / (positions[1] - positions[0]) if len(positions) > 1 else 1.0


def assumed_sampling(
    positions: tuple[Positions, Positions, Positions], spacing_mm: Sequence[float] | None = None
) -> Samplings:
    """How each axis was probably acquired.

    Slices are stacked along one axis: thick ones are much coarser than both others, in the scan itself or beside the
    target's voxels. Two coarse axes beside a fine one are the plane of thin slices, measured in k-space.

    Args:
        positions: per axis, where target voxels lie in measured ones.
        spacing_mm: of the measured voxels, by which coarse target voxels make no other acquisition of thick slices;
            None judges beside the target alone.
    """
    ratios = [voxel_ratio(p) for p in positions]
    thick = _thick_axis(ratios, 1.0)
    if thick is None and spacing_mm is not None:
        thick = _thick_axis(spacing_mm, min(spacing_mm))
        thick = None if thick is None or ratios[thick] < LEAST_RATIO else thick

    def one(axis: int, ratio: float) -> Sampling:
        if ratio <= NEARLY_ONE:
            return Sampling()
        return Sampling("gaussian" if axis == thick else "truncate")

    x, y, z = (one(axis, ratio) for axis, ratio in enumerate(ratios))
    return x, y, z


def _thick_axis(sizes: Sequence[float], fine: float) -> int | None:
    """The axis whose voxels are much larger than a fine one and than those of both others; None where none is."""
    _, second, largest = sorted(sizes)
    return list(sizes).index(largest) if largest > THICK * fine and largest > THICKER * second else None


def with_thickness(sampling: Samplings, spacing_mm: Sequence[float], thickness_mm: float) -> Samplings:
    """The same with thick slices of a known thickness.

    Raises:
        ConfigError: no axis is one of thick slices, or they would be far thinner or thicker than they are apart.
    """
    axes = [axis for axis in range(3) if sampling[axis].method == "gaussian"]
    if not axes:
        raise ConfigError(
            "--slice-thickness needs slices much thicker than the plane's voxels and than the target's, and no axis "
            "has such: leave it out"
        )
    width = thickness_mm / spacing_mm[axes[0]]
    if not NARROWEST <= width <= WIDEST:
        raise ConfigError(
            f"--slice-thickness is {thickness_mm:g} mm for slices {spacing_mm[axes[0]]:.4g} mm apart, expected "
            f"{NARROWEST:g} to {WIDEST:g} times their distance: give the thickness of one slice in mm"
        )
    x, y, z = (replace(one, width=width) if axis in axes else one for axis, one in enumerate(sampling))
    return x, y, z


def assumed_acquisition(fine: Grid, measured: Grid, sampling: Samplings | None = None) -> Acquisition:
    """A from a fine grid to the measured one.

    Args:
        fine, measured: with parallel axes.
        sampling: of every axis; None takes what the voxel sizes suggest, slices as thick as their distance.

    Raises:
        GeometryError: the grids' axes are not parallel.
    """
    if not are_parallel(fine, measured):
        raise GeometryError("the grids are oblique to each other; resample the scan first")
    inward, back = positions_along(measured, fine), positions_along(fine, measured)
    sampling = sampling or assumed_sampling(inward, measured.spacing_mm)
    x, y, z = (
        sampling_matrix(n, at, axis.method, voxel_ratio(p), axis.width)
        for n, at, axis, p in zip(fine.shape, back, sampling, inward, strict=True)
    )
    return Acquisition((x, y, z), sampling)
