"""Wiener interpolation: the best linear estimate of the fine scan, with a model of the acquisition and of its noise.

The fine scan is taken for a Gaussian field whose covariance falls exponentially along each axis, the measured one for
that field seen through a slice profile or a truncated k-space, plus white noise. Prior and acquisition are separable,
so the posterior mean (Wiener 1949; Rasmussen & Williams 2006, eq. 2.25) needs one small eigenvalue problem per axis:

    x = (C A')(A C A' + noise)^-1 y,  with A C A' = Q diag(power) Q' on each axis.

Axes: I measured samples, P their eigenbasis, F fine samples, O output samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from moediff.acquisition.operators import assumed_sampling, mirrored_sampling, voxel_ratio
from moediff.acquisition.point_spread import Sampling, Samplings
from moediff.core.resample import COARSER, Positions, antialiased_matrix, apply_axes, mirrored, weights

CORRELATION_VOX = 2.0  # distance over which the prior's covariance falls to 1/e, target voxels
VARIANCE = 0.1  # of the prior, scaled intensities (the brain's median is 0.5)
NOISE_FLOOR = 1e-3  # scaled; no scan is trusted beyond this


@dataclass(frozen=True)
class AxisModel:
    """One axis in its eigenbasis: into it [P, I], prior power there [P], and out of it to the target [O, P]."""

    into: Tensor
    power_P: Tensor
    out: Tensor


@lru_cache(maxsize=64)
def axis_model(n_in: int, positions: Positions, sampling: Sampling) -> AxisModel:
    """Eigenbasis of one axis.

    Args:
        n_in: measured samples.
        positions: where target voxels lie, in measured voxels.
        sampling: how it was acquired.
    """
    step = positions[1] - positions[0] if len(positions) > 1 else 1.0
    if step > COARSER or n_in == 1:  # the target is coarser: nothing to undo
        return AxisModel(torch.eye(n_in), torch.ones(n_in), antialiased_matrix(n_in, positions, "spline5"))
    wanted = np.clip(np.asarray(positions), -0.5, n_in - 0.5)
    first = positions[0] - step * np.floor((positions[0] + 0.5) / step + 1e-6)
    fine = np.arange(first, n_in - 0.5 + 1e-6, step)
    acquire_IF = mirrored_sampling(n_in, fine, sampling)
    covariance_FF = mirrored(lambda gap: np.exp(-np.abs(gap) / (step * CORRELATION_VOX)), fine[:, None], fine, n_in)
    seen_FI = covariance_FF @ acquire_IF.T
    power_P, basis_IP = torch.linalg.eigh(torch.from_numpy(acquire_IF @ seen_FI))
    rows = np.clip(np.round((wanted - first) / step).astype(int), 0, len(fine) - 1)
    out_OP = torch.from_numpy(seen_FI[rows]) @ basis_IP
    into_PI = weights(basis_IP.T.numpy()).contiguous()
    return AxisModel(into_PI, power_P.clamp_min(1e-9).float(), weights(out_OP.numpy()))


def wiener(
    data_XYZ: Tensor,
    positions: tuple[Positions, Positions, Positions],
    noise: float | Tensor,
    sampling: Samplings | None = None,
) -> Tensor:
    """Posterior mean of the fine scan on the target grid.

    Args:
        data_XYZ: measured scan, scaled.
        positions: per axis, where target voxels lie in measured voxels.
        noise: standard deviation of the noise, scaled; a number or a scalar tensor.
        sampling: how every axis was acquired; None takes what the positions suggest.
    """
    sampling = sampling or assumed_sampling(positions)
    x, y, z = (axis_model(n, p, axis) for n, p, axis in zip(data_XYZ.shape, positions, sampling, strict=True))
    coefficient = apply_axes(data_XYZ, (x.into, y.into, z.into))
    power = x.power_P[:, None, None] * y.power_P[:, None] * z.power_P
    trusted = torch.as_tensor(noise, dtype=torch.float64).clamp_min(NOISE_FLOOR)
    coefficient /= power.to(coefficient.device) + trusted.to(coefficient.device) ** 2 / VARIANCE
    return apply_axes(coefficient, (x.out, y.out, z.out))


def detail_variance(
    data_XYZ: Tensor,
    positions: tuple[Positions, Positions, Positions],
    noise: float,
    sampling: Samplings | None = None,
) -> float:
    """Variance of a scan's fine detail: the prior's variance that explains its weakest coefficients, beyond noise.

    Smooth scans (averages of many heads) have far less than VARIANCE, sharp or textured ones come near it. Coefficients
    are sorted by prior power; the weaker half, the next quarter, eighth and sixteenth count alike.

    Args:
        data_XYZ: measured scan or a part of it, scaled, all of it inside the head.
        positions: per axis, where target voxels lie in measured voxels; only their distance is read.
        noise: standard deviation of the noise, scaled.
        sampling: how every axis was acquired; None takes what the positions suggest.
    """
    models = []
    for n, p, axis in zip(data_XYZ.shape, positions, sampling or assumed_sampling(positions), strict=True):
        step = min(1 / voxel_ratio(p), 1.0)
        models.append(axis_model(n, tuple(-0.5 + step * (i + 0.5) for i in range(round(n / step))), axis))
    x, y, z = models
    energy_N = apply_axes(data_XYZ, (x.into, y.into, z.into)).double().square().flatten()
    power_N = (x.power_P[:, None, None] * y.power_P[:, None] * z.power_P).double().flatten()
    power_N, order = power_N.to(energy_N.device).sort()
    excess_N = energy_N[order] - max(noise, NOISE_FLOOR) ** 2
    n = len(power_N)
    ends = [0, n // 2, n - n // 4, n - n // 8, n - n // 16]
    octaves = [slice(a, b) for a, b in pairwise(ends) if b > a]
    return sum(float(excess_N[o].mean() / power_N[o].mean()) for o in octaves) / max(len(octaves), 1)
