"""Quantiles and medians, exact sums, and the voxels of a mask.

NumPy picks and selects ten times faster than torch; float64 sums run through copies that fit a processor's cache.

Axes: X Y Z voxels, V values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

RUN = 1 << 14  # values at once; torch gives steps this short to one thread, so none waits for another
SAMPLES = 1 << 14  # values that tell where the wanted one lies
MAX_SAMPLES = 2_000_000  # quantiles of more values are read from an even subset
MARGIN = 0.02  # of the samples, to either side: five standard deviations of a rank


def picked(data_XYZ: Tensor, mask_XYZ: Tensor) -> Tensor:
    """The values inside a mask [V], in the order of their voxels."""
    if data_XYZ.device.type != "cpu":
        return data_XYZ[mask_XYZ]
    return torch.from_numpy(data_XYZ.detach().numpy()[mask_XYZ.numpy()])


def runs(values_V: Tensor, origin: float = 0.0) -> Iterator[Tensor]:
    """Values minus origin, float64, piece by piece."""
    return (run.double() - origin for run in values_V.split(RUN))


def mean(values_V: Tensor) -> float:
    """Their mean, summed in float64."""
    return sum(float(run.sum()) for run in runs(values_V)) / values_V.numel()


def energy(values_V: Tensor, origin: float = 0.0) -> float:
    """Sum of squared distances from origin, in float64."""
    return sum(float(run.square_().sum()) for run in runs(values_V, origin))


def kth(values_V: Tensor, k: int) -> float:
    """The k-th smallest value, counted from 1; of any number of values (torch.quantile stops at 2^24).

    A sample says between which two values it lies; only those in between are sorted. Should the sample be wrong, and
    the count tells, all are.
    """
    values = values_V.detach().flatten().cpu().numpy()
    if values.size <= 4 * SAMPLES:
        return _selected(values, k)
    low, high = _bracket(values, k)
    below = int(np.count_nonzero(values < low))
    between = values[(values >= low) & (values <= high)]
    return _selected(between, k - below) if below < k <= below + between.size else _selected(values, k)


def _selected(values: np.ndarray, k: int) -> float:
    return float(np.partition(values, k - 1)[k - 1])


def _bracket(values: np.ndarray, k: int) -> tuple[float, float]:
    """Two values that the k-th smallest very probably lies between."""
    sample = np.sort(values[:: even_step(values.size, SAMPLES)])
    at, gap = (k - 1) / (values.size - 1) * (sample.size - 1), math.ceil(MARGIN * sample.size)
    low, high = math.floor(at) - gap, math.ceil(at) + gap
    return (
        -math.inf if low < 0 else float(sample[low]),
        math.inf if high >= sample.size else float(sample[high]),
    )


def exact_quantile(values_V: Tensor, q: float) -> float:
    """The smallest value with a fraction q at or below it, of all values: published ranges are defined by it."""
    return kth(values_V, max(1, math.ceil(q * values_V.numel())))


def median(values_V: Tensor) -> float:
    """The lower median, as torch has it."""
    return kth(values_V, (values_V.numel() + 1) // 2)


def even_step(count: int, most: int) -> int:
    """Step through `count` voxels in storage order that reads about `most` of them; 1 reads all.

    It has no factor in common with their number, so that no axis is read at a few of its planes alone.
    """
    step = max(1, count // most) | 1
    while math.gcd(step, count) > 1:
        step += 2
    return step


def quantile(values: Tensor, q: float) -> float:
    """Quantile between the two nearest values; of more than 4 million an even subset is read."""
    return float(quantile_tensor(values, q))


def quantile_tensor(values: Tensor, q: float) -> Tensor:
    """`quantile` as a scalar where the values lie: NumPy selects where torch sorts, but torch waits for no device."""
    flat = values.flatten()
    sample = flat[:: even_step(flat.numel(), MAX_SAMPLES)].float()
    if sample.device.type != "cpu":
        return torch.quantile(sample, q)
    return torch.tensor(np.quantile(sample.numpy(), q), dtype=torch.float64)
