"""Training examples: random patches of sharp scans, degraded on the fly.

Axes: X Y Z voxels, B batch, n voxels of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.config import rng_for
from moediff.errors import ConfigError, DataError
from moediff.simulate.degrade import bias_field, degrade, reference_intensity
from moediff.simulate.labels import BACKGROUND, region_map, synthesise
from moediff.simulate.recipe import Recipe, RecipeRanges, draw_recipe
from moediff.volume.geometry import canonicalise, crop, resample, with_spacing
from moediff.volume.intensity import Scaling, brain_scaling, foreground
from moediff.volume.io import load
from moediff.volume.prepare import PrepareSettings, network_order, prepare
from moediff.volume.volume import Grid, Volume

NO_REGION = BACKGROUND
MARGIN = 10  # voxels degraded around a patch and cut off again: edges of the cut never reach the network


@dataclass(frozen=True, kw_only=True)
class ScanSource:
    """One training scan.

    Args:
        path: the file.
        spacing_mm: isotropic voxel sizes to resample it to (none: as it is); never finer than the scan.
        weight: how often it is drawn, relative to the others.
        labels: the file is a label map; scans are synthesised from it.
        copies: synthetic scans made of one label map.
        licence, source: terms and origin of the data, copied into the bundle.
    """

    path: str
    spacing_mm: tuple[float, ...] = ()
    weight: float = 1.0
    labels: bool = False
    copies: int = 1
    licence: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges of what is done to the truth together with its input.

    Args:
        amplitude: intensity factor range, log-uniform.
        gamma: contrast exponent range.
        bias: largest peak of a smooth log-gain.
        blur_vox: largest Gaussian sigma; high-resolution scans differ in their own sharpness.
        blur_share: share of patches that are blurred.
        sharpen_share: share of patches that get an unsharp mask.
    """

    amplitude: tuple[float, float] = (0.6, 1.6)
    gamma: tuple[float, float] = (0.8, 1.25)
    bias: float = 0.3
    blur_vox: float = 0.6
    blur_share: float = 0.35
    sharpen_share: float = 0.15


@dataclass(frozen=True)
class Head:
    """A sharp scan in memory, prepared once: half precision voxels, where tissue is, and regions where known."""

    data_XYZ: Tensor
    inside_N3: Tensor
    reference: float
    region_XYZ: Tensor | None
    weight: float


@dataclass(frozen=True)
class Example:
    """One patch: the truth, the interpolated degraded patch, and what the network is told."""

    truth_XYZ: Tensor
    base_XYZ: Tensor
    slices_NXYZ: Tensor
    positions: tuple[Tensor, Tensor, Tensor]
    noise: float
    region_XYZ: Tensor


