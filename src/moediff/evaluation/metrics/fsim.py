"""FSIM: similarity of phase congruency (edges and lines, whatever their contrast) and of gradients.

A 2-D measure, as published (Zhang et al. 2011, IEEE TIP 20; phase congruency after Kovesi 1999 with the authors'
constants): slices along each of the three directions are judged, two of seven. Intensities are in units of L, times
255.

Axes: X Y Z voxels, N slices, A B the in-plane axes, O orientations, S scales.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.core.resample import apply_axes
from moediff.core.windows import tap_matrix
from moediff.evaluation.metrics.fidelity import check_pair, check_range

SCALES, ORIENTATIONS = 4, 4
SHORTEST_VOX, GROWTH = 6.0, 2.0  # wavelength of the finest filter, and from scale to scale
BANDWIDTH = 0.55  # spread over centre frequency of a log-Gabor filter
ANGULAR = 1.2  # gap of orientations over their spread
LOW_PASS, LOW_PASS_ORDER = 0.45, 15
NOISE_SIGMAS, NOISE_CORRECTION = 2.0, 1.7
T_CONGRUENCY, T_GRADIENT = 0.85, 160.0
FULL_SIDE = 256  # slices of 1.5 times this side and more are averaged first
PERIOD, TAKEN = 7, (0, 3)  # slices judged; neighbours say nearly the same, and 7 shares no factor with thick slices
DIRECTIONS = (0, 1, 2)
BATCH = 8  # slices at once, which bounds memory
TINY = 1e-7


@dataclass(frozen=True)
class Filters:
    """One-sided log-Gabor filters of slices of one shape: their real part answers to lines, the imaginary to edges.

    Args:
        gains_OSAB: in Fourier space, zero frequency first.
        noise_O: energy of noise alone per squared response at the finest scale.
    """

    gains_OSAB: Tensor
    noise_O: Tensor


def _frequencies(n: int) -> Tensor:
    """Cycles per voxel as the authors count them, zero frequency first."""
    centred = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.fft.ifftshift(centred / max(1, n - n % 2))


@lru_cache(maxsize=8)
def filters(a: int, b: int) -> Filters:
    """The filters for slices of this shape."""
    down, across = _frequencies(a)[:, None], _frequencies(b)
    radius = torch.sqrt(down**2 + across**2)
    low_pass = 1 / (1 + (radius / LOW_PASS) ** (2 * LOW_PASS_ORDER))
    radius[0, 0] = 1  # its logarithm is not used
    centres = [1 / (SHORTEST_VOX * GROWTH**scale) for scale in range(SCALES)]
    radial_SAB = torch.stack([(-((radius / c).log() ** 2) / (2 * math.log(BANDWIDTH) ** 2)).exp() for c in centres])
    radial_SAB *= low_pass
    radial_SAB[:, 0, 0] = 0
    theta, spread = torch.atan2(-across, down), math.pi / ORIENTATIONS / ANGULAR
    turns = torch.stack([theta - o * math.pi / ORIENTATIONS for o in range(ORIENTATIONS)])
    gap_OAB = torch.atan2(turns.sin(), turns.cos())
    gains = (-(gap_OAB**2) / (2 * spread**2)).exp()[:, None] * radial_SAB
    return Filters(gains.float(), _noise_gain(gains).float())


def _noise_gain(gains_OSAB: Tensor) -> Tensor:
    """Energy that white noise causes, per squared response of the finest filter [O]; Kovesi 1999."""
    kernels = torch.fft.ifft2(gains_OSAB).real * math.sqrt(gains_OSAB[0, 0].numel())
    own = kernels.square().sum(dim=(1, 2, 3))
    both = (kernels.sum(1).square() - kernels.square().sum(1)).sum(dim=(1, 2)) / 2
    return (2 * own + 4 * both) / gains_OSAB[:, 0].square().sum(dim=(1, 2))


def phase_congruency(data_NAB: Tensor) -> Tensor:
    """Kovesi's phase congruency of every pixel; 0..1."""
    bank = filters(data_NAB.shape[1], data_NAB.shape[2])
    spectrum = torch.fft.fft2(data_NAB)
    congruent, amplitude = torch.zeros_like(data_NAB), torch.full_like(data_NAB, TINY)
    for gains_SAB, noise in zip(bank.gains_OSAB, bank.noise_O.tolist(), strict=True):
        pairs = [torch.view_as_real(torch.fft.ifft2(spectrum * gain)).unbind(-1) for gain in gains_SAB]
        even, odd = (torch.stack(parts).sum(0) for parts in zip(*pairs, strict=True))
        energy, across = torch.sqrt(even * even + odd * odd), torch.zeros_like(data_NAB)
        for e, o in pairs:
            across += (e * odd - o * even).abs_()  # sine of the angle to the mean response, times both lengths
        powers = [e * e + o * o for e, o in pairs]
        for power in powers:
            amplitude += power.sqrt()
        mean = powers[0].flatten(1).median(dim=1).values / math.log(2)  # of an exponential law
        tau = (noise * mean / 2).clamp_min(0).sqrt()
        threshold = tau * (math.sqrt(math.pi / 2) + NOISE_SIGMAS * math.sqrt(2 - math.pi / 2)) / NOISE_CORRECTION
        congruent += (energy - across / (energy + TINY) - threshold[:, None, None]).clamp_min_(0)
    return congruent / amplitude


