"""Label maps to synthetic scans of any contrast.

After SynthSeg (Billot et al. 2023) and SynthSR (Iglesias et al. 2021): every label draws its own intensity and
texture, so there are endless scans of one anatomy and the region of every voxel is known.

Axes: X Y Z voxels. Label numbers are FreeSurfer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moediff.acquisition.degrade import bias_field
from moediff.core.errors import DataError

WHITE, CORTEX = (2, 41), (3, 42)
VENTRICLES_CSF = (4, 5, 14, 15, 24, 43, 44)
DEEP_GREY = (8, 10, 11, 12, 13, 17, 18, 26, 28, 47, 49, 50, 51, 52, 53, 54, 58, 60)
CEREBELLAR_WHITE = (7, 46, 16)
LEFT_OF_RIGHT = {
    41: 2,
    42: 3,
    43: 4,
    44: 5,
    46: 7,
    47: 8,
    49: 10,
    50: 11,
    51: 12,
    52: 13,
    53: 17,
    54: 18,
    58: 26,
    60: 28,
}
BRAIN = (*WHITE, *CORTEX, *VENTRICLES_CSF, *DEEP_GREY, *CEREBELLAR_WHITE)
WHOLE = 1e-3  # how far a label may lie from a whole number
LEAST_BRAIN = 0.1  # share of labelled voxels; label maps of whole heads have 0.34 and more
CONTRASTS = {  # white, grey, CSF relative to the brain's median
    "T1w": (1.15, 0.8, 0.25),
    "T2w": (0.75, 1.05, 2.2),
    "FLAIR": (0.85, 1.1, 0.3),
}


def whole_numbers(map_XYZ: Tensor) -> Tensor:
    """A label map as it was read -> int32.

    Raises:
        DataError: numbers that are not whole.
    """
    labels_XYZ = map_XYZ.round()
    if not bool(torch.isfinite(map_XYZ).all()) or float((labels_XYZ - map_XYZ).abs().max()) > WHOLE:
        raise DataError("the labels are not whole numbers, expected a label map: name one, or segment the scan first")
    return labels_XYZ.to(torch.int32)


def whole_labels(map_XYZ: Tensor) -> Tensor:
    """A label map of a brain as it was read -> int32.

    Raises:
        DataError: numbers that are not whole, or hardly any of the brain's.
    """
    labels_XYZ = whole_numbers(map_XYZ)
    brain = labelled(labels_XYZ, BRAIN).sum() / (labels_XYZ != 0).sum().clamp_min(1)
    if float(brain) < LEAST_BRAIN:
        raise DataError(
            "few voxels bear one of FreeSurfer's numbers of the brain, expected its label map: give SynthSeg's, or aseg"
        )
    return labels_XYZ


def labelled(labels_XYZ: Tensor, numbers: Sequence[int]) -> Tensor:
    return torch.isin(labels_XYZ, torch.tensor(numbers, dtype=labels_XYZ.dtype))


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

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    numbers = [int(n) for n in labels_XYZ.unique() if n > 0]
    means = _means(numbers, settings, rng)
    if uniform(0, 1) < settings.stripped:
        means |= {n: 0.0 for n in numbers if n not in BRAIN}
    top = max(numbers) + 1
    table = torch.zeros(top)
    for number, mean in means.items():
        table[number] = mean
    spread = torch.rand(top, generator=rng) * settings.texture
    index = labels_XYZ.long()
    data = _lesions(table[index], labels_XYZ, settings.lesions, rng)
    present = (data > 0).float()
    data = (data + _texture(labels_XYZ.shape, rng) * spread[index] * present).clamp_min(0)
    data = soften(data, uniform(0.35, 0.7))
    x, y, z = data.shape
    data = data * bias_field((x, y, z), uniform(0, 0.25), rng)
    brain = data[labelled(labels_XYZ, (*WHITE, *CORTEX, *DEEP_GREY))]
    return data * (0.5 / max(float(brain.median()), 1e-3)) if brain.numel() else data


def _means(numbers: Sequence[int], settings: SynthesisSettings, rng: torch.Generator) -> dict[int, float]:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    means = {n: uniform(0.1, 2.0) for n in numbers}
    if uniform(0, 1) < settings.plausible:
        names = list(CONTRASTS)
        white, grey, fluid = CONTRASTS[names[int(torch.randint(len(names), (), generator=rng))]]
        for group, level, play in (
            (WHITE, white, 0.1),
            (CEREBELLAR_WHITE, white, 0.12),
            (CORTEX, grey, 0.1),
            (DEEP_GREY, grey, 0.15),
            (VENTRICLES_CSF, fluid, 0.15),
        ):
            shared = level * uniform(1 - play, 1 + play)
            means |= {n: shared * uniform(0.95, 1.05) for n in group if n in means}
        means |= {n: uniform(0.05, 1.2) if uniform(0, 1) < 0.7 else uniform(1.2, 3) for n in numbers if n not in BRAIN}
    return means | {right: means[left] for right, left in LEFT_OF_RIGHT.items() if right in means and left in means}


def _texture(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Unit-variance noise with fine and coarser grain."""
    fine = soften(torch.randn(*shape, generator=rng), 0.6)
    half = [-(-n // 3) for n in shape]
    coarse = torch.randn(1, 1, *half, generator=rng)
    coarse = F.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=False)[0, 0]
    return 0.7 * fine / fine.std() + 0.7 * coarse / coarse.std()


def soften(data_XYZ: Tensor, sigma_vox: float) -> Tensor:
    """A narrow Gaussian blur (5 taps an axis): partial volume at label borders."""
    tap = torch.exp(-0.5 * (torch.arange(-2, 3) / sigma_vox) ** 2)
    tap = tap / tap.sum()
    for axis in range(3):
        pad = [0] * 6
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = 2
        padded = F.pad(data_XYZ[None, None], pad, mode="replicate")[0, 0]
        data_XYZ = sum(tap[k] * padded.narrow(axis, k, data_XYZ.shape[axis]) for k in range(5))  # type: ignore[assignment]
    return data_XYZ


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
