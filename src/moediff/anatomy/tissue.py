"""Tissue segmentation: fluid, grey and white matter of a skull-stripped scan, by intensity.

A mixture of three Gaussians over log intensities and a smooth bias field, fitted in turns (Wells et al. 1996, IEEE
TMI 15), then two rounds in which neighbours count (mean-field Potts prior). White matter is the tissue that lies
deepest, so T1w, T2w and FLAIR orders are distinguished without being named.

Axes: X Y Z voxels, N voxels of the brain, T tissues.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.memory import single_thread
from moediff.core.morphology import depth_mm, eroded
from moediff.core.resample import apply_axes
from moediff.core.statistics import quantile
from moediff.core.windows import gaussian_matrix

FLUID, GREY, WHITE = 1, 2, 3
AIR_FRACTION = 0.05  # of the 99th percentile of what is above zero
LEAST_AIR = 0.15  # share of voxels without signal; a scan with skin and skull around the brain may have as much
BRAIN_LITRES = (0.6, 2.0)  # with the fluid that strippers leave; heads have 2.5 and more
RIM_MM = 2.0  # voxels this near the surface hold air too
BIAS_MM = 25.0  # standard deviation of the smoothing that makes the bias field
BIAS_BLOCK = 4  # voxels; the field is smoothed on blocks
ROUNDS, EM_STEPS, SAMPLES = 4, 12, 100_000
LEAST_SPREAD, FLUID_SPREAD = 0.01, 3.0  # of log intensity; of the spread of grey and white matter, at most
NEIGHBOUR_WEIGHT, NEIGHBOUR_ROUNDS = 4.0, 2
SEPARATE = 1.2  # gap of two tissues' means over the root of their summed variances
LEAST_MATTER, LEAST_FLUID = 0.15, 0.02  # of the brain: grey and white matter each, fluid
STARTS = ((0.05, 0.4, 0.8), (0.3, 0.7, 0.97), (0.02, 0.3, 0.7))  # quantiles: fluid darkest, brightest, or scarce


@dataclass(frozen=True)
class Mixture:
    """Means, standard deviations and shares of three tissues in log intensity, ascending."""

    mean_T: Tensor
    spread_T: Tensor
    share_T: Tensor

    def log_density(self, value_N: Tensor) -> Tensor:
        """Log of share times density, up to a constant [T, N]."""
        gap_TN = (value_N - self.mean_T[:, None]) / self.spread_T[:, None]
        return gap_TN.square_().mul_(-0.5).add_((self.share_T.log() - self.spread_T.log())[:, None])

    def fits(self, value_N: Tensor) -> float:
        """Mean log likelihood, up to a constant."""
        return float(self.log_density(value_N).logsumexp(0).mean())

    def separation(self) -> float:
        """Gap between the two most common tissues, grey and white matter, in units of their joint spread."""
        brain = self.share_T.topk(2).indices
        return float(self.mean_T[brain].diff().abs() / self.spread_T[brain].square().sum().sqrt())


def brain_of(data_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor | None:
    """Where a skull-stripped brain is; None where air is scarce or the volume is not that of a brain."""
    positive = data_XYZ[data_XYZ > 0]
    if positive.numel() < 0.05 * data_XYZ.numel():
        return None
    mask = data_XYZ > AIR_FRACTION * quantile(positive, 0.99)
    litres = float(mask.sum()) * math.prod(spacing_mm) / 1e6
    stripped = float((data_XYZ <= 0).float().mean()) > LEAST_AIR
    return mask if stripped and BRAIN_LITRES[0] < litres < BRAIN_LITRES[1] else None


def _blocks(data_XYZ: Tensor) -> Tensor:
    pad = [(-n) % BIAS_BLOCK for n in data_XYZ.shape]
    return F.avg_pool3d(F.pad(data_XYZ[None, None], (0, pad[2], 0, pad[1], 0, pad[0])), BIAS_BLOCK)[0, 0]


def _smooth_mean(value_XYZ: Tensor, weight_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Weighted Gaussian mean, on blocks; value_XYZ is already weighted."""
    value, weight = _blocks(value_XYZ), _blocks(weight_XYZ)
    sigmas = [BIAS_MM / (s * BIAS_BLOCK) for s in spacing_mm]
    matrices = [gaussian_matrix(n, s, math.ceil(2.5 * s)) for n, s in zip(value.shape, sigmas, strict=True)]
    mean = apply_axes(value, matrices) / apply_axes(weight, matrices).clamp_min(1e-6)
    x, y, z = value_XYZ.shape
    return F.interpolate(mean[None, None], scale_factor=BIAS_BLOCK, mode="trilinear")[0, 0, :x, :y, :z]


