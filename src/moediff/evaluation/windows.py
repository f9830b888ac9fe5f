"""Local windows for metrics: mirrored taps as matrices, slabs that bound memory, and local moments.

A filter along an axis is a banded matrix [n, n] (or [fewer, n]); samples beyond a face mirror with the edge sample
repeated (2 1 0 | 0 1 2). Three of them make a separable 3-D window.

Axes: X Y Z voxels, N samples of an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.volume.resample import apply_axes

SLAB_VOX = 32  # windowed metrics run slab by slab along X, which bounds their memory


def tap_matrix(n: int, taps: Tensor, first: int) -> Tensor:
    """Weights [n, n] of out[i] = sum_k taps[k] in[i + first + k]."""
    at = (torch.arange(n)[:, None] + torch.arange(first, first + len(taps))) % (2 * n)
    at = torch.where(at < n, at, 2 * n - 1 - at)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    return matrix.scatter_add_(1, at, taps.double().expand(n, -1)).float()


def gaussian_matrix(n: int, sigma_vox: float, reach_vox: int) -> Tensor:
    """Gaussian averages [n, n] with 2 reach + 1 taps that sum to one."""
    gap = torch.arange(-reach_vox, reach_vox + 1).double()
    weight = torch.exp(-0.5 * (gap / sigma_vox) ** 2)
    return tap_matrix(n, weight / weight.sum(), -reach_vox)


@dataclass(frozen=True)
class Slab:
    """A run of voxel layers along X.

    Args:
        outer: the layers that windows around it reach.
        inner: its own layers.
        windows: the three matrices from the outer layers to the inner ones.
    """

    outer: slice
    inner: slice
    windows: tuple[Tensor, Tensor, Tensor]


def slabs(mask_XYZ: Tensor, sigma_vox: float, reach_vox: int) -> Iterator[Slab]:
    """Cut a volume into slabs with Gaussian windows; slabs without a voxel of the mask are left out."""
    x, y, z = (gaussian_matrix(n, sigma_vox, reach_vox).to(mask_XYZ.device) for n in mask_XYZ.shape)
    n = mask_XYZ.shape[0]
    for start in range(0, n, SLAB_VOX):
        stop = min(n, start + SLAB_VOX)
        if bool(mask_XYZ[start:stop].any()):
            low, high = max(0, start - reach_vox), min(n, stop + reach_vox)
            yield Slab(slice(low, high), slice(start, stop), (x[start:stop, low:high], y, z))


@dataclass(frozen=True)
class Moments:
    """Local means, variances (population) and covariance of two volumes under one window."""

    mean_x: Tensor
    mean_y: Tensor
    variance_x: Tensor
    variance_y: Tensor
    covariance: Tensor


def moments(x_XYZ: Tensor, y_XYZ: Tensor, windows: Sequence[Tensor]) -> Moments:
    """The five local moments of two volumes."""
    mean_x, mean_y = apply_axes(x_XYZ, windows), apply_axes(y_XYZ, windows)
    return Moments(
        mean_x=mean_x,
        mean_y=mean_y,
        variance_x=apply_axes(x_XYZ.square(), windows) - mean_x.square(),
        variance_y=apply_axes(y_XYZ.square(), windows) - mean_y.square(),
        covariance=apply_axes(x_XYZ * y_XYZ, windows) - mean_x * mean_y,
    )