@dataclass(frozen=True)
class Batch:
    """Examples side by side; region 255 means unknown or background."""

    truth_BXYZ: Tensor
    base_BXYZ: Tensor
    slices_BNXYZ: Tensor
    positions: tuple[Tensor, Tensor, Tensor]
    noise_B: Tensor
    region_BXYZ: Tensor

    @staticmethod
    def of(examples: Sequence[Example]) -> Batch:
        """Stack equal-sized examples."""
        x, y, z = (torch.stack([e.positions[axis] for e in examples]) for axis in range(3))
        return Batch(
            torch.stack([e.truth_XYZ for e in examples]),
            torch.stack([e.base_XYZ for e in examples]),
            torch.stack([e.slices_NXYZ for e in examples]),
            (x, y, z),
            torch.tensor([e.noise for e in examples]),
            torch.stack([e.region_XYZ for e in examples]),
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        x, y, z = (p.to(device) for p in self.positions)
        own = (self.truth_BXYZ, self.base_BXYZ, self.slices_BNXYZ, self.noise_B, self.region_BXYZ)
        truth, base, slices, noise, region = (t.to(device) for t in own)
        return Batch(truth, base, slices, (x, y, z), noise, region)


def load_heads(sources: Sequence[ScanSource], root: Path, seed: int) -> list[Head]:
    """Read, prepare and resample every source; label maps become synthetic scans.

    Raises:
        ConfigError: no sources.
    """
    if not sources:
        raise ConfigError("no training scans are listed; name at least one under [[scans]]")
    heads: list[Head] = []
    for source in sources:
        volume, _ = canonicalise(load(root / source.path).volume)
        heads += _synthetic_heads(volume, source, seed) if source.labels else _real_heads(volume, source)
    return heads


def _real_heads(volume: Volume, source: ScanSource) -> list[Head]:
    mask = foreground(volume.data_XYZ, volume.spacing_mm)
    scaled = volume.with_data(brain_scaling(volume.data_XYZ, mask, volume.spacing_mm).apply(volume.data_XYZ))
    sizes = source.spacing_mm or (0.0,)
    heads = []
    for size in sizes:
        at = scaled if size == 0 else _shrink(scaled, size)
        inside = foreground(at.data_XYZ, at.spacing_mm)
        heads.append(_head(at.data_XYZ, inside, None, source.weight / len(sizes)))
    return heads


def _shrink(volume: Volume, size_mm: float) -> Volume:
    """To coarser isotropic voxels, blurred first so that nothing aliases."""
    data = volume.data_XYZ
    for axis, spacing in enumerate(volume.spacing_mm):
        data = blur_axis(data, axis, 0.42 * math.sqrt(max((size_mm / spacing) ** 2 - 1, 0.0)))
    return resample(volume.with_data(data), with_spacing(volume.grid, (size_mm,) * 3), "cubic")


def _synthetic_heads(volume: Volume, source: ScanSource, seed: int) -> list[Head]:
    labels = volume.data_XYZ.round().to(torch.int32)
    where = (labels > 0).nonzero()
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(where.amin(0), where.amax(0), strict=True))
    labels = F.pad(labels[box], (8,) * 6)
    region = region_map(labels, volume.spacing_mm)
    heads = []
    for copy in range(source.copies):
        scan = synthesise(labels, rng_for(seed, source.path, copy))
        heads.append(_head(scan, region != BACKGROUND, region, source.weight / source.copies))
    return heads


def _head(data_XYZ: Tensor, inside_XYZ: Tensor, region_XYZ: Tensor | None, weight: float) -> Head:
    where = inside_XYZ.nonzero()
    return Head(
        data_XYZ.half(), where[:: max(1, len(where) // 50_000)], reference_intensity(data_XYZ), region_XYZ, weight
    )


def blur_axis(data: Tensor, axis: int, sigma_vox: float) -> Tensor:
    """Gaussian blur of one axis of a 3-D tensor, edges repeated."""
    if sigma_vox < 0.05:
        return data
    reach = max(1, math.ceil(3 * sigma_vox))
    tap = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_vox) ** 2)
    kernel_shape, pad = [1, 1, 1, 1, 1], [0] * 6
    kernel_shape[2 + axis] = -1
    pad[4 - 2 * axis] = pad[5 - 2 * axis] = reach
    padded = F.pad(data[None, None], pad, mode="replicate")
    return F.conv3d(padded, (tap / tap.sum()).reshape(kernel_shape))[0, 0]


