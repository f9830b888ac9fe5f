"""Gaussian blur and local windows: taps as matrices, tiles that stay in a processor's cache, and local moments.

A window's filter along an axis is a banded matrix [n, n] (or [fewer, n]); samples beyond a face mirror with the edge
sample repeated (2 1 0 | 0 1 2). Three of them make a separable 3-D window.

Axes: X Y Z voxels, N samples of an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.resample import apply_axes

TILE_VOX = 32  # windowed metrics run tile by tile, the longest side of one; matrices of longer ones are mostly zeros


def tap_matrix(n: int, taps: Tensor, first: int) -> Tensor:
    """Weights [n, n] of out[i] = sum_k taps[k] in[i + first + k]."""
    at = (torch.arange(n)[:, None] + torch.arange(first, first + len(taps))) % (2 * n)
    at = torch.where(at < n, at, 2 * n - 1 - at)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    return matrix.scatter_add_(1, at, taps.double().expand(n, -1)).float()


def gaussian_taps(sigma_vox: float, reach_vox: int) -> Tensor:
    """Gaussian weights at -reach .. reach that sum to one, float64."""
    gap = torch.arange(-reach_vox, reach_vox + 1).double()
    weight = torch.exp(-0.5 * (gap / sigma_vox) ** 2)
    return weight / weight.sum()


def gaussian_blur(data_XYZ: Tensor, sigma_vox: float, reach_vox: int) -> Tensor:
    """Gaussian blur with 2 reach + 1 taps an axis, for short reaches; the edge sample is repeated.

    It waits for no device.
    """
    taps = gaussian_taps(sigma_vox, reach_vox).tolist()
    for axis, n in enumerate(data_XYZ.shape):
        pad = [0] * 6
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = reach_vox
        padded = F.pad(data_XYZ[None, None], pad, mode="replicate")[0, 0]
        data_XYZ = padded.narrow(axis, 0, n) * taps[0]
        for k, tap in enumerate(taps[1:], 1):
            data_XYZ.add_(padded.narrow(axis, k, n), alpha=tap)
    return data_XYZ


def gaussian_matrix(n: int, sigma_vox: float, reach_vox: int) -> Tensor:
    """Gaussian averages [n, n] with 2 reach + 1 taps that sum to one."""
    return tap_matrix(n, gaussian_taps(sigma_vox, reach_vox), -reach_vox)


Box: TypeAlias = "tuple[slice, slice, slice]"


@dataclass(frozen=True)
class Tile:
    """A box of voxels.

    Args:
        outer: the voxels that windows around its own reach.
        inner: its own voxels.
        windows: the three matrices from the outer voxels to the inner ones.
    """

    outer: Box
    inner: Box
    windows: tuple[Tensor, Tensor, Tensor]


def _pieces(n: int, window: Tensor, reach_vox: int) -> list[tuple[slice, slice, Tensor]]:
    """An axis in pieces of nearly equal length: what windows reach, its own samples, the matrix between them."""
    count = -(-n // TILE_VOX)
    cuts = [n * k // count for k in range(count + 1)]
    reached = [(max(0, start - reach_vox), min(n, stop + reach_vox)) for start, stop in pairwise(cuts)]
    return [
        (slice(low, high), slice(start, stop), window[start:stop, low:high].contiguous())
        for (low, high), (start, stop) in zip(reached, pairwise(cuts), strict=True)
    ]


def tiles(mask_XYZ: Tensor, sigma_vox: float, reach_vox: int) -> Iterator[Tile]:
    """Cut a volume into tiles with Gaussian windows; tiles without a voxel of the mask are left out."""
    axes = [_pieces(n, gaussian_matrix(n, sigma_vox, reach_vox).to(mask_XYZ.device), reach_vox) for n in mask_XYZ.shape]
    for x, y, z in product(*axes):
        inner = x[1], y[1], z[1]
        if bool(mask_XYZ[inner].any()):
            yield Tile((x[0], y[0], z[0]), inner, (x[2], y[2], z[2]))


def averaged(volumes: Sequence[Tensor], windows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Local means of several volumes at once."""
    return apply_axes(torch.stack(list(volumes)), windows).unbind(0)


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
    mean_x, mean_y, square_x, square_y, both = averaged(
        (x_XYZ, y_XYZ, x_XYZ.square(), y_XYZ.square(), x_XYZ * y_XYZ), windows
    )
    return Moments(
        mean_x=mean_x,
        mean_y=mean_y,
        variance_x=square_x - mean_x.square(),
        variance_y=square_y - mean_y.square(),
        covariance=both - mean_x * mean_y,
    )
