"""The best linear guess at the fine scan: Wiener interpolation with a model of the acquisition and of its noise.

The fine scan is taken for a Gaussian field whose covariance falls exponentially along each axis, the measured one for
that field seen through a slice profile or a truncated k-space, plus white noise. Prior and acquisition are separable,
so the posterior mean (Wiener 1949; Rasmussen & Williams 2006, eq. 2.25) needs one small eigenvalue problem per axis:

    x = (C A')(A C A' + noise)^-1 y,  with A C A' = Q diag(power) Q' on each axis.

Axes: I measured samples, P their eigenbasis, F fine samples, O output samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from moediff.core.resample import COARSER, Positions, apply_axes, reading_matrix

THICK = 1.8  # beside finer axes, one axis coarser than this many target voxels is taken for thick slices
CORRELATION_VOX = 2.0  # distance over which the prior's covariance falls to 1/e, target voxels
VARIANCE = 0.1  # of the prior, scaled intensities (the brain's median is 0.5)
NOISE_FLOOR = 1e-3  # scaled; no scan is trusted beyond this


def ratio_of(positions: Positions) -> float:
    """Input voxel size over target voxel size along one axis."""
    return 1.0 / (positions[1] - positions[0]) if len(positions) > 1 else 1.0


def assumed_profiles(positions: tuple[Positions, Positions, Positions]) -> tuple[str, str, str]:
    """How each axis was probably acquired: "gaussian" slice profile, "band" (k-space truncation) or "none".

    Slices are stacked along one axis: thick ones are much coarser than both others. Two coarse axes beside a fine one
    are the plane of thin slices, measured in k-space.
    """
    ratios = [ratio_of(p) for p in positions]
    second = sorted(ratios)[1]

    def one(ratio: float) -> str:
        if ratio > THICK and ratio > 1.5 * second:
            return "gaussian"
        return "band" if ratio > 1.001 else "none"

    x, y, z = (one(r) for r in ratios)
    return x, y, z


@dataclass(frozen=True)
class AxisModel:
    """One axis in its eigenbasis: into it [P, I], prior power there [P], and out of it to the target [O, P]."""

    into: Tensor
    power_P: Tensor
    out: Tensor


@lru_cache(maxsize=64)
def axis_model(n_in: int, positions: Positions, profile: str) -> AxisModel:
    """Eigenbasis of one axis.

    Args:
        n_in: measured samples.
        positions: where target voxels lie, in measured voxels.
        profile: from `assumed_profiles`.
    """
    step = positions[1] - positions[0] if len(positions) > 1 else 1.0
    if step > COARSER or n_in == 1:  # the target is coarser: nothing to undo
        return AxisModel(torch.eye(n_in), torch.ones(n_in), reading_matrix(n_in, positions, "spline5"))
    wanted = np.clip(np.asarray(positions), -0.5, n_in - 0.5)
    first = positions[0] - step * np.floor((positions[0] + 0.5) / step + 1e-6)
    fine = np.arange(first, n_in - 0.5 + 1e-6, step)
    acquire_IF = _acquisition(np.arange(n_in)[:, None], fine, profile, step)
    covariance_FF = _mirrored(fine[:, None], fine, n_in, lambda gap: np.exp(-np.abs(gap) / (step * CORRELATION_VOX)))
    seen_FI = covariance_FF @ acquire_IF.T
    power_P, basis_IP = torch.linalg.eigh(torch.from_numpy(acquire_IF @ seen_FI))
    rows = np.clip(np.round((wanted - first) / step).astype(int), 0, len(fine) - 1)
    out_OP = torch.from_numpy(seen_FI[rows]) @ basis_IP
    return AxisModel(basis_IP.T.float().contiguous(), power_P.clamp_min(1e-9).float(), out_OP.float())


def _mirrored(
    a: np.ndarray, b: np.ndarray, n_in: int, kernel: Callable[[np.ndarray], np.ndarray], *, periodic: bool = False
) -> np.ndarray:
    """A kernel between positions of a line that is mirrored about both ends of its field of view."""
    total = kernel(a - b) + kernel(a + b + 1)
    return total if periodic else total + kernel(2 * n_in - 1 - a - b)


def _acquisition(measured: np.ndarray, fine: np.ndarray, profile: str, step: float) -> np.ndarray:
    """Weights [I, F] of the fine samples in every measured one; rows sum to one."""
    n_in = len(measured)
    if profile == "gaussian":  # full width at half maximum: the slice distance
        weight = _mirrored(measured, fine, n_in, lambda gap: np.exp(-0.5 * (gap * 2.3548) ** 2))
    else:
        weight = _mirrored(measured, fine, n_in, lambda gap: _low_pass(gap, n_in), periodic=True)
    return weight / weight.sum(1, keepdims=True)


def _low_pass(gap: np.ndarray, n_in: int) -> np.ndarray:
    """The ideal low-pass of a line of n_in samples, mirrored to period 2 n_in (Dirichlet kernel, half at Nyquist)."""
    angle = np.pi * gap / n_in
    near = np.abs(np.sin(angle / 2)) < 1e-9
    safe = np.where(near, 1.0, np.tan(angle / 2))
    return np.where(near, 2 * n_in, np.sin(n_in * angle) / safe)


def wiener(data_XYZ: Tensor, positions: tuple[Positions, Positions, Positions], noise: float | Tensor) -> Tensor:
    """Posterior mean of the fine scan on the target grid.

    Args:
        data_XYZ: measured scan, scaled.
        positions: per axis, where target voxels lie in measured voxels.
        noise: standard deviation of the noise, scaled; a number or a scalar tensor.
    """
    profiles = assumed_profiles(positions)
    x, y, z = (axis_model(n, p, kind) for n, p, kind in zip(data_XYZ.shape, positions, profiles, strict=True))
    coefficient = apply_axes(data_XYZ, (x.into, y.into, z.into))
    power = x.power_P[:, None, None] * y.power_P[:, None] * z.power_P
    trusted = torch.as_tensor(noise, dtype=torch.float64).clamp_min(NOISE_FLOOR)
    coefficient /= power.to(coefficient.device) + trusted.to(coefficient.device) ** 2 / VARIANCE
    return apply_axes(coefficient, (x.out, y.out, z.out))


def detail_variance(data_XYZ: Tensor, positions: tuple[Positions, Positions, Positions], noise: float) -> float:
    """How lively a scan's fine detail is: the prior's variance that its weakest coefficients ask for, beyond noise.

    Smooth scans (averages of many heads) have far less than VARIANCE, sharp or textured ones come near it. Coefficients
    are sorted by prior power; the weaker half, the next quarter, eighth and sixteenth count alike.

    Args:
        data_XYZ: measured scan or a part of it, scaled, all of it inside the head.
        positions: per axis, where target voxels lie in measured voxels; only their distance is read.
        noise: standard deviation of the noise, scaled.
    """
    profiles = assumed_profiles(positions)
    models = []
    for n, p, kind in zip(data_XYZ.shape, positions, profiles, strict=True):
        step = min(1 / ratio_of(p), 1.0)
        models.append(axis_model(n, tuple(-0.5 + step * (i + 0.5) for i in range(round(n / step))), kind))
    x, y, z = models
    energy_N = apply_axes(data_XYZ, (x.into, y.into, z.into)).double().square().flatten()
    power_N = (x.power_P[:, None, None] * y.power_P[:, None] * z.power_P).double().flatten()
    power_N, order = power_N.to(energy_N.device).sort()
    excess_N = energy_N[order] - max(noise, NOISE_FLOOR) ** 2
    n = len(power_N)
    ends = [0, n // 2, n - n // 4, n - n // 8, n - n // 16]
    octaves = [slice(a, b) for a, b in pairwise(ends) if b > a]
    return sum(float(excess_N[o].mean() / power_N[o].mean()) for o in octaves) / max(len(octaves), 1)
