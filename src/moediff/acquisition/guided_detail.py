"""Guided detail: what a sharp scan of another contrast adds to an enhanced thick one, where both have the same edges.

The guide g is acquired as the thick scan was and enhanced as it was; g0 is the result. What that loses of the guide,
g - g0, is known, and it is what the enhanced thick scan x0 probably lacks where its edges run as those of g0 do:

    x = x0 + P [ s a r^4 (g - g0) ],    a = <grad x0, grad g0> / <|grad g0|^2>,
                                        r^2 = <grad x0, grad g0>^2 / (<|grad x0|^2> <|grad g0|^2>)

with < > a Gaussian window. The slope a carries over contrast and sign. r^2 is 1 where the gradients are parallel all
over the window. Its square is a choice for lesions: with r^2 itself the mean gain is larger, and so is what a lesion
that only the guide shows leaves behind (LOG.md, 2026-11-30). P leaves what slices average as it was measured: it
projects on the null space of the forward model A, axis by axis.

That two contrasts share the places and directions of their edges is the idea of structure-guided total variation
(Ehrhardt & Betcke 2016, SIAM J. Imaging Sci. 9(3)). A local line from one image to another is that of the guided filter
(He, Sun & Tang 2013, IEEE TPAMI 35(6)), here fitted to gradients of equally blurred images and applied to the detail
that blurring took. Splitting a result in what was measured and a null-space part is that of Wang et al. 2022 (DDNM).

Axes: X Y Z voxels of the working grid, O measured samples, I fine samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.acquisition.prepare import Prepared
from moediff.core.resample import apply_axes
from moediff.core.windows import gaussian_blur

STRENGTH = 0.9  # s: a little less than the fitted line
AGREEMENT_POWER = 2  # of r^2
WINDOW_VOX = 1.25  # sigma of < >
REACH_VOX = math.ceil(3 * WINDOW_VOX)
LEAST_EDGE = 0.05  # of the mean |grad g0|^2 in the head, added to the denominators: flat tissue says nothing
LEAST_OWN_EDGE = 1e-3  # the same of |grad x0|^2
RIDGE = 1e-3  # of A A', whose rows have squared norms below 1


@dataclass(frozen=True)
class SharedEdges:
    """How gradients of two volumes go together around every voxel.

    Args:
        slope_XYZ: a, first over second.
        agreement_XYZ: r^2, 0..1.
    """

    slope_XYZ: Tensor
    agreement_XYZ: Tensor

    @classmethod
    def of(cls, first_XYZ: Tensor, second_XYZ: Tensor, inside_XYZ: Tensor) -> SharedEdges:
        """Compare two volumes on one grid.

        Args:
            first_XYZ, second_XYZ: in any intensities; differences are between neighbouring voxels.
            inside_XYZ: the head, where mean squares are taken.
        """
        both, own, other = (torch.zeros_like(first_XYZ) for _ in range(3))
        for axis in range(3):
            (a,), (b,) = (torch.gradient(data_XYZ, dim=axis) for data_XYZ in (first_XYZ, second_XYZ))
            both.addcmul_(a, b)
            own.addcmul_(a, a)
            other.addcmul_(b, b)
        both, own, other = (gaussian_blur(part, WINDOW_VOX, REACH_VOX) for part in (both, own, other))
        other += LEAST_EDGE * other[inside_XYZ].mean().nan_to_num() + 1e-12
        own += LEAST_OWN_EDGE * own[inside_XYZ].mean().nan_to_num() + 1e-12
        return cls(both / other, (both.square() / (own * other)).clamp(max=1.0))


def guided_detail(
    enhanced_XYZ: Tensor, guide_XYZ: Tensor, guide_enhanced_XYZ: Tensor, prepared: Prepared, seen_XYZ: Tensor
) -> Tensor:
    """The correction of an enhanced scan by its guide: P [s a r^4 (g - g0)], scaled as the scan is, on the CPU.

    Args:
        enhanced_XYZ: x0, on the working grid.
        guide_XYZ: g, sharp, on the same grid, where it lies in the scan; in any intensities.
        guide_enhanced_XYZ: g0, in the same intensities.
        prepared: the scan; its foreground and its forward model count.
        seen_XYZ: where the guide was measured; nothing is added elsewhere, but for what P spreads across a slice.
    """
    inside_XYZ = (prepared.mask_XYZ.cpu() > 0) & seen_XYZ
    edges = SharedEdges.of(enhanced_XYZ, guide_enhanced_XYZ, inside_XYZ)
    weight_XYZ = edges.slope_XYZ * edges.agreement_XYZ**AGREEMENT_POWER
    detail_XYZ = STRENGTH * weight_XYZ * (guide_XYZ - guide_enhanced_XYZ) * inside_XYZ
    matrices = zip(prepared.acquisition.matrices, prepared.reached, strict=True)
    return unmeasured(detail_XYZ, [None if matrix is None else matrix[part] for matrix, part in matrices])


def unmeasured(data_XYZ: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """P: the part of a volume that a separable acquisition does not see.

    The row space of a tensor product is the product of the axes' row spaces, so P = 1 - Rx Ry Rz.

    Args:
        data_XYZ: on the fine grid.
        matrices: A of every axis [O, I]; None leaves an axis as it is.
    """
    return data_XYZ - apply_axes(data_XYZ, [None if a is None else row_space(a) for a in matrices])


def row_space(matrix: Tensor) -> Tensor:
    """R = A' (A A' + ridge)^-1 A [I, I]: the orthogonal projection on what A [O, I] sees, but for the ridge."""
    rows = matrix.double()
    gram = rows @ rows.T + RIDGE * torch.eye(len(rows), dtype=torch.float64, device=rows.device)
    return (rows.T @ torch.linalg.solve(gram, rows)).float()