@dataclass(frozen=True, kw_only=True)
class PatchSource:
    """Draws examples; example number i depends on the seed and i alone.

    Args:
        heads: what to cut from.
        patch: side of a patch, voxels, a multiple of 16.
        seed: of everything random.
        settings: preparation, as in the bundle.
        ranges: of the recipes drawn.
        augment: None leaves the truth as it is.
        recipe: one recipe for all examples instead of drawn ones.
        rank, of: which share of every batch this process takes.
    """

    heads: Sequence[Head]
    patch: int
    seed: int
    settings: PrepareSettings
    ranges: RecipeRanges = field(default_factory=RecipeRanges)
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    recipe: Recipe | None = None
    rank: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if self.patch % 16 or self.patch < 32:
            raise ConfigError(f"patch={self.patch} must be a multiple of 16, at least 32")

    def batch(self, step: int, size: int) -> Batch:
        """This process's share of the examples of one training step."""
        share = size // self.of
        return Batch.of([self.example(step * size + self.rank * share + i) for i in range(share)])

    def example(self, number: int) -> Example:
        """Cut, augment, degrade, prepare, and cut the margin off."""
        rng = rng_for(self.seed, "patch", number)
        head = self.heads[int(torch.multinomial(torch.tensor([h.weight for h in self.heads]), 1, generator=rng))]
        data, region = self._cut(head, rng)
        truth, gain = _augment(data, self.augment, rng) if self.augment else (data, 1.0)
        scan = Volume(truth, torch.eye(4, dtype=torch.float64))
        recipe = self.recipe or draw_recipe(rng, self.ranges)
        low = degrade(scan, recipe, rng, reference=head.reference * gain)
        offset = torch.randint(MARGIN // 2, MARGIN + 1, (3,), generator=rng).tolist()
        goal = _box_grid(scan.grid, offset, self.patch)
        ready = prepare(low, goal, self.settings, scaling=Scaling(), mask=False)
        box = tuple(slice(a, a + self.patch) for a in offset)
        order = network_order(ready.positions)
        x, y, z = (torch.tensor(ready.positions[axis], dtype=torch.float32) for axis in order)
        volumes = [v.permute(order) for v in (truth[box], ready.base_XYZ, region[box])]
        slices = ready.slices_NXYZ.permute(0, *(axis + 1 for axis in order))
        return Example(volumes[0], volumes[1], slices, (x, y, z), ready.noise, volumes[2])

    def _cut(self, head: Head, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        side = self.patch + 2 * MARGIN
        centre = head.inside_N3[int(torch.randint(len(head.inside_N3), (), generator=rng))].tolist()
        shift = (torch.randint(-8, 9, (3,), generator=rng)).tolist()
        shape = head.data_XYZ.shape
        start = [min(max(c + d - side // 2, 0), max(n - side, 0)) for c, d, n in zip(centre, shift, shape, strict=True)]
        box = tuple(slice(a, a + side) for a in start)
        data = head.data_XYZ[box].float()
        region = (
            torch.full(data.shape, NO_REGION, dtype=torch.uint8) if head.region_XYZ is None else head.region_XYZ[box]
        )
        short = [side - n for n in data.shape]
        pad = (0, short[2], 0, short[1], 0, short[0])
        data, region = F.pad(data, pad), F.pad(region, pad, value=NO_REGION)
        order = torch.randperm(3, generator=rng).tolist()
        flips = [axis for axis in range(3) if float(torch.rand((), generator=rng)) < 0.5]
        return data.permute(order).flip(flips).contiguous(), region.permute(order).flip(flips)


def _box_grid(grid: Grid, start: Sequence[int], side: int) -> Grid:
    stand_in = Volume(torch.empty(1).expand(grid.shape), grid.affine)
    return crop(stand_in, start, (side,) * 3).grid


def _augment(data_XYZ: Tensor, config: AugmentConfig, rng: torch.Generator) -> tuple[Tensor, float]:
    """Amplitude, contrast, bias field and sharpness of the truth; returns it with the gain given to intensities."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    low, high = config.amplitude
    gain = low * (high / low) ** uniform(0, 1)
    gamma = uniform(*config.gamma)
    data = data_XYZ.clamp_min(0)
    data = gain * data if abs(gamma - 1) < 0.02 else gain * 0.5 * (data / 0.5) ** gamma
    x, y, z = data.shape
    data = data * bias_field((x, y, z), uniform(0, config.bias), rng)
    kind, strength = uniform(0, 1), uniform(0.2, 1)
    if kind < config.blur_share + config.sharpen_share:
        soft = data
        for axis in range(3):
            soft = blur_axis(soft, axis, config.blur_vox * strength)
        data = soft if kind < config.blur_share else (data + 0.6 * strength * (data - soft)).clamp_min(0)
    if not bool(torch.isfinite(data).all()):
        raise DataError("a training patch is not finite; check the scans named in the configuration")
    return data, gain
