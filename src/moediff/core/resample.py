"""Separable resampling: one weight matrix per axis, applied as three matrix products.

Interpolation between grids that share their axis directions is separable, so a matrix [n_out, n_in] per axis says all
of it. Weights are exact, batched use is a matrix product, and the adjoint
is the transpose. Positions are in input voxel indices: 0 is the centre of the first voxel.

Axes: O output samples, I input samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from moediff.core.errors import GeometryError

Positions = tuple[float, ...]
Kernel: TypeAlias = Callable[[np.ndarray], np.ndarray]  # of distances
COARSER = 1.001  # input voxels from target voxel to target voxel, beyond which the input's finest detail would alias
LEAST_WEIGHT = 1e-12  # float32 sums see nothing below 6e-8 of their largest term


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


def mirrored(kernel: Kernel, a: np.ndarray, b: np.ndarray, n: int, *, periodic: bool = False) -> np.ndarray:
    """A kernel between positions of a line of n samples that is mirrored about both ends of its field of view.

    A periodic kernel (of period 2 n) holds the second mirror already.
    """
    total = kernel(a - b) + kernel(a + b + 1)
    return total if periodic else total + kernel(2 * n - 1 - a - b)


def low_pass(gap: np.ndarray, cutoff: float, period: float) -> np.ndarray:
    """The ideal low-pass of a line with this period: every harmonic up to `cutoff`, that one by half.

    1 + 2 (cos(w) + cos(2 w) + ... ) with w = 2 pi gap / period, the Dirichlet kernel in closed form.
    """
    top = int(np.floor(cutoff + 1e-9))
    half = bool(np.isclose(top, cutoff))  # on the Nyquist frequency
    angle = np.pi * gap / period
    sine = np.sin(angle)
    whole = np.abs(sine) < 1e-9  # a multiple of the period
    if half:
        ratio = np.sin(2 * top * angle) / np.where(whole, 1.0, np.tan(angle))
    else:
        ratio = np.sin((2 * top + 1) * angle) / np.where(whole, 1.0, sine)
    return np.where(whole, 2.0 * top + (not half), ratio)


def _low_pass_weights(n_in: int, cutoff: float, at: np.ndarray) -> np.ndarray:
    """Drop the frequencies above the Nyquist of `cutoff` samples, and read the rest at `at`.

    The line is mirrored about its ends (period 2 n) before the Fourier sum, so that a cut through tissue does not
    ring; where the ends are air this is k-space truncation or zero-filling exactly.
    """
    period = 2 * n_in  # its harmonic number `cutoff` has cutoff / 2 cycles over n
    return (
        mirrored(lambda gap: low_pass(gap, cutoff, period), at[:, None], np.arange(n_in), n_in, periodic=True) / period
    )


def _zero_fill_matrix(n_in: int, at: np.ndarray) -> np.ndarray:
    return _low_pass_weights(n_in, float(n_in), at)


KERNELS = {
    "linear": _linear_matrix,
    "cubic": lambda n_in, at: _spline_matrix(n_in, at, 3),
    "spline5": lambda n_in, at: _spline_matrix(n_in, at, 5),
    "lanczos": _lanczos_matrix,
    "zero-fill": _zero_fill_matrix,
}


def weights(matrix: np.ndarray) -> Tensor:
    """Weights as float32; those that no sum of float32 numbers shows become zero.

    Splines and Gaussians fall to numbers below the smallest normal one, which processors multiply some fifty times
    more slowly.
    """
    return torch.from_numpy(np.where(np.abs(matrix) < LEAST_WEIGHT, 0.0, matrix)).float()


@lru_cache(maxsize=512)
def interpolation_matrix(n_in: int, positions: Positions, kernel: str) -> Tensor:
    """Interpolation weights [O, I] that read an axis of n_in samples at `positions`.

    Kernels: linear, cubic and spline5 (interpolating B-splines, mirror ends), lanczos (3 lobes), zero-fill (sinc).
    Positions beyond the outermost half voxel take the value there.
    """
    if kernel not in KERNELS:
        raise GeometryError(f"no interpolation called {kernel!r}; choose from {', '.join(KERNELS)}")
    return weights(KERNELS[kernel](n_in, np.asarray(positions)))


@lru_cache(maxsize=512)
def low_pass_matrix(n_in: int, positions: Positions, cutoff: float) -> Tensor:
    """Weights [O, I] that drop frequencies above the Nyquist of `cutoff` samples and read the rest at `positions`."""
    return weights(_low_pass_weights(n_in, cutoff, np.asarray(positions)))


def antialiased_matrix(n_in: int, positions: Positions, kernel: str) -> Tensor:
    """`interpolation_matrix` without aliasing: where the target is coarser, what its voxels cannot hold is dropped."""
    step = positions[1] - positions[0] if len(positions) > 1 else 1.0
    if step <= COARSER:
        return interpolation_matrix(n_in, positions, kernel)
    inside = tuple(np.clip(positions, -0.5, n_in - 0.5).tolist())
    return low_pass_matrix(n_in, inside, n_in / step)


def transposed(matrices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The matrices of the adjoint, for `apply_axes`."""
    return [None if matrix is None else matrix.T for matrix in matrices]


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
