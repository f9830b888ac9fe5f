"""Pairs: one head measured twice, as it is usually acquired and sharp (thin slices, more field, more averages).

The input stays as it was measured. The sharp scan is brought to voxels whose axes run along the input's, as enhancing
does, and both to intensities of their own: air 0, the brain's median 0.5.

Axes: X Y Z voxels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.noise import quiet_noise
from moediff.acquisition.normalisation import foreground
from moediff.acquisition.prepare import bounds
from moediff.acquisition.sampling_estimate import estimated_sampling
from moediff.anatomy.regions import scan_regions
from moediff.core.errors import DataError
from moediff.core.geometry import crop, field_of_view_mask, positions_along, resample
from moediff.core.volume import Volume
from moediff.inference.grid_plan import aligned_grid
from moediff.training.cache import Measured, TrainingScan, training_scan

BLOCK_MM = 2.0  # edges are compared on voxels of about this size
REACH_MM = 20.0  # how far apart two scans are looked for
ALIKE = 0.35  # least correlation of edges: one head in two contrasts has 0.5 and more, two heads 0.25 at most
TOLERATED_MM = 1.0  # or half the input's voxel size


def on_common_grid(sharp: Volume, low: Volume) -> tuple[Volume, Tensor]:
    """The sharp scan on voxels parallel to the input's, and which of them both scans cover.

    Args:
        sharp, low: canonical axes.

    Returns:
        The sharp scan itself where its axes are parallel to the input's, else read on the input's box in voxels as
        fine as its finest; a boolean mask, convex.
    """
    own = sharp.grid
    target = aligned_grid(low.grid, own)
    truth = sharp if target is own else resample(sharp, target)
    return truth, field_of_view_mask(own, target) & field_of_view_mask(low.grid, target)


def pair_of(sharp: Volume, low: Volume, weight: float) -> TrainingScan:
    """Two scaled, canonical scans of a head as training holds them.

    Raises:
        DataError: they do not show one head in one place.
    """
    truth, known = on_common_grid(sharp, low)
    if not bool(known.any()):
        raise DataError("the two scans have no place in common, expected one head: check their headers")
    first, end = bounds(known)
    truth = crop(truth, first, [b - a for a, b in zip(first, end, strict=True)])
    known = known[tuple(slice(a, b) for a, b in zip(first, end, strict=True))]
    inside = foreground(truth.data_XYZ, truth.spacing_mm) & known
    require_one_place(truth, resample(low, truth.grid), inside, low.spacing_mm)
    scan = training_scan(truth.data_XYZ, inside, scan_regions(truth.data_XYZ, truth.spacing_mm), weight)
    positions = positions_along(low.grid, truth.grid)
    sampling = estimated_sampling(low.data_XYZ, positions, float(quiet_noise(low.data_XYZ)))
    measured = Measured(low.data_XYZ.half(), torch.linalg.inv(truth.affine) @ low.affine, known, sampling)
    return replace(scan, measured=measured)


def require_one_place(sharp: Volume, low: Volume, inside_XYZ: Tensor, low_mm: Sequence[float]) -> None:
    """Refuse scans of two heads, and those of one that lies in two places.

    Edges are compared, so that contrasts may differ.

    Args:
        sharp, low: on one grid.
        inside_XYZ: where the head is.
        low_mm: the input's own voxel size.

    Raises:
        DataError: with how far apart they lie.
    """
    block = [max(1, round(BLOCK_MM / size)) for size in sharp.spacing_mm]
    step_mm = [size * n for size, n in zip(sharp.spacing_mm, block, strict=True)]
    here, there = (_edges(volume.data_XYZ, inside_XYZ, block) for volume in (sharp, low))
    reach = [min(int(REACH_MM / step), (n - 1) // 2) for step, n in zip(step_mm, here.shape, strict=True)]
    plain, mirrored = (_alike(here, volume, reach) for volume in (there, there.flip(0)))
    shift_mm = [(at - r) * step for at, r, step in zip(_peak(plain), reach, step_mm, strict=True)]
    if float(plain.max()) < ALIKE:
        raise DataError(
            f"the two scans do not look like one head (their edges correlate by {float(plain.max()):.2f}), expected a "
            "pair: name scans of one person"
        )
    if float(mirrored.max()) > float(plain.max()):
        raise DataError(
            "the input looks mirrored left to right beside the sharp scan, expected one head: is one flipped?"
        )
    if any(abs(s) > max(TOLERATED_MM, size / 2) + 1e-3 for s, size in zip(shift_mm, low_mm, strict=True)):
        right, front, up = (round(-s, 1) + 0.0 for s in shift_mm)  # never "-0.0"
        raise DataError(
            f"the input lies about {right:+.1f} mm to the right, {front:+.1f} mm to the front and {up:+.1f} mm above "
            "the sharp scan, expected one place: register one to the other first"
        )


def _alike(here_XYZ: Tensor, there_XYZ: Tensor, reach: Sequence[int]) -> Tensor:
    """Correlation at every shift of up to `reach` samples either way."""
    spectrum = torch.fft.rfftn(here_XYZ) * torch.fft.rfftn(there_XYZ).conj()
    alike = torch.fft.irfftn(spectrum, here_XYZ.shape) / (here_XYZ.norm() * there_XYZ.norm()).clamp_min(1e-12)
    return alike.roll(list(reach), (0, 1, 2))[tuple(slice(0, 2 * r + 1) for r in reach)]


def _edges(data_XYZ: Tensor, inside_XYZ: Tensor, block: Sequence[int]) -> Tensor:
    """Size of the gradient inside the head, on blocks, less its mean."""
    small = F.avg_pool3d((data_XYZ * inside_XYZ)[None, None].float(), list(block))[0, 0]
    there = F.avg_pool3d(inside_XYZ[None, None].float(), list(block))[0, 0] > 0.99
    square = torch.zeros_like(small)
    for axis in range(3):
        square += (small.roll(-1, axis) - small.roll(1, axis)).square()
    there = 1 - F.max_pool3d(1 - there[None, None].float(), 3, 1, 1)[0, 0]
    size = square.sqrt() * there
    return (size - size.sum() / there.sum().clamp_min(1)) * there


def _peak(alike_XYZ: Tensor) -> list[float]:
    """Where it is largest, between samples by a parabola along each axis."""
    peak = [int(at) for at in torch.unravel_index(alike_XYZ.argmax(), alike_XYZ.shape)]
    position = []
    for axis, at in enumerate(peak):
        line = alike_XYZ[tuple(slice(None) if a == axis else peak[a] for a in range(3))]
        if 0 < at < len(line) - 1:
            before, here, after = line[at - 1 : at + 2].tolist()
            bend = before - 2 * here + after
            position.append(at + (0.5 * (before - after) / bend if bend < 0 else 0.0))
        else:
            position.append(float(at))
    return position


def corners_known(known_XYZ: Tensor, start: Sequence[int], side: int) -> bool:
    """Whether a cube lies wholly in a convex set of voxels."""
    ends = [(a, a + side - 1) for a in start]
    if any(a < 0 or b >= n for (a, b), n in zip(ends, known_XYZ.shape, strict=True)):
        return False
    return all(bool(known_XYZ[corner]) for corner in itertools.product(*ends))
