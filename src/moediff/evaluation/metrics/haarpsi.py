"""HaarPSI: similarity of Haar wavelet coefficients, slice by slice along all three directions.

A 2-D measure, as published: each slice is judged, and slices count by their voxels inside the mask. Intensities are in
units of L, times 255.

Axes: X Y Z voxels, N slices, A B the in-plane axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moediff.core.resample import apply_axes
from moediff.core.windows import tap_matrix
from moediff.evaluation.metrics.fidelity import check_pair, check_range

STANDARD = (30.0, 4.2)  # C and alpha; Reisenhofer 2018, natural images
MEDICAL = (5.0, 4.9)  # C and alpha; Karner 2025, radiographs and photoacoustic images
BATCH = 32  # slices at once, which bounds memory
SCALES = 3  # two for the similarity, the third for the weights


def _averaged(n: int) -> Tensor:
    """Means of neighbours, every second one [ceil(n / 2), n]."""
    return tap_matrix(n, torch.tensor([0.5, 0.5]), -1)[::2]


def _haar(n: int, scale: int) -> tuple[Tensor, Tensor]:
    """Sum and difference of 2^scale neighbours, as matrices [n, n] that together weigh 2^-scale in 2-D."""
    half = 2 ** (scale - 1)
    taps = torch.ones(2 * half) * 2.0 ** (-scale / 2)
    signs = torch.cat([torch.ones(half), -torch.ones(half)])
    return tap_matrix(n, taps, -half), tap_matrix(n, taps * signs, -half)


def _magnitudes(data_NAB: Tensor) -> list[list[Tensor]]:
    """Absolute wavelet coefficients, [direction][scale], of slices already halved."""
    _, a, b = data_NAB.shape
    magnitudes: list[list[Tensor]] = [[], []]
    for scale in range(1, SCALES + 1):
        (sum_a, step_a), (sum_b, step_b) = _haar(a, scale), _haar(b, scale)
        magnitudes[0].append(apply_axes(data_NAB, (None, step_a, sum_b)).abs())
        magnitudes[1].append(apply_axes(data_NAB, (None, sum_a, step_b)).abs())
    return magnitudes


def _slice_scores(
    x_NAB: Tensor, y_NAB: Tensor, mask_NAB: Tensor, parameters: Sequence[tuple[float, float]]
) -> list[Tensor]:
    """HaarPSI of every slice [N] for every pair of parameters; Reisenhofer 2018, eq. 10-12."""
    totals = [torch.zeros(len(x_NAB), dtype=torch.float64) for _ in parameters]
    weights = torch.zeros(len(x_NAB), dtype=torch.float64)
    for p, q in zip(_magnitudes(x_NAB), _magnitudes(y_NAB), strict=True):
        weight = torch.maximum(p[-1], q[-1]) * mask_NAB
        weights += weight.sum(dim=(1, 2), dtype=torch.float64)
        products = [2 * f * g for f, g in zip(p[:-1], q[:-1], strict=True)]
        squares = [f.square() + g.square() for f, g in zip(p[:-1], q[:-1], strict=True)]
        for total, (c, alpha) in zip(totals, parameters, strict=True):
            likeness = sum((above + c) / (below + c) for above, below in zip(products, squares, strict=True))
            local = torch.sigmoid(alpha * torch.as_tensor(likeness) / (SCALES - 1))
            total += (local * weight).sum(dim=(1, 2), dtype=torch.float64)
    return [_undone(total, weights, alpha) for total, (_, alpha) in zip(totals, parameters, strict=True)]


def _undone(total_N: Tensor, weights_N: Tensor, alpha: float) -> Tensor:
    """The weighted mean of logistic values back on the scale of similarity [N]."""
    same = torch.sigmoid(torch.tensor(alpha, dtype=torch.float64))  # slices without any structure are alike
    mean = torch.where(weights_N > 0, total_N / weights_N.clamp_min(1e-12), same).clamp(max=float(same))
    return (torch.logit(mean) / alpha).square()


def haarpsis(
    pred_XYZ: Tensor,
    truth_XYZ: Tensor,
    mask_XYZ: Tensor,
    data_range: float,
    parameters: Sequence[tuple[float, float]],
) -> list[float]:
    """Haar wavelet-based perceptual similarity (Reisenhofer et al. 2018), mean of the three slice directions.

    0..1, higher is better; one value for every C and alpha.

    Args:
        parameters: C and alpha; `STANDARD`, or `MEDICAL` (Karner et al. 2025).

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    check_range(data_range)
    directions = []
    for axis in range(3):
        totals, voxels = [0.0] * len(parameters), 0.0
        for start in range(0, truth_XYZ.shape[axis], BATCH):
            run = slice(start, start + BATCH)
            pred, truth, mask = (t.movedim(axis, 0)[run] for t in (pred_XYZ, truth_XYZ, mask_XYZ))
            halves = (None, _averaged(truth.shape[1]), _averaged(truth.shape[2]))
            x, y = (apply_axes(t.float() * (255 / data_range), halves) for t in (pred, truth))
            inside = mask[:, ::2, ::2]
            count = inside.sum(dim=(1, 2)).double()
            scores = _slice_scores(x, y, inside, parameters)
            totals = [total + float((score * count).sum()) for total, score in zip(totals, scores, strict=True)]
            voxels += float(count.sum())
        if voxels:
            directions.append([total / voxels for total in totals])
    check_range(len(directions))
    return [sum(values) / len(values) for values in zip(*directions, strict=True)]


def haarpsi(
    pred_XYZ: Tensor,
    truth_XYZ: Tensor,
    mask_XYZ: Tensor,
    data_range: float,
    parameters: tuple[float, float] = STANDARD,
) -> float:
    """`haarpsis` for one pair of parameters.

    Raises:
        GeometryError, DataError: see there.
    """
    return haarpsis(pred_XYZ, truth_XYZ, mask_XYZ, data_range, (parameters,))[0]
