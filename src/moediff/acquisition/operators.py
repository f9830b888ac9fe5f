"""Forward model A: how an acquisition samples a scan, one matrix per axis, and its transpose.

Thick slices are averages under a slice profile, fewer samples over the same field of view are k-space truncation. Axes
are sampled independently of each other, so a matrix per axis says all of it. Simulated scans (`degrade`), Wiener
interpolation and data consistency all read their A here.

Axes: X Y Z voxels, O measured samples, I fine samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from moediff.acquisition.recipe import AxisRecipe
from moediff.core.errors import GeometryError
from moediff.core.geometry import axis_positions
from moediff.core.resample import (
    Positions,
    apply_axes,
    interpolation_matrix,
    low_pass,
    low_pass_matrix,
    mirrored,
    sample_positions,
    transposed,
)
from moediff.core.volume import Grid

FWHM = 2.3548  # full width at half maximum of a Gaussian, in standard deviations
NEARLY_ONE = 1.001  # a measured voxel up to this many fine voxels large counts as equally fine
THICK = 1.8  # beside finer axes, one axis coarser than this many target voxels is taken for thick slices
THICKER = 1.5  # times as coarse as the second axis, at least
NAMES = {
    "none": "none",
    "gaussian": "gaussian slice profile",
    "box": "box slice profile",
    "truncate": "k-space truncation",
}
Methods: TypeAlias = "tuple[str, str, str]"  # keys of NAMES
Matrices: TypeAlias = "tuple[Tensor | None, Tensor | None, Tensor | None]"


def gaussian_profile(gap_vox: np.ndarray, width_vox: float) -> np.ndarray:
    """A Gaussian slice profile whose full width at half maximum is `width_vox`."""
    return np.exp(-0.5 * (gap_vox * FWHM / width_vox) ** 2)


def box_profile(gap_vox: np.ndarray, width_vox: float) -> np.ndarray:
    """The share of a voxel that lies in a slice with sharp faces."""
    return np.clip(width_vox / 2 + 0.5 - gap_vox, 0, 1)


PROFILES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"gaussian": gaussian_profile, "box": box_profile}


@lru_cache(maxsize=512)
def profile_matrix(n_in: int, positions: Positions, profile: str, width_vox: float) -> Tensor:
    """Slice-profile averages [O, I] around `positions`, of a profile in PROFILES.

    Samples outside the axis repeat the edge sample.
    """
    if profile not in PROFILES:
        raise GeometryError(f"no slice profile called {profile!r}; choose {' or '.join(PROFILES)}")
    at = np.asarray(positions)
    reach = int(np.ceil(1.5 * width_vox)) + 1
    taps = np.round(at).astype(int)[:, None] + np.arange(-reach, reach + 1)
    weight = PROFILES[profile](np.abs(at[:, None] - taps), width_vox)
    weight /= weight.sum(1, keepdims=True)
    dense = np.zeros((len(at), n_in))
    np.add.at(dense, (np.arange(len(at))[:, None], np.clip(taps, 0, n_in - 1)), weight)
    return torch.from_numpy(dense).float()


def sampling_matrix(n_in: int, positions: Positions, method: str, ratio: float, thickness: float = 1.0) -> Tensor:
    """A of one axis [O, I].

    Args:
        n_in: fine samples.
        positions: of the measured samples, in fine voxels.
        method: a key of NAMES; "none" reads between fine samples and is the identity where the two coincide.
        ratio: measured over fine voxel size.
        thickness: width of a slice profile over the measured voxel size.
    """
    if method == "none":
        return interpolation_matrix(n_in, positions, "spline5")
    if method == "truncate":
        return low_pass_matrix(n_in, positions, n_in / ratio)
    return profile_matrix(n_in, positions, method, ratio * thickness)


def mirrored_sampling(n_out: int, fine_I: np.ndarray, method: str) -> np.ndarray:
    """A of one axis [O, I] from a line that goes on beyond both ends of the field of view by mirroring, float64.

    The covariance of Wiener interpolation lives on that line. Away from the ends it is `sampling_matrix`; only here the
    Gaussian profile is not cut off.

    Args:
        n_out: measured samples; they fill the field of view.
        fine_I: positions of the fine samples in it, in measured voxels.
        method: "gaussian" (as wide as the slice distance), else k-space truncation.
    """
    measured = np.arange(n_out)[:, None]
    if method == "gaussian":
        weight = mirrored(lambda gap: gaussian_profile(gap, 1.0), measured, fine_I, n_out)
    else:
        weight = mirrored(lambda gap: low_pass(gap, n_out, 2 * n_out), measured, fine_I, n_out, periodic=True)
    return weight / weight.sum(1, keepdims=True)


@dataclass(frozen=True)
class Acquisition:
    """A separable forward model from a fine grid to a measured one.

    Args:
        matrices: weights [O, I] per axis; None leaves an axis as it is.
        methods: how every axis was sampled, keys of NAMES.
    """

    matrices: Matrices
    methods: Methods

    @property
    def names(self) -> tuple[str, str, str]:
        """The methods in words."""
        x, y, z = (NAMES[method] for method in self.methods)
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
    if axis.method == "truncate":
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
    first, second, third = (axis.method for axis in axes)
    return Acquisition((x, y, z), (first, second, third)), [rx, ry, rz]


def voxel_ratio(positions: Positions) -> float:
    """Measured over target voxel size along one axis, from where target voxels lie in measured ones."""
    return 1.0 / (positions[1] - positions[0]) if len(positions) > 1 else 1.0


def assumed_methods(positions: tuple[Positions, Positions, Positions]) -> Methods:
    """How each axis was probably acquired, from where target voxels lie in measured ones.

    Slices are stacked along one axis: thick ones are much coarser than both others. Two coarse axes beside a fine one
    are the plane of thin slices, measured in k-space.
    """
    ratios = [voxel_ratio(p) for p in positions]
    second = sorted(ratios)[1]

    def one(ratio: float) -> str:
        if ratio > THICK and ratio > THICKER * second:
            return "gaussian"
        return "truncate" if ratio > NEARLY_ONE else "none"

    x, y, z = (one(r) for r in ratios)
    return x, y, z


def assumed_acquisition(fine: Grid, measured: Grid) -> Acquisition:
    """A that the voxel sizes suggest, from a fine grid to the measured one; slices are as thick as their distance.

    Raises:
        GeometryError: the grids' axes are not parallel.
    """
    inward, back = axis_positions(measured, fine), axis_positions(fine, measured)
    if inward is None or back is None:
        raise GeometryError("the grids are oblique to each other; resample the scan first")
    methods = assumed_methods(inward)
    x, y, z = (
        sampling_matrix(n, at, method, voxel_ratio(p))
        for n, at, method, p in zip(fine.shape, back, methods, inward, strict=True)
    )
    return Acquisition((x, y, z), methods)
