"""Total-variation super-resolution: the classical competitor, solved to its optimum and without training.

    x = argmin 1/2 |A x - y|^2 + weight TV(x),   TV(x) = sum over voxels of |grad x|  (Rudin, Osher & Fatemi 1992)

y is the measured scan, A the acquisition that `acquisition` assumes for it. Solved by the primal-dual
iteration of Chambolle & Pock (2011, algorithm 1). A is separable, so the proximal map of the data term is exact: in
the eigenbasis of A'A, one small matrix per axis, it is a division.

Axes: X Y Z voxels of the target grid, D directions of the gradient (3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.prepare import Prepared, PrepareSettings, prepare
from moediff.core.errors import ConfigError, GeometryError
from moediff.core.resample import apply_axes, transposed
from moediff.core.volume import Grid, Volume

STRENGTH = (
    0.07  # of the weight that follows from the noise; best over training scans, since structure leaks into the noise
)
STEP_RATIO = 0.05  # primal over dual step times the weight; 0.03 and 0.1 need as many iterations, 0.01 twice as many
ITERATIONS = 150
CHECK_EVERY = 10
CONVERGED = 5e-4  # relative fall of the energy between two checks
IDENTITY = 1e-4
NO_TV, TINY = 1e6, 1e-30


@dataclass(frozen=True)
class Problem:
    """The function to minimise.

    Args:
        measured_XYZ: y.
        matrices: A, one matrix [measured, target] per axis; None is the identity.
        spacing: voxel size per axis in the unit of length of TV, for instance over the smallest one.
        weight: of TV, 0 or more, in the data's unit times that length.

    Raises:
        ConfigError: a negative or non-finite weight.
    """

    measured_XYZ: Tensor
    matrices: Sequence[Tensor | None]
    spacing: Sequence[float]
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"weight={self.weight} of the total variation must be finite and 0 or more")

    def energy(self, data_XYZ: Tensor) -> float:
        """Misfit and weighted total variation together."""
        misfit = (apply_axes(data_XYZ, self.matrices) - self.measured_XYZ).square().sum(dtype=torch.float64)
        return 0.5 * float(misfit) + self.weight * total_variation(data_XYZ, self.spacing)

    def proximal(self, step: float) -> Callable[[Tensor], Tensor]:
        """v -> argmin_x |x - v|^2 / 2 + step |A x - y|^2 / 2 = (1 + step A'A)^-1 (v + step A'y)."""
        into: list[Tensor | None] = [None] * 3
        divisor = torch.ones(1, 1, 1, dtype=self.measured_XYZ.dtype)
        for axis, matrix in enumerate(self.matrices):
            if matrix is None:
                continue
            values, vectors = torch.linalg.eigh(matrix.double().T @ matrix.double())
            into[axis] = vectors.T.to(self.measured_XYZ).contiguous()
            shape = [1, 1, 1]
            shape[axis] = -1
            divisor = divisor * values.clamp_min(0).to(self.measured_XYZ).view(shape)
        divisor = 1 + step * divisor
        pull_XYZ = step * apply_axes(self.measured_XYZ, transposed(self.matrices))
        out = transposed(into)

        def solve(v_XYZ: Tensor) -> Tensor:
            return apply_axes(apply_axes(v_XYZ + pull_XYZ, into) / divisor, out)

        return solve


@dataclass(frozen=True)
class TvResult:
    """The minimiser, and the energy at the start and at every check, falling."""

    data_XYZ: Tensor
    energies: tuple[float, ...]


def gradient(data_XYZ: Tensor, spacing: Sequence[float]) -> Tensor:
    """Forward differences over spacing, zero at the far faces; returns [D, X, Y, Z]."""
    out = torch.zeros(3, *data_XYZ.shape, dtype=data_XYZ.dtype)
    for axis, step in enumerate(spacing):
        n = data_XYZ.shape[axis] - 1
        out[axis].narrow(axis, 0, n).copy_(data_XYZ.narrow(axis, 1, n) - data_XYZ.narrow(axis, 0, n)).div_(step)
    return out


def gradient_adjoint(field_DXYZ: Tensor, spacing: Sequence[float]) -> Tensor:
    """The transpose of `gradient`, minus the divergence; returns [X, Y, Z]."""
    out = torch.zeros(field_DXYZ.shape[1:], dtype=field_DXYZ.dtype)
    for axis, step in enumerate(spacing):
        n = out.shape[axis] - 1
        inner = field_DXYZ[axis].narrow(axis, 0, n) / step
        out.narrow(axis, 1, n).add_(inner)
        out.narrow(axis, 0, n).sub_(inner)
    return out


def lengths(field_DXYZ: Tensor) -> Tensor:
    """Length of every voxel's vector [X, Y, Z]; `Tensor.norm(dim=0)` takes ten times as long on CPUs."""
    squares = field_DXYZ[0].square()
    for component in field_DXYZ[1:]:
        squares.addcmul_(component, component)
    return squares.sqrt_()


