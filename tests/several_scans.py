"""Scans of one phantom head in several planes, with motion between them, for tests of their combination."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm

MOTIONS = (IDENTITY, ((3, -2, 4), (2, -3, 1.5)), ((-4, 1, 2), (-1, 2, 3)))


@dataclass(frozen=True)
class Stacks:
    """A sharp head, scans of it, and where each lies (common frame -> the scan's own)."""

    truth: Volume
    scans: list[Volume]
    transforms: list[Rigid]


def acquired(truth: Volume, axis: int, transform: Rigid = IDENTITY, *, factor: float = 4, seed: int = 0) -> Volume:
    """Thick slices across an axis of a head that moved."""
    moved = Volume(resample(truth, transform.placed_grid(truth.grid)).data_XYZ.clamp_min(0), truth.affine)
    return degrade(moved, thick_slices(factor, 0.01, "stack", axis=axis), rng_for(seed, axis))


def stacks_of(truth: Volume, axes: Sequence[int] = (2, 0, 1), factor: float = 4, *, moved: bool = True) -> Stacks:
    """One scan for every axis, each after another motion but the first, or all without motion."""
    centre = grid_centre_mm(truth.grid)
    transforms = [m if isinstance(m, Rigid) else Rigid.of(*m, centre) for m in MOTIONS[: len(axes)]]
    transforms = transforms if moved else [IDENTITY] * len(axes)
    pairs = enumerate(zip(axes, transforms, strict=True))
    scans = [acquired(truth, axis, transform, factor=factor, seed=seed) for seed, (axis, transform) in pairs]
    return Stacks(truth, scans, transforms)


@pytest.fixture(scope="session")
def stacks(make_phantom: Callable[..., Volume]) -> Stacks:
    """Three planes of a phantom of 13 cm, which is registered sooner than a whole head; do not change them.

    Voxels of 1.3 mm, slices of 5.2 mm.
    """
    return stacks_of(lopsided(make_phantom((92, 104, 88), (1.3, 1.3, 1.3))))


@pytest.fixture(scope="session")
def still_stacks(make_phantom: Callable[..., Volume]) -> Stacks:
    """Three planes of a phantom that did not move, 4 mm voxels, slices of 12 mm; do not change them."""
    return stacks_of(lopsided(make_phantom((48, 56, 44), (4.0, 4.0, 4.0))), factor=3, moved=False)


def lopsided(phantom: Volume) -> Volume:
    """A phantom with two darker octants: without them it is its own mirror image."""
    data = phantom.data_XYZ.clone()
    x, y, z = (n // 2 for n in data.shape)
    data[x:, y:, z:] *= 0.6
    data[:x, :y, :z] *= 0.8
    a, b, c = (n / 100 for n in phantom.shape)
    data[x - int(6 * a) : x + int(8 * a), y + int(13 * b) : y + int(23 * b), z + int(7 * c) : z + int(16 * c)] = 350.0
    return Volume(data, phantom.affine)


def other_contrast(scan: Volume) -> Volume:
    """Dark tissue bright and bright tissue dark, air as it was."""
    inverted = (900 - scan.data_XYZ).clamp_min(0)
    return scan.with_data(torch.where(scan.data_XYZ > 60, inverted, scan.data_XYZ))
