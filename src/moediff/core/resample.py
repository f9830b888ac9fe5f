"""Separable resampling: one weight matrix per axis, applied as three matrix products.

Every interpolation and every linear acquisition model between grids that share their axis directions is separable,
so a matrix [n_out, n_in] per axis says all of it. Weights are exact, batched use is a matrix product, and the adjoint
is the transpose. Positions are in input voxel indices: 0 is the centre of the first voxel.

Axes: O output samples, I input samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import GeometryError

Positions = tuple[float, ...]
COARSER = 1.001  # input voxels from target voxel to target voxel, beyond which the input's finest detail would alias


def sample_positions(n_out: int, step: float, start: float) -> Positions:
    """Positions start, start + step, ... in input voxel indices."""
    return tuple((start + step * np.arange(n_out)).tolist())


def _scatter_weights(n_in: int, index_OK: np.ndarray, weight_OK: np.ndarray) -> np.ndarray:
    """Dense [O, I] from K taps per output; taps outside mirror about the edge sample (…2 1 0 1 2…)."""
    period = max(2 * (n_in - 1), 1)
    folded = np.abs(index_OK) % period
    folded = np.where(folded >= n_in, period - folded, folded)
    dense = np.zeros((index_OK.shape[0], n_in))
    np.add.at(dense, (np.arange(index_OK.shape[0])[:, None], folded), weight_OK)
    return dense


def _bspline(x: np.ndarray, degree: int) -> np.ndarray:
    """Centred B-spline of this degree; Unser 1999, eq. 6 (Cox-de Boor recursion)."""
    if degree == 0:
        return ((x >= -0.5) & (x < 0.5)).astype(float)
    half = (degree + 1) / 2
    left = (half + x) * _bspline(x + 0.5, degree - 1)
    right = (half - x) * _bspline(x - 0.5, degree - 1)
    return (left + right) / degree


def _spline_matrix(n_in: int, at: np.ndarray, degree: int) -> np.ndarray:
    def basis(points: np.ndarray) -> np.ndarray:
        taps = np.floor(points - degree / 2 + 0.5).astype(int)[:, None] + np.arange(degree + 1)
        return _scatter_weights(n_in, taps, _bspline(points[:, None] - taps, degree))

    inside = np.clip(at, -0.5, n_in - 0.5)
    if n_in == 1:
        return np.ones((len(at), 1))
    return basis(inside) @ np.linalg.inv(basis(np.arange(n_in, dtype=float)))


def _linear_matrix(n_in: int, at: np.ndarray) -> np.ndarray:
    inside = np.clip(at, 0, n_in - 1)
    low = np.clip(np.floor(inside).astype(int), 0, max(n_in - 2, 0))
    part = inside - low
    return _scatter_weights(n_in, np.stack([low, low + 1], 1), np.stack([1 - part, part], 1))


def _lanczos_matrix(n_in: int, at: np.ndarray, lobes: int = 3) -> np.ndarray:
    inside = np.clip(at, -0.5, n_in - 0.5)
    taps = np.floor(inside).astype(int)[:, None] + np.arange(1 - lobes, lobes + 1)
    gap = inside[:, None] - taps
    weight = np.sinc(gap) * np.sinc(gap / lobes)
    return _scatter_weights(n_in, taps, weight / weight.sum(1, keepdims=True))


def _kept_band(n_in: int, kept: float, at: np.ndarray) -> np.ndarray:
    """Keep the frequencies below `kept` samples' Nyquist and evaluate at `at`.

    The line is mirrored about its ends (period 2 n) before the Fourier sum, so that a cut through tissue does not
    ring; where the ends are air this is k-space truncation or zero-filling exactly.
    """
    period = 2 * n_in
    top = int(np.floor(kept + 1e-9))  # highest harmonic of the mirrored line: kept/2 cycles per n = kept cycles per 2n
    harmonic = np.arange(1, top + 1)
    gain = np.where(np.isclose(harmonic, kept), 0.5, 1.0)

    def kernel(gap: np.ndarray) -> np.ndarray:
        phase = 2 * np.pi * gap[..., None] * harmonic / period
        return (1 + 2 * (np.cos(phase) * gain).sum(-1)) / period

    source = np.arange(n_in)
    return kernel(at[:, None] - source) + kernel(at[:, None] + source + 1)


def _zero_fill_matrix(n_in: int, at: np.ndarray) -> np.ndarray:
    return _kept_band(n_in, float(n_in), at)


KERNELS = {
    "linear": _linear_matrix,
    "cubic": lambda n_in, at: _spline_matrix(n_in, at, 3),
    "spline5": lambda n_in, at: _spline_matrix(n_in, at, 5),
    "lanczos": _lanczos_matrix,
    "zero-fill": _zero_fill_matrix,
}


@lru_cache(maxsize=512)
def axis_matrix(n_in: int, positions: Positions, kernel: str) -> Tensor:
    """Interpolation weights [O, I] that read an axis of n_in samples at `positions`.

    Kernels: linear, cubic and spline5 (interpolating B-splines, mirror ends), lanczos (3 lobes), zero-fill (sinc).
    Positions beyond the outermost half voxel take the value there.
    """
    if kernel not in KERNELS:
        raise GeometryError(f"no interpolation called {kernel!r}; choose from {', '.join(KERNELS)}")
    return torch.from_numpy(KERNELS[kernel](n_in, np.asarray(positions))).float()


@lru_cache(maxsize=512)
def band_matrix(n_in: int, positions: Positions, kept: float) -> Tensor:
    """Weights [O, I] that drop frequencies above the Nyquist of `kept` samples and read the rest at `positions`."""
    return torch.from_numpy(_kept_band(n_in, kept, np.asarray(positions))).float()


def reading_matrix(n_in: int, positions: Positions, kernel: str) -> Tensor:
    """As `axis_matrix`; where the target is coarser, what its voxels cannot hold is dropped instead of aliased."""
    step = positions[1] - positions[0] if len(positions) > 1 else 1.0
    if step <= COARSER:
        return axis_matrix(n_in, positions, kernel)
    inside = tuple(np.clip(positions, -0.5, n_in - 0.5).tolist())
    return band_matrix(n_in, inside, n_in / step)


def truncation_matrix(n_in: int, n_out: int) -> Tensor:
    """k-space truncation from n_in to n_out samples over the same field of view, weights [O, I]."""
    step = n_in / n_out
    return band_matrix(n_in, sample_positions(n_out, step, (step - 1) / 2), float(n_out))


@lru_cache(maxsize=512)
def profile_matrix(n_in: int, positions: Positions, profile: str, thickness_vox: float) -> Tensor:
    """Slice-profile averages [O, I] around `positions`: "gaussian" (FWHM = thickness) or "box" (width = thickness).

    Samples outside the axis repeat the edge sample.
    """
    at = np.asarray(positions)
    reach = int(np.ceil(1.5 * thickness_vox)) + 1
    taps = np.round(at).astype(int)[:, None] + np.arange(-reach, reach + 1)
    gap = np.abs(at[:, None] - taps)
    if profile == "gaussian":
        weight = np.exp(-0.5 * (gap * 2.3548 / thickness_vox) ** 2)
    elif profile == "box":
        weight = np.clip(thickness_vox / 2 + 0.5 - gap, 0, 1)
    else:
        raise GeometryError(f"no slice profile called {profile!r}; choose gaussian or box")
    weight /= weight.sum(1, keepdims=True)
    dense = np.zeros((len(at), n_in))
    np.add.at(dense, (np.arange(len(at))[:, None], np.clip(taps, 0, n_in - 1)), weight)
    return torch.from_numpy(dense).float()


def apply_axes(data: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Apply one matrix [O, I] to each of the last three axes; None leaves that axis alone.

    Whole numbers become float32: weights are fractions, which no integer type can hold. The axes that shrink most go
    first, which keeps the intermediate volumes small.
    """

    def growth(axis: int) -> float:
        matrix = matrices[axis]
        return 1.0 if matrix is None else matrix.shape[0] / matrix.shape[1]

    data = data if data.is_floating_point() else data.float()
    for axis in sorted(range(3), key=growth):
        matrix = matrices[axis]
        if matrix is None:
            continue
        matrix = matrix.to(device=data.device, dtype=data.dtype)
        if axis == 2:
            data = data @ matrix.T
        elif axis == 1:
            data = matrix @ data
        else:
            flat = data.flatten(-2)
            data = (matrix @ flat).unflatten(-1, data.shape[-2:])
    return data
