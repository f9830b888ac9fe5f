"""Scores per region: regions of the brain, or the labels of a map.

Axes: X Y Z voxels of the reference's grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from moediff.anatomy.labels import as_label_map
from moediff.anatomy.regions import REGIONS, scan_regions
from moediff.core.errors import DataError
from moediff.core.memory import single_thread
from moediff.core.statistics import mean, picked
from moediff.core.volume import Volume
from moediff.evaluation.alignment import require_same_grid
from moediff.evaluation.metrics.fidelity import data_range, nrmse, psnr, ssim_map

LEAST_VOXELS = 100  # smaller regions say nothing
MOST_REGIONS = 256


@dataclass(frozen=True)
class Regions:
    """Regions to judge: the number of every voxel's region, and their names by number."""

    number_XYZ: Tensor
    names: Mapping[int, str]

    def inside(self, mask_XYZ: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and voxels of every region that has enough of them inside the mask."""
        for number, name in self.names.items():
            region_XYZ = mask_XYZ & (self.number_XYZ == number)
            if int(region_XYZ.sum()) >= LEAST_VOXELS:
                yield name, region_XYZ


@dataclass(frozen=True, kw_only=True)
class RegionScores:
    """One region; PSNR (dB) and SSIM with L and windows of the whole mask."""

    voxels: int
    psnr: float
    ssim: float
    nrmse: float


def regions_of(ref: Volume, labels: Volume | None) -> Regions:
    """The regions of a label map, or those that tissue classification finds.

    Args:
        ref: the reference; skull-stripped and of plain contrast where no labels are given.
        labels: whole numbers on the reference's grid, 0 outside.

    Raises:
        GeometryError: labels on another grid.
        DataError: labels that are no whole numbers, or more than 256 of them; a reference without distinct tissues.
    """
    if labels is None:
        regions = scan_regions(ref.data_XYZ, ref.spacing_mm)
        if regions is None:
            raise DataError(
                "the reference's regions cannot be separated; expected a skull-stripped scan with clear grey and "
                "white matter: give --labels, or leave --regions out"
            )
        return Regions(regions.long(), dict(enumerate(REGIONS)))
    require_same_grid("label map", labels.grid, ref.grid, "draw it on the reference, or leave it out")
    numbers = as_label_map(labels.data_XYZ)
    values = [int(n) for n in numbers.unique() if n != 0]
    if not 0 < len(values) <= MOST_REGIONS:
        raise DataError(f"the label map holds {len(values)} labels; expected 1 to {MOST_REGIONS}")
    return Regions(numbers.long(), {number: str(number) for number in values})


def score_regions(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, regions: Regions) -> dict[str, RegionScores]:
    """Scores of every region that has 100 voxels or more inside the mask.

    L and SSIM's windows are those of the whole mask, so regions can be compared with each other and with the whole.

    Args:
        pred_XYZ, truth_XYZ: fitted prediction and truth.
        mask_XYZ: where to judge.
        regions: see `regions_of`.

    Raises:
        GeometryError: shapes differ.
        DataError: NaN, an empty mask, or a constant truth.
    """
    top = data_range(truth_XYZ, mask_XYZ)
    with single_thread():  # many short steps
        similarity = ssim_map(pred_XYZ, truth_XYZ, mask_XYZ, top)
        return {
            name: RegionScores(
                voxels=int(region.sum()),
                psnr=psnr(pred_XYZ, truth_XYZ, region, top),
                ssim=mean(picked(similarity, region)),
                nrmse=nrmse(pred_XYZ, truth_XYZ, region),
            )
            for name, region in regions.inside(mask_XYZ)
        }
