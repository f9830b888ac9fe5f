"""Small lesions put into the truth of training patches, so that what is small and rare is not taken for noise.

A posterior mean knows what it was shown: in scans with hardly a lesion, a faint spot in a noisy scan most likely is
noise, and away it goes. Lesions of both signs, in whatever tissue, make it keep what the measurement supports. On
lesions planted for augmentation see Zhang et al. 2021 (CarveMix); here they are drawn, not copied.

Axes: X Y Z voxels, a b c voxels of a lesion's box.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moediff.core.errors import ConfigError
from moediff.core.random import uniform


@dataclass(frozen=True, kw_only=True)
class LesionConfig:
    """How often and how: sizes in voxels, contrast as a share of the intensity on the spot.

    Args:
        probability: that a patch gets lesions, 0..1.
        density: lesions in a million voxels of such a patch.
        radius: range, log-uniform.
        contrast: range of its size, log-uniform; the sign is drawn.
        edge: range of the width over which a lesion fades into what is around it.
        bumps: largest deviation of the outline from an ellipsoid, as a share of the radius.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"share": "probability"}

    probability: float = 0.0
    density: float = 100.0
    radius: tuple[float, float] = (0.6, 3.5)
    contrast: tuple[float, float] = (0.08, 0.8)
    edge: tuple[float, float] = (0.2, 0.8)
    bumps: float = 0.3

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 <= self.density <= 1000 and 0 <= self.bumps < 1):
            raise ConfigError(
                f"augment.synthetic_lesions: probability={self.probability} must lie in 0..1, "
                f"density={self.density} in 0..1000 and bumps={self.bumps} in 0..1"
            )
        for name, most in (("radius", 20.0), ("contrast", 5.0), ("edge", 5.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ConfigError(f"augment.synthetic_lesions.{name}={[low, high]}: give a rising range in 0..{most:g}")


def with_lesions(data_XYZ: Tensor, config: LesionConfig, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The patch with lesions in it, or the patch itself, and how much of each voxel is a lesion's, 0..1.

    Nothing is drawn where the probability is 0.

    Args:
        data_XYZ: non-negative intensities; air (0) stays air.
        config: how often and how.
        rng: draws everything, on the CPU.
    """
    if config.probability == 0 or uniform(rng) >= config.probability:
        return data_XYZ, torch.zeros_like(data_XYZ)
    data, lesion = data_XYZ.clone(), torch.zeros_like(data_XYZ)
    number = int(torch.poisson(torch.tensor(config.density * data.numel() / 1e6), generator=rng))
    for position, drawn in zip(torch.rand(number, 3, generator=rng), torch.rand(number, 4, generator=rng), strict=True):
        centre = [float(p) * (n - 1) for p, n in zip(position, data.shape, strict=True)]
        radius, size, edge = (
            _between(bounds, float(u))
            for bounds, u in zip((config.radius, config.contrast, config.edge), drawn, strict=False)
        )
        box, inside = _lesion(data.shape, centre, radius, edge, config.bumps, rng)
        inside = inside.to(data.device)
        there = data[box]
        intensity = (there * inside).sum() / inside.sum().clamp_min(1e-6)
        sign = 1.0 if float(drawn[3]) < 0.5 else -1.0
        # A share of each voxel's own intensity where that is lower, so that air and thin gaps stay what they are.
        data[box] = (there + sign * size * inside * torch.minimum(there, intensity)).clamp_min(0)
        lesion[box] = torch.maximum(lesion[box], inside * (there > 0))
    return data, lesion


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] * (bounds[1] / bounds[0]) ** share


def _lesion(
    shape: torch.Size, centre: list[float], radius: float, edge: float, bumps: float, rng: torch.Generator
) -> tuple[tuple[slice, ...], Tensor]:
    """A box, and how much of each of its voxels belongs to a bumpy ellipsoid of random axes, 0..1 [a, b, c]."""
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng))
    axes = radius * 1.5 ** (2 * torch.rand(3, generator=rng) - 1)
    reach = math.ceil(float(axes.max()) * (1 + bumps) + 2 * edge)
    box = tuple(
        slice(max(round(c) - reach, 0), min(round(c) + reach + 1, n)) for c, n in zip(centre, shape, strict=True)
    )
    x, y, z = (torch.arange(s.start, s.stop, dtype=torch.float32) - c for s, c in zip(box, centre, strict=True))
    at_abc3 = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), -1)
    far = (at_abc3 @ turn / axes).square().sum(-1).sqrt()
    wave, phase = torch.randn(3, 3, generator=rng), torch.rand(3, generator=rng) * math.tau
    # Slow waves over the directions from the centre bend the outline without tearing it.
    direction = at_abc3 / at_abc3.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    outline = 1 + bumps * torch.sin(2 * direction @ wave + phase).mean(-1)
    return box, torch.sigmoid((outline - far) * radius / (0.5 * edge)).where(far < 3, torch.zeros(()))
