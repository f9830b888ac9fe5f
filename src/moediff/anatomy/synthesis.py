"""Synthetic scans of any contrast from label maps.

After SynthSeg (Billot et al. 2023) and SynthSR (Iglesias et al. 2021): every label draws its own intensity and
texture, so there are endless scans of one anatomy and the region of every voxel is known.

Axes: X Y Z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.degrade import bias_field
from moediff.anatomy.labels import (
    BRAIN,
    CEREBELLAR_WHITE,
    CORTEX,
    DEEP_GREY,
    LEFT_OF_RIGHT,
    SMALL_PARTS,
    VENTRICLES_CSF,
    WHITE,
    labelled,
)
from moediff.core.random import uniform
from moediff.core.windows import gaussian_blur

SOFTENING_REACH = 2  # voxels; a narrow blur makes partial volume at label borders
CONTRASTS = {  # white, grey, CSF relative to the brain's median
    "T1w": (1.15, 0.8, 0.25),
    "T2w": (0.75, 1.05, 2.2),
    "FLAIR": (0.85, 1.1, 0.3),
}


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Chances and ranges of synthetic scans.

    Args:
        plausible: share with T1w, T2w or FLAIR ordering of tissues; the others are fully random.
        stripped: share without extra-cerebral tissue.
        lesions: largest number of small lesions.
        texture: largest standard deviation within a label, over the brain's median.
    """

    plausible: float = 0.7
    stripped: float = 0.5
    lesions: int = 6
    texture: float = 0.05


def synthesise(labels_XYZ: Tensor, rng: torch.Generator, settings: SynthesisSettings | None = None) -> Tensor:
    """A magnitude scan of random contrast from a label map, float32, brain median 0.5.

    Args:
        labels_XYZ: integer labels, 0 is air.
        rng: draws everything.
        settings: chances and ranges.
    """
    settings = settings or SynthesisSettings()

    numbers = [int(n) for n in labels_XYZ.unique() if n > 0]
    means = _means(numbers, settings, rng)
    if uniform(rng) < settings.stripped:
        means |= {n: 0.0 for n in numbers if n not in (*BRAIN, *SMALL_PARTS)}
    top = max(numbers) + 1
    table = torch.zeros(top)
    for number, mean in means.items():
        table[number] = mean
    spread = torch.rand(top, generator=rng) * settings.texture
    index = labels_XYZ.long()
    data = _lesions(table[index], labels_XYZ, settings.lesions, rng)
    present = (data > 0).float()
    data = (data + _texture(labels_XYZ.shape, rng) * spread[index] * present).clamp_min(0)
    data = gaussian_blur(data, uniform(rng, 0.35, 0.7), SOFTENING_REACH)
    x, y, z = data.shape
    data = data * bias_field((x, y, z), uniform(rng, 0, 0.25), rng)
    brain = data[labelled(labels_XYZ, (*WHITE, *CORTEX, *DEEP_GREY))]
    return data * (0.5 / max(float(brain.median()), 1e-3)) if brain.numel() else data


def _means(numbers: Sequence[int], settings: SynthesisSettings, rng: torch.Generator) -> dict[int, float]:
    means = {n: uniform(rng, 0.1, 2.0) for n in numbers}
    if uniform(rng) < settings.plausible:
        names = list(CONTRASTS)
        white, grey, fluid = CONTRASTS[names[int(torch.randint(len(names), (), generator=rng))]]
        for group, intensity, variation in (
            (WHITE, white, 0.1),
            (CEREBELLAR_WHITE, white, 0.12),
            (CORTEX, grey, 0.1),
            (DEEP_GREY, grey, 0.15),
            (VENTRICLES_CSF, fluid, 0.15),
        ):
            shared = intensity * uniform(rng, 1 - variation, 1 + variation)
            means |= {n: shared * uniform(rng, 0.95, 1.05) for n in group if n in means}
        means |= {
            n: uniform(rng, 0.05, 1.2) if uniform(rng) < 0.7 else uniform(rng, 1.2, 3)
            for n in numbers
            if n not in BRAIN
        }
    for one, other in (LEFT_OF_RIGHT | SMALL_PARTS).items():
        if one in means and other in means:
            means[one] = means[other]
    return means


def _texture(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Unit-variance noise with fine and coarser grain."""
    fine = gaussian_blur(torch.randn(*shape, generator=rng), 0.6, SOFTENING_REACH)
    half = [-(-n // 3) for n in shape]
    coarse = torch.randn(1, 1, *half, generator=rng)
    coarse = F.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=False)[0, 0]
    return 0.7 * fine / fine.std() + 0.7 * coarse / coarse.std()


def _lesions(data_XYZ: Tensor, labels_XYZ: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Small ellipsoids (radius 1-5 voxels) in white matter, brighter or darker than around them."""
    where = labelled(labels_XYZ, WHITE).nonzero()
    if not len(where):
        return data_XYZ
    for _ in range(int(torch.randint(most + 1, (), generator=rng))):
        centre = where[int(torch.randint(len(where), (), generator=rng))]
        radius = 1 + 4 * torch.rand(3, generator=rng)
        gain = 1 + float(torch.rand((), generator=rng) - 0.4) * 1.2
        low = (centre - 6).clamp_min(0).tolist()
        box = tuple(slice(a, a + 13) for a in low)
        part = data_XYZ[box]
        axes = [torch.arange(n) + a - c for n, a, c in zip(part.shape, low, centre.tolist(), strict=True)]
        offset = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) / radius
        part[(offset**2).sum(-1) < 1] *= gain
    return data_XYZ
