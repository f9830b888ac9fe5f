"""Patches for training: random patches of sharp scans, degraded on the fly.

Axes: X Y Z voxels, B batch, n voxels of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.noise import quiet_noise
from moediff.acquisition.normalisation import Scaling
from moediff.acquisition.operators import recipe_sampling
from moediff.acquisition.prepare import Prepared, PrepareSettings, network_order, prepare
from moediff.acquisition.recipe import RESAMPLED, Recipe, RecipeRanges, draw_recipe
from moediff.anatomy.regions import BACKGROUND
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError
from moediff.core.geometry import StorageOrder, centre_crop, crop
from moediff.core.random import log_uniform, uniform
from moediff.core.volume import Grid, Volume
from moediff.model.conditioning import NetworkInput, PerAxis
from moediff.training.augment import AugmentConfig, Augmented, augmented
from moediff.training.cache import Measured, TrainingScan
from moediff.training.pairs import corners_known

NO_REGION = BACKGROUND
MARGIN = 10  # voxels degraded around a patch and cut off again: edges of the cut never reach the network

LEAST_SAMPLES = 3  # of a pair's input beyond a patch
NOISE_SIDE = 80  # voxels of the middle of a head that its noise is read from
KNOWN = 0.75  # share of resampled scans whose sampling is known; the others are taken for what voxel sizes suggest
ATTEMPTS = 100  # to find a patch that both scans of a pair cover


@dataclass(frozen=True)
class Example:
    """One patch: the truth, its share of synthetic lesion, the interpolated patch, and the network's other inputs."""

    truth_XYZ: Tensor
    lesion_XYZ: Tensor
    interpolated_XYZ: Tensor
    neighbours_NXYZ: Tensor
    positions: tuple[Tensor, Tensor, Tensor]
    noise: Tensor
    region_XYZ: Tensor
    attenuation_AF: Tensor


@dataclass(frozen=True)
class Batch:
    """Examples side by side; region 255 means unknown or background."""

    truth_BXYZ: Tensor
    lesion_BXYZ: Tensor
    interpolated_BXYZ: Tensor
    neighbours_BNXYZ: Tensor
    positions: tuple[Tensor, Tensor, Tensor]
    noise_B: Tensor
    region_BXYZ: Tensor
    attenuation_BAF: Tensor

    @property
    def network_input(self) -> NetworkInput:
        """The part that the network reads."""
        scan = self.interpolated_BXYZ, self.neighbours_BNXYZ
        return NetworkInput(*scan, PerAxis(*self.positions), self.noise_B, self.attenuation_BAF)

    @staticmethod
    def of(examples: Sequence[Example]) -> Batch:
        """Stack equal-sized examples."""
        x, y, z = (torch.stack([e.positions[axis] for e in examples]) for axis in range(3))
        return Batch(
            torch.stack([e.truth_XYZ for e in examples]),
            torch.stack([e.lesion_XYZ for e in examples]),
            torch.stack([e.interpolated_XYZ for e in examples]),
            torch.stack([e.neighbours_NXYZ for e in examples]),
            (x, y, z),
            torch.stack([e.noise for e in examples]),
            torch.stack([e.region_XYZ for e in examples]),
            torch.stack([e.attenuation_AF for e in examples]),
        )

    def parts(self, count: int) -> list[Batch]:
        """That many batches of equal size, in order."""
        pieces = [tensor.chunk(count) for tensor in self._own()]
        x, y, z = (p.chunk(count) for p in self.positions)
        return [
            Batch(
                truth_BXYZ=pieces[0][i],
                lesion_BXYZ=pieces[1][i],
                interpolated_BXYZ=pieces[2][i],
                neighbours_BNXYZ=pieces[3][i],
                positions=(x[i], y[i], z[i]),
                noise_B=pieces[4][i],
                region_BXYZ=pieces[5][i],
                attenuation_BAF=pieces[6][i],
            )
            for i in range(count)
        ]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        x, y, z = (p.to(device) for p in self.positions)
        truth, lesion, interpolated, neighbours, noise, region, sampled = (t.to(device) for t in self._own())
        return Batch(truth, lesion, interpolated, neighbours, (x, y, z), noise, region, sampled)

    def tensors(self) -> list[Tensor]:
        """Everything it holds."""
        return [*self._own(), *self.positions]

    def _own(self) -> tuple[Tensor, ...]:
        """All but positions, in the order of the fields."""
        return (
            self.truth_BXYZ,
            self.lesion_BXYZ,
            self.interpolated_BXYZ,
            self.neighbours_BNXYZ,
            self.noise_B,
            self.region_BXYZ,
            self.attenuation_BAF,
        )


def check_patch(side: int, name: str = "patch") -> None:
    """Refuse a patch that the encoder's coarse tokens do not divide.

    Raises:
        ConfigError: it is no multiple of 16 from 32 up.
    """
    if side % 16 or side < 32:
        raise ConfigError(f"{name}={side} must be a multiple of 16, at least 32")


