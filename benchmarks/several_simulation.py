"""Several scans of one head, simulated: designs, motion, lesions, and the least squares that they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from small_lesions import Lesion, homogeneous_sites, with_lesions
from torch import Tensor

from moediff.acquisition.combine import Measurement, consistent
from moediff.acquisition.degrade import bias_field, degrade, reference_intensity
from moediff.acquisition.normalisation import brain_scaling, foreground
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, field_of_view_mask, resample
from moediff.core.volume import Grid, Volume
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm

MAX_DEG, MAX_MM = 5.0, 5.0
MARGIN = 40  # voxels more than a crop, in all, that motion may bring into it
LESION_SIZES_MM, LESION_CONTRAST, LESIONS = (3, 4, 5, 6), 0.3, 16
ROUNDS = 2  # of least squares: the second starts from what a sharper reading leaves of the first


@dataclass(frozen=True)
class Design:
    """How often and in which planes a head is scanned: the slice axis of every scan, and the rest of the recipe."""

    axes: tuple[int, ...]
    factor: float
    plane: float = 1.0
    noise: float = 0.01
    bias: float = 0.0
    gamma: float = 1.0
    half_shift: bool = False
    least_side: int = 0  # of a crop, voxels: noisy scans of a small one cannot be registered

    def recipe(self, axis: int) -> Recipe:
        """Of one scan."""
        rows = [AxisRecipe(method="truncate", factor=self.plane) if self.plane > 1 else AxisRecipe()] * 3
        rows[axis] = AxisRecipe(method="gaussian", factor=self.factor)
        return Recipe(axes=(rows[0], rows[1], rows[2]), noise=self.noise, name="several")

    def seen(self, sharp_XYZ: Tensor, whole: Volume, rng: torch.Generator) -> Tensor:
        """The middle of a head in this contrast, under a bias field as smooth as over the whole head."""
        if self.bias == 0 and self.gamma == 1:
            return sharp_XYZ
        field = centre_crop(whole.with_data(bias_field(whole.shape, self.bias, rng)), max(sharp_XYZ.shape)).data_XYZ
        reference = reference_intensity(sharp_XYZ)
        return (sharp_XYZ / reference) ** self.gamma * reference * field


DESIGNS = {
    "3 planes 5 mm": Design((2, 0, 1), 5),
    "3 planes 3 mm": Design((2, 0, 1), 3),
    "2 planes 5 mm": Design((2, 0), 5),
    "2 parallel 5 mm": Design((2, 2), 5, half_shift=True),
    "3 planes 64 mT": Design((2, 0, 1), 5, plane=1.6, noise=0.04, bias=0.3, gamma=0.8, least_side=96),
}


@dataclass(frozen=True)
class Simulated:
    """One head and the scans of it.

    Args:
        truth: sharp, in the contrast and under the bias field of the first scan, without noise.
        scans: the first has not moved.
        transforms: common frame -> each scan's own.
        lesions: outlines of synthetic ones, bool.
        noise: standard deviation of the scans' noise.
    """

    truth: Volume
    scans: list[Volume]
    transforms: list[Rigid]
    lesions: Tensor
    noise: float

    @property
    def seen_XYZ(self) -> Tensor:
        """Where every scan measured."""
        seen = torch.ones(self.truth.shape, dtype=torch.bool)
        for scan, transform in zip(self.scans, self.transforms, strict=True):
            seen &= field_of_view_mask(transform.placed_grid(scan.grid), self.truth.grid)
        return seen


def motion(seed: int, index: int, centre: Sequence[float]) -> Rigid:
    """Up to MAX_DEG about every axis and MAX_MM along it."""
    draw = (torch.rand(6, generator=rng_for(seed, "motion", index)) * 2 - 1).tolist()
    return Rigid.of([v * MAX_DEG for v in draw[:3]], [v * MAX_MM for v in draw[3:]], centre)


def simulate(whole: Volume, side: int, design: Design, seed: int, *, lesions: bool = False) -> Simulated:
    """Scans of the middle of a head.

    Args:
        whole: a sharp scan.
        side: of the middle part, voxels.
        design: planes, noise and contrast.
        seed: of motion, noise and bias field.
        lesions: add small bright spheres first.
    """
    wide, box = centre_crop(whole, side + MARGIN), centre_crop(whole, side)
    outlines = wide.with_data(torch.zeros(wide.shape))
    if lesions:
        wide, outlines = _with_synthetic_lesions(wide, box.grid, seed)
    sharp = resample(wide, box.grid).data_XYZ.clamp_min(0)
    centre, scans, transforms = grid_centre_mm(box.grid), [], []
    for index, axis in enumerate(design.axes):
        transform = motion(seed, index, centre) if index else IDENTITY
        if index and design.half_shift:
            step = [0.0, 0.0, 0.0]
            step[axis] = design.factor * box.spacing_mm[axis] / 2
            transform = Rigid.of((0, 0, 0), step) @ transform
        moved = resample(wide, transform.placed_grid(box.grid)).data_XYZ.clamp_min(0) if index else sharp
        moved = design.seen(moved, whole, rng_for(seed, "bias", index))
        scans.append(degrade(Volume(moved, box.affine), design.recipe(axis), rng_for(seed, "noise", index)))
        transforms.append(transform)
    truth = Volume(design.seen(sharp, whole, rng_for(seed, "bias", 0)), box.affine)
    outlined = resample(outlines, box.grid, "linear").data_XYZ > 0.5
    return Simulated(truth, scans, transforms, outlined, design.noise * reference_intensity(sharp))


def _with_synthetic_lesions(wide: Volume, box: Grid, seed: int) -> tuple[Volume, Volume]:
    """A head with spheres where it is homogeneous, in the box, and their outlines."""
    inner = centre_crop(wide, min(box.shape) - 12)
    offset = [round((a - b) / 2) for a, b in zip(wide.shape, inner.shape, strict=True)]
    sites = homogeneous_sites(inner, rng_for(seed, "lesions"))[:LESIONS]
    lesions = [
        Lesion(
            site=(x + offset[0], y + offset[1], z + offset[2]),
            size_mm=LESION_SIZES_MM[i % len(LESION_SIZES_MM)],
            contrast=LESION_CONTRAST,
        )
        for i, (x, y, z) in enumerate(sites)
    ]
    lesioned = with_lesions(wide, lesions)
    change = lesioned.data_XYZ - wide.data_XYZ
    return lesioned, wide.with_data((change > 0.5 * LESION_CONTRAST * wide.data_XYZ).float())


@dataclass(frozen=True)
class Regularisation:
    """Prior of least squares without a network: deviation of the head from its mean, and its correlation."""

    deviation: float
    correlation_vox: float


def least_squares(scans: Sequence[Volume], noise: float, grid: Grid, prior: Regularisation, steps: int = 15) -> Tensor:
    """The posterior mean under a Gaussian prior, without a network.

    Args:
        scans: placed where they truly lie, with the intensities of the first.
        noise: standard deviation, in the same unit.
        grid: of the result.
        prior: regularisation.
        steps: of conjugate gradients.
    """
    mask = foreground(scans[0].data_XYZ, scans[0].spacing_mm)
    scaling = brain_scaling(scans[0].data_XYZ, mask, scans[0].spacing_mm)
    scaled = [scan.with_data(scaling.apply(scan.data_XYZ)) for scan in scans]
    measurements = [Measurement(scan, noise / scaling.scale, grid) for scan in scaled]
    deviation, result = torch.full(grid.shape, prior.deviation), resample(scaled[0], grid, "cubic").data_XYZ
    for _ in range(ROUNDS):
        result = consistent(
            result, deviation, measurements, steps=steps, correlation_vox=prior.correlation_vox
        ).result_XYZ
    return scaling.undo(result)


def psnr_db(data_XYZ: Tensor, truth: Volume, inside_XYZ: Tensor, top: float) -> float:
    """Peak signal-to-noise ratio inside."""
    return round(10 * math.log10(top**2 / float((data_XYZ - truth.data_XYZ)[inside_XYZ].square().mean())), 3)