def _expectation_maximisation(value_N: Tensor, mixture: Mixture) -> Mixture:
    for _ in range(EM_STEPS):
        belongs = mixture.log_density(value_N).softmax(0)
        count = belongs.sum(1).clamp_min(1e-6)
        mean = (belongs * value_N).sum(1) / count
        variance = (belongs * (value_N - mean[:, None]) ** 2).sum(1) / count
        brain = count.topk(2).indices  # grey and white matter, whose spread is noise: the same, or one eats the other
        variance[brain] = (variance[brain] * count[brain]).sum() / count[brain].sum()
        spread = variance.sqrt().clamp(LEAST_SPREAD, FLUID_SPREAD * float(variance[brain[0]].sqrt()) + LEAST_SPREAD)
        mixture = Mixture(mean, spread, count / count.sum())
    order = mixture.mean_T.argsort()
    return Mixture(mixture.mean_T[order], mixture.spread_T[order], mixture.share_T[order])


def _start(value_N: Tensor, at: tuple[float, float, float]) -> Mixture:
    """Means at three quantiles."""
    third = torch.full((3,), 1 / 3)
    return Mixture(torch.quantile(value_N, torch.tensor(at)), third * float(value_N.std()) + LEAST_SPREAD, third)


def _fitted(log_XYZ: Tensor, core_XYZ: Tensor, spacing_mm: Sequence[float]) -> tuple[Mixture, Tensor]:
    """Mixture and bias field (log gain) in turns."""
    bias, stride = torch.zeros_like(log_XYZ), max(1, int(core_XYZ.sum()) // SAMPLES)
    first = log_XYZ[core_XYZ][::stride]
    mixture = max((_expectation_maximisation(first, _start(first, at)) for at in STARTS), key=lambda m: m.fits(first))
    for _ in range(ROUNDS):
        value = (log_XYZ - bias)[core_XYZ]
        mixture = _expectation_maximisation(value[::stride], mixture)
        precision = mixture.log_density(value).softmax(0) / mixture.spread_T[:, None] ** 2
        weight, residual = torch.zeros_like(log_XYZ), torch.zeros_like(log_XYZ)
        weight[core_XYZ] = precision.sum(0)
        residual[core_XYZ] = (precision * (value - mixture.mean_T[:, None])).sum(0)
        bias = bias + _smooth_mean(residual, weight, spacing_mm)
    return mixture, bias


def _with_neighbours(log_density_TN: Tensor, brain_XYZ: Tensor) -> Tensor:
    """Most probable class of every brain voxel [N] when neighbours tend to agree."""
    belongs = torch.zeros(3, *brain_XYZ.shape)
    belongs[:, brain_XYZ] = log_density_TN.softmax(0)
    for _ in range(NEIGHBOUR_ROUNDS):
        around = F.avg_pool3d(belongs[:, None], 3, 1, 1)[:, 0][:, brain_XYZ]
        belongs[:, brain_XYZ] = (log_density_TN + NEIGHBOUR_WEIGHT * around).softmax(0)
    return belongs[:, brain_XYZ].argmax(0)


def _tissue_of_class(class_N: Tensor, depth_N: Tensor) -> Tensor | None:
    """Tissue of every class, darkest first [3]; None where a class is too rare to be its tissue."""
    voxels = torch.bincount(class_N, minlength=3).double().clamp_min(1)
    depths = torch.bincount(class_N, depth_N.double(), minlength=3) / voxels
    white = max(voxels.topk(2).indices.tolist(), key=lambda k: float(depths[k]))
    order = {2: (FLUID, GREY, WHITE), 1: (FLUID, WHITE, GREY), 0: (WHITE, GREY, FLUID)}[white]
    least = torch.tensor([LEAST_FLUID if tissue == FLUID else LEAST_MATTER for tissue in order])
    return torch.tensor(order, dtype=torch.uint8) if bool((voxels > least * len(class_N)).all()) else None


def tissue_map(data_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor | None:
    """FLUID, GREY, WHITE or 0 (outside) for every voxel of a skull-stripped scan; uint8.

    None where the scan does not look stripped, or its tissues overlap too much to be distinguished (many FLAIR and
    contrast-enhanced scans).

    Args:
        data_XYZ: intensities, 0 outside the brain.
        spacing_mm: voxel sizes.
    """
    with single_thread():  # many short steps
        return _tissue_map(data_XYZ, spacing_mm)


def _tissue_map(data_XYZ: Tensor, spacing_mm: Sequence[float]) -> Tensor | None:
    brain = brain_of(data_XYZ, spacing_mm)
    if brain is None:
        return None
    core = eroded(brain, max(1, round(RIM_MM / max(spacing_mm))))
    if int(core.sum()) < 1000:
        return None
    log = data_XYZ.float().clamp_min(1e-3 * quantile(data_XYZ[brain], 0.5)).log()
    mixture, bias = _fitted(log, core, spacing_mm)
    if not mixture.separation() > SEPARATE:
        return None
    classes = _with_neighbours(mixture.log_density((log - bias)[brain]), brain)
    names = _tissue_of_class(classes[core[brain]], depth_mm(brain, spacing_mm, 40.0)[core])
    if names is None:
        return None
    tissue = torch.zeros(data_XYZ.shape, dtype=torch.uint8)
    tissue[brain] = names[classes]
    return tissue