@dataclass(frozen=True, kw_only=True)
class PatchSource:
    """Draws examples; example number i depends on the seed and i alone.

    Args:
        scans: what to cut from.
        patch: side of a patch, voxels, a multiple of 16.
        seed: of everything random.
        settings: preparation, as in the bundle.
        ranges: of the recipes drawn.
        augment: None leaves the truth as it is.
        recipe: one recipe for all examples instead of drawn ones; scans with a `stack` bring their own.
        largest: batch of a run whose batches differ in size: no example then comes twice. 0: all are of one size.
        rank, of: which share of every batch this process takes.
    """

    scans: Sequence[TrainingScan]
    patch: int
    seed: int
    settings: PrepareSettings
    ranges: RecipeRanges = field(default_factory=RecipeRanges)
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    recipe: Recipe | None = None
    largest: int = 0
    rank: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        check_patch(self.patch)

    def batch(self, step: int, size: int) -> Batch:
        """This process's share of the examples of one training step."""
        share, first = size // self.of, step * max(size, self.largest)
        return Batch.of([self.example(first + self.rank * share + i) for i in range(share)])

    def example(self, number: int) -> Example:
        """Cut, augment, degrade, prepare, and cut the margin off.

        The order in which all of these draw from the one generator is part of the result: a draw that is added, left
        out or moved makes other examples of every seed, and a resumed run would not repeat an uninterrupted one.
        """
        rng = rng_for(self.seed, "patch", number)
        scan = self.scans[int(torch.multinomial(torch.tensor([s.weight for s in self.scans]), 1, generator=rng))]
        if scan.measured is not None:
            return self._pair(scan, scan.measured, rng)
        order = _turned(scan, rng)
        data, region = self._cut(scan, order, rng)
        augmentation = (
            augmented(data, self.augment, rng) if self.augment else Augmented(data, torch.zeros_like(data), 1.0)
        )
        truth = Volume(augmentation.data_XYZ, torch.eye(4, dtype=torch.float64))
        recipe = self._recipe(scan, rng)
        low = degrade(truth, recipe, rng, reference=scan.reference * augmentation.gain)
        offset = torch.randint(MARGIN // 2, MARGIN + 1, (3,), generator=rng).tolist()
        target = _box_grid(truth.grid, offset, self.patch)
        noise = self._noise(lambda: _whole_scan(scan, order, augmentation, recipe, rng))
        known = scan.stack is not None or (recipe.name == RESAMPLED and uniform(rng) < KNOWN)
        sampling = recipe_sampling(recipe.axes) if known else None
        ready = prepare(low, target, self.settings, scaling=Scaling(), noise=noise, mask=False, sampling=sampling)
        box = tuple(slice(a, a + self.patch) for a in offset)
        return _example(augmentation.data_XYZ[box], augmentation.lesion_XYZ[box], ready, region[box])

    def _pair(self, scan: TrainingScan, measured: Measured, rng: torch.Generator) -> Example:
        """A patch of both scans, axes turned and mirrored alike; brightness is all that is changed."""
        start = self._start_in_both(scan, measured, rng)
        turn = _signed_permutation(rng)
        patch = torch.eye(4, dtype=torch.float64)
        patch[:3, 3] = torch.tensor(start, dtype=torch.float64)
        box = tuple(slice(a, a + self.patch) for a in start)
        low, high = self.augment.amplitude if self.augment else (1.0, 1.0)
        gain = log_uniform(rng, low, high)
        order = StorageOrder.of(turn @ patch)
        truth = order.apply(Volume(scan.data_XYZ[box].float() * gain, turn @ patch))
        regions = torch.full_like(truth.data_XYZ, NO_REGION)
        if scan.region_XYZ is not None:
            regions = order.apply_data(scan.region_XYZ[box].float())
        around = _around(measured, start, self.patch)
        low_scan = order.apply(Volume(around.data_XYZ.float() * gain, turn @ around.affine))
        whole = Volume(measured.data_XYZ, measured.affine)
        noise = self._noise(lambda: centre_crop(whole, NOISE_SIDE).data_XYZ.float() * gain)
        sampling = None
        if measured.sampling is not None:
            x, y, z = (measured.sampling[axis] for axis in order.axes)
            sampling = x, y, z
        ready = prepare(
            low_scan, truth.grid, self.settings, scaling=Scaling(), noise=noise, mask=False, sampling=sampling
        )
        return _example(truth.data_XYZ, torch.zeros_like(truth.data_XYZ), ready, regions.to(torch.uint8))

    def _noise(self, whole: Callable[[], Tensor]) -> Tensor | None:
        """Noise sigma of the whole scan, for weights that read it there; None: `prepare` reads it from the patch."""
        return quiet_noise(whole()) if self.settings.noise_estimator == "quiet" else None

    def _start_in_both(self, scan: TrainingScan, measured: Measured, rng: torch.Generator) -> list[int]:
        """Where a patch begins that both scans cover."""
        for _ in range(ATTEMPTS):
            start = self._start(scan, self.patch, rng)
            if corners_known(measured.known_XYZ, start, self.patch):
                return start
        raise ConfigError(
            f"no patch of {self.patch} voxels was found that both scans of a pair cover; choose a smaller `patch`"
        )

    def _recipe(self, scan: TrainingScan, rng: torch.Generator) -> Recipe:
        if scan.stack is not None:
            return scan.stack.recipe
        return self.recipe or draw_recipe(rng, self.ranges)

    def _cut(self, scan: TrainingScan, order: list[int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        side = self.patch + 2 * MARGIN
        start = self._start(scan, side, rng)
        box = tuple(slice(a, a + side) for a in start)
        data = scan.data_XYZ[box].float()
        region = (
            torch.full_like(data, NO_REGION, dtype=torch.uint8) if scan.region_XYZ is None else scan.region_XYZ[box]
        )
        short = [side - n for n in data.shape]
        pad = (0, short[2], 0, short[1], 0, short[0])
        data, region = F.pad(data, pad), F.pad(region, pad, value=NO_REGION)
        flips = [axis for axis in range(3) if uniform(rng) < 0.5]
        return data.permute(order).flip(flips).contiguous(), region.permute(order).flip(flips)

    def _start(self, scan: TrainingScan, side: int, rng: torch.Generator) -> list[int]:
        """Corner of a cube about some voxel of the head, inside the scan where that is large enough."""
        centre = scan.inside_N3[int(torch.randint(len(scan.inside_N3), (), generator=rng))].tolist()
        shift = (torch.randint(-8, 9, (3,), generator=rng)).tolist()
        shape = scan.data_XYZ.shape
        return [min(max(c + d - side // 2, 0), max(n - side, 0)) for c, d, n in zip(centre, shift, shape, strict=True)]


def _whole_scan(
    scan: TrainingScan, order: list[int], augmentation: Augmented, recipe: Recipe, rng: torch.Generator
) -> Tensor:
    """The middle of the head, as sharp and bright as a patch of it and acquired as it was, to read its noise from.

    A patch may hold no quiet tissue.
    """
    whole = centre_crop(Volume(scan.data_XYZ, torch.eye(4, dtype=torch.float64)), NOISE_SIDE)
    sharp = augmentation.sharpness.apply(whole.data_XYZ.float().permute(*order)) * augmentation.gain
    low = degrade(Volume(sharp, whole.affine), recipe, rng, reference=scan.reference * augmentation.gain)
    return low.data_XYZ


def _example(truth_XYZ: Tensor, lesion_XYZ: Tensor, ready: Prepared, region_XYZ: Tensor) -> Example:
    """An example with its axes in the network's order."""
    order = network_order(ready.positions)
    x, y, z = (torch.tensor(ready.positions[axis], dtype=torch.float32) for axis in order)
    truth, lesion, interpolated, region = (
        v.permute(order) for v in (truth_XYZ, lesion_XYZ, ready.interpolated_XYZ, region_XYZ)
    )
    neighbours = ready.neighbours().permute(0, *(axis + 1 for axis in order))
    sampled = torch.tensor(ready.attenuation(order), device=truth.device)
    return Example(truth, lesion, interpolated, neighbours, (x, y, z), ready.noise_sigma.float(), region, sampled)


def _signed_permutation(rng: torch.Generator) -> Tensor:
    """A map of space that permutes and mirrors axes, 4x4."""
    turn = torch.zeros(4, 4, dtype=torch.float64)
    turn[3, 3] = 1
    for row, column in enumerate(torch.randperm(3, generator=rng).tolist()):
        turn[row, column] = 1 - 2 * int(torch.randint(2, (), generator=rng))
    return turn


def _around(measured: Measured, start: Sequence[int], side: int) -> Volume:
    """The measured samples in and around a patch, so far that the edges of the cut do not matter in it."""
    step = torch.diagonal(measured.affine)[:3].abs().tolist()  # of a sample, in voxels of the patch
    first, shape = [], []
    for axis, n in enumerate(measured.data_XYZ.shape):
        ends = [
            (a - float(measured.affine[axis, 3])) / float(measured.affine[axis, axis])
            for a in (start[axis], start[axis] + side - 1)
        ]
        more = max(MARGIN / step[axis], LEAST_SAMPLES)
        low, high = max(math.floor(min(ends) - more), 0), min(math.ceil(max(ends) + more), n - 1)
        first.append(low)
        shape.append(high - low + 1)
    return crop(Volume(measured.data_XYZ, measured.affine), first, shape)


def _turned(scan: TrainingScan, rng: torch.Generator) -> list[int]:
    """An order of the axes; what a scan of thick slices did not measure never comes last, where slices are stacked."""
    order: list[int] = torch.randperm(3, generator=rng).tolist()
    if scan.stack is not None and order[2] == scan.stack.axis:
        other = int(torch.randint(2, (), generator=rng))
        order[2], order[other] = order[other], order[2]
    return order


def _box_grid(grid: Grid, start: Sequence[int], side: int) -> Grid:
    stand_in = Volume(torch.empty(1).expand(grid.shape), grid.affine)
    return crop(stand_in, start, (side,) * 3).grid