def _gradient(data_NAB: Tensor) -> Tensor:
    """Magnitude of Scharr's gradient."""
    mean, step = torch.tensor([3.0, 10.0, 3.0]) / 16, torch.tensor([-1.0, 0.0, 1.0])
    a, b = data_NAB.shape[1:]
    down = apply_axes(data_NAB, (None, tap_matrix(a, step, -1), tap_matrix(b, mean, -1)))
    across = apply_axes(data_NAB, (None, tap_matrix(a, mean, -1), tap_matrix(b, step, -1)))
    return torch.hypot(down, across)


def _agreement(x: Tensor, y: Tensor, constant: float) -> Tensor:
    return (2 * x * y + constant) / (x.square() + y.square() + constant)


def _batches(mask_XYZ: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Direction, and indices of a few slices along it that hold voxels of the mask."""
    for axis in DIRECTIONS:
        inside = mask_XYZ.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
        taken = inside[torch.isin((inside - inside[len(inside) // 2]) % PERIOD, torch.tensor(TAKEN))]
        yield from ((axis, indices) for indices in taken.split(BATCH))


def fsim(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, data_range: float) -> float:
    """Feature similarity (Zhang et al. 2011), pixels weighted by phase congruency, mean of the three directions.

    0..1, higher is better; 1 where nothing has structure.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a range that is not positive.
    """
    check_pair(pred_XYZ, truth_XYZ, mask_XYZ)
    check_range(data_range)
    alike, weights = [0.0] * 3, [0.0] * 3
    for axis, indices in _batches(mask_XYZ):
        x, y, inside = (t.movedim(axis, 0)[indices] for t in (pred_XYZ, truth_XYZ, mask_XYZ))
        x, y = (t.float() * (255 / data_range) for t in (x, y))
        shrink = max(1, round(min(y.shape[1:]) / FULL_SIDE))
        x, y, part = (F.avg_pool2d(t[:, None], shrink)[:, 0] if shrink > 1 else t for t in (x, y, inside.float()))
        p, q = phase_congruency(x), phase_congruency(y)
        weight = torch.maximum(p, q) * (part > 0.5)
        local = _agreement(p, q, T_CONGRUENCY) * _agreement(_gradient(x), _gradient(y), T_GRADIENT)
        alike[axis] += float((local * weight).sum(dtype=torch.float64))
        weights[axis] += float(weight.sum(dtype=torch.float64))
    scores = [alike[axis] / weights[axis] if weights[axis] > 0 else 1.0 for axis in DIRECTIONS]
    return sum(scores) / len(scores)
