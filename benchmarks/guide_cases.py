"""Pairs of a thick scan and a sharp guide of one person, and synthetic lesions in either."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from common import mean
from small_lesions import Lesion, box_around, contrast, homogeneous_sites, with_lesions
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import thick_slices
from moediff.core.config import rng_for
from moediff.core.geometry import crop, resample, with_spacing
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.result import Enhanced
from moediff.io.scans import load
from moediff.registration.across_contrasts import place_guide
from moediff.registration.align import middle_mm
from moediff.registration.rigid import Rigid

LJLONG, TCGA, STROKE = "anisotropic/ljlong_patient{}_study1_{}", "anisotropic/tcgafg6692_{}", "train/cstar_stroke_{}"
PAIRS = {  # thick scan, guide, axis of its slices
    "p01 FLAIR": (LJLONG.format("01", "FLAIR"), LJLONG.format("01", "T1W"), 1),
    "p01 T2w": (LJLONG.format("01", "T2W"), LJLONG.format("01", "T1W"), 1),
    "p04 FLAIR": (LJLONG.format("04", "FLAIR"), LJLONG.format("04", "T1W"), 1),
    "p04 T2w": (LJLONG.format("04", "T2W"), LJLONG.format("04", "T1W"), 1),
    "tcga FLAIR": (TCGA.format("fla"), TCGA.format("t1"), 1),
    "tcga T2w": (TCGA.format("t2"), TCGA.format("t1"), 1),
    "stroke T2w": (STROKE.format("T2"), STROKE.format("T1"), 2),
}
MOTION = Rigid.of((2, -1, 1.5), (2, 1, -2))
THICK, NOISE, LESIONS, EDGE_VOX = 5, 0.01, 24, 8
SIZES_MM, CONTRAST = (3, 4, 5, 6), 0.3
NEAR_MM, HALF = 7, 0.3  # of a lesion's centre of mass: how far it reaches, and the share of the brightest


def scan_of(data: Path, name: str) -> Volume:
    """Without negative voxels."""
    volume = load(data / f"{name}.nii.gz").volume
    return volume.with_data(volume.data_XYZ.float().clamp_min(0))


def truth_of(scan: Volume, side: int) -> Volume:
    """The middle of the head, 1 mm."""
    fine = resample(scan, with_spacing(scan.grid, (1.0, 1.0, 1.0)))
    at = torch.linalg.inv(fine.affine) @ torch.tensor([*middle_mm(fine), 1.0], dtype=torch.float64)
    shape = [min(side, n) for n in fine.shape]
    start = [max(0, min(round(float(c) - m / 2), n - m)) for c, m, n in zip(at[:3], shape, fine.shape, strict=True)]
    part = crop(fine, start, shape)
    return part.with_data(part.data_XYZ.clamp_min(0))


@dataclass(frozen=True)
class Pair:
    """Truth and guide of one person, and synthetic lesions in either."""

    name: str
    enhancer: Enhancer
    truth: Volume
    guide: Volume
    axis: int

    @cached_property
    def guide_transform(self) -> Rigid:
        """Where registration to the sharp truth puts the guide."""
        inside_XYZ = head_mask(self.truth.data_XYZ)
        return place_guide(self.truth, self.truth, inside_XYZ, self.guide, registered=True).transform

    @cached_property
    def lesions(self) -> list[Lesion]:
        """Bright and dark ones of four sizes."""
        size, shape = EDGE_VOX, self.truth.shape
        sites = homogeneous_sites(self.truth, rng_for(0, "guide", self.name))
        inner = [s for s in sites if all(size <= p < n - size for p, n in zip(s, shape, strict=True))]
        return [
            Lesion(site=site, size_mm=SIZES_MM[i % 4], contrast=CONTRAST * (1 - i // 4 % 2 * 2))
            for i, site in enumerate(inner[:LESIONS])
        ]

    def guide_with_lesions(self) -> Volume:
        """At the same places of the head, to half a voxel."""
        to_guide = torch.linalg.inv(self.guide.affine) @ self.guide_transform.matrix @ self.truth.affine
        moved = []
        for lesion in self.lesions:
            x, y, z, _ = (to_guide @ torch.tensor([*lesion.site, 1.0], dtype=torch.float64)).round().int().tolist()
            moved.append(Lesion(site=(x, y, z), size_mm=lesion.size_mm, contrast=lesion.contrast))
        return with_lesions(self.guide, moved)

    def enhanced(self, truth: Volume, guide: Volume | None) -> Enhanced:
        """As the command does it, with registration."""
        low = degrade(truth, thick_slices(THICK, NOISE, "guide", self.axis), rng_for(0, self.name))
        return self.enhancer(low, EnhanceOptions(like=truth.grid), guide=guide)

    def psnr(self, result: Enhanced) -> float:
        """In dB, inside the head."""
        true_XYZ = self.truth.data_XYZ
        inside_XYZ = head_mask(true_XYZ)
        return psnr(result.volume.data_XYZ, true_XYZ, inside_XYZ, data_range(true_XYZ, inside_XYZ))

    def shares(self, change_XYZ: Tensor, true_XYZ: Tensor) -> Tensor:
        """Contrast of every lesion in a change, over that in the truth."""

        def contrasts(data_XYZ: Tensor) -> Tensor:
            volume = self.truth.with_data(data_XYZ)
            return torch.tensor([contrast(volume, x.site, x.size_mm) for x in self.lesions])

        return contrasts(change_XYZ) / contrasts(true_XYZ)

    def distance_mm(self, change_XYZ: Tensor) -> float:
        """How far centres of mass lie from the lesions, across slices; the mean."""
        return mean([abs(self._off_mm(change_XYZ * (1 if x.contrast > 0 else -1), x.site)) for x in self.lesions])

    def _off_mm(self, change_XYZ: Tensor, site: tuple[int, int, int]) -> float:
        box, far = box_around(site, self.truth)
        weight = (change_XYZ[box] * (far < NEAR_MM)).clamp_min(0)
        weight = (weight * (weight > HALF * weight.max())).sum([a for a in range(3) if a != self.axis])
        index = torch.arange(box[self.axis].start, box[self.axis].stop) - site[self.axis]
        return float((weight * index).sum() / weight.sum().clamp_min(1e-9)) * self.truth.spacing_mm[self.axis]