def total_variation(data_XYZ: Tensor, spacing: Sequence[float]) -> float:
    """Sum over voxels of the gradient's length."""
    return float(lengths(gradient(data_XYZ, spacing)).sum(dtype=torch.float64))


def minimise(problem: Problem, start_XYZ: Tensor, iterations: int = ITERATIONS) -> TvResult:
    """Minimise the energy from a first guess on the target grid; stops early when it no longer falls.

    Raises:
        GeometryError: A does not lead from the start's grid to the measured one.
    """
    expected = tuple(n if m is None else len(m) for n, m in zip(start_XYZ.shape, problem.matrices, strict=True))
    if expected != tuple(problem.measured_XYZ.shape):
        raise GeometryError(f"A leads to {expected}, expected the measured {tuple(problem.measured_XYZ.shape)}")
    x, weight, spacing = start_XYZ.to(problem.measured_XYZ), problem.weight, problem.spacing
    norm = 2 * math.sqrt(sum(s**-2 for s in spacing))  # of the gradient, an upper bound
    ratio = STEP_RATIO / weight if weight else NO_TV
    solve = problem.proximal(ratio / norm)
    best, ahead, field_DXYZ = x, x, torch.zeros(3, *x.shape, dtype=x.dtype)
    energies = [problem.energy(x)]
    for count in range(1, iterations + 1):
        field_DXYZ += gradient(ahead, spacing) / (ratio * norm)
        field_DXYZ *= (weight / lengths(field_DXYZ).clamp_min_(TINY)).clamp_max_(1)
        before, x = x, solve(x - ratio / norm * gradient_adjoint(field_DXYZ, spacing))
        ahead = 2 * x - before
        if count % CHECK_EVERY:
            continue
        now = problem.energy(x)
        fell = energies[-1] - now
        if fell > 0:
            best = x
            energies.append(now)
        if 0 <= fell <= CONVERGED * now:  # a rise is a swing of the iteration, not its end
            break
    return TvResult(best, tuple(energies))


def weight_of(prepared: Prepared, spacing: Sequence[float]) -> float:
    """The weight that makes the minimiser a maximum a posteriori estimate, in scaled intensities.

    White noise of standard deviation s, and gradients with a density falling as exp(-|g| / b) in three dimensions,
    have the weight s^2 / b; b is a third of the mean gradient of the interpolated scan inside the head.
    """
    steepness = lengths(gradient(prepared.interpolated_XYZ, spacing))[prepared.mask_XYZ]
    scale = float(steepness.mean(dtype=torch.float64)) / 3
    return STRENGTH * prepared.noise**2 / max(scale, 1e-9)


def _identity(matrix: Tensor | None) -> bool:
    if matrix is None or matrix.shape[0] != matrix.shape[1]:
        return matrix is None
    return bool((matrix - torch.eye(len(matrix))).abs().max() < IDENTITY)


def super_resolve(volume: Volume, grid: Grid) -> Volume:
    """A measured scan on a finer grid, in its own intensities; the weight of TV comes from its estimated noise.

    Raises:
        GeometryError: the grid's axes are not parallel to the scan's.
        DataError: no head, or no intensities to scale by.
    """
    settings = PrepareSettings(kernel="cubic", noise_estimator="median")  # what `STRENGTH` was tuned with
    prepared = prepare(volume, grid, settings, sampling="spectrum")  # as ours is
    matrices = [None if _identity(m) else m for m in prepared.acquisition.matrices]
    spacing = [s / min(prepared.grid.spacing_mm) for s in prepared.grid.spacing_mm]
    problem = Problem(prepared.source.data_XYZ, matrices, spacing, weight_of(prepared, spacing))
    return prepared.undo(minimise(problem, prepared.interpolated_XYZ).data_XYZ)
