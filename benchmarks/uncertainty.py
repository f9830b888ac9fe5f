"""Is the foretold uncertainty right? Coverage of 90 % intervals, rank correlation with errors, sparsification.

    python benchmarks/uncertainty.py --data ../shared/data [--bundle DIR] [--json out.json]

Judged on crops from the middle of val/ scans, mode `faithful`, and, for comparison, on synthetic scans of label maps
kept out of training (13-16, any contrast). "Ceiling" is the rank correlation of the error with its own mean over 5x5x5
voxels: who knew the error's true local size would hardly rank single voxels better. Axes: X Y Z, N voxels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import REGIONS, region_map, scan_regions
from moediff.anatomy.synthesis import synthesise
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.calibration import half_width, spearman
from moediff.evaluation.metrics.fidelity import head_mask
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

SCANS = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")
HELD_OUT = (13, 14, 15, 16)
NORMAL_90 = half_width(90)
Case = tuple[str, Volume, Tensor | None]  # name, sharp crop, its regions where they can be told
EVERY = 5  # voxels; ranks and quantiles are taken on a subset


def cut(whole: Volume, regions_XYZ: Tensor | None, side: int) -> tuple[Volume, Tensor | None]:
    """The middle of a scan and of its regions."""
    if regions_XYZ is None:
        return centre_crop(whole, side), None
    return centre_crop(whole, side), centre_crop(whole.with_data(regions_XYZ.float()), side).data_XYZ.to(torch.uint8)


def val_scans(data: Path, side: int) -> Iterator[Case]:
    """Name, sharp crop, and its regions where they can be told."""
    for name in SCANS:
        whole = load(data / "val" / f"{name}.nii.gz").volume
        yield name, *cut(whole, scan_regions(whole.data_XYZ, whole.spacing_mm), side)


def synthetic_scans(data: Path, side: int) -> Iterator[Case]:
    """Two synthetic scans of every label map that was kept out of training."""
    for number in HELD_OUT:
        maps = load(data / "labels" / f"training_seg_{number}.nii.gz").volume
        labels = maps.data_XYZ.round().to(torch.int32)
        for copy in range(2):
            scan = maps.with_data(synthesise(labels, rng_for(0, "uncertainty", number, copy)))
            yield f"labels {number}.{copy}", *cut(scan, region_map(labels, maps.spacing_mm), side)


def errors(enhancer: Enhancer, truth: Volume, recipe: str, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Absolute error, its local mean and standard deviation of the head's voxels [N], and where they are."""
    low = degrade(truth, NAMED[recipe], rng_for(0, name, recipe))
    result = enhancer(low, EnhanceOptions(like=truth.grid))
    assert result.uncertainty is not None
    where = head_mask(truth.data_XYZ) & (result.uncertainty.data_XYZ > 0)
    error_XYZ = (result.volume.data_XYZ - truth.data_XYZ).abs()
    local_XYZ = avg_pool3d(error_XYZ[None, None], 5, stride=1, padding=2, count_include_pad=False)[0, 0]
    return error_XYZ[where], local_XYZ[where], result.uncertainty.data_XYZ[where], where


def sparsification(error_N: Tensor, spread_N: Tensor) -> float:
    """Area between the RMSE left when the most uncertain voxels go and when the most wrong ones go, over the RMSE."""
    square = error_N.double().square()

    def left(order: Tensor) -> Tensor:
        kept = square[order].cumsum(0) / torch.arange(1, len(order) + 1)
        return kept[torch.linspace(0.05, 1, 20).mul(len(order) - 1).long()].sqrt()

    gap = left(spread_N.argsort()) - left(error_N.argsort())
    return float(gap.mean() / square.mean().sqrt())


def covered(error_N: Tensor, spread_N: Tensor) -> float:
    """Share of voxels whose error lies within the 90 % interval."""
    return float((error_N <= NORMAL_90 * spread_N).double().mean())


def judged(enhancer: Enhancer, cases: Iterable[Case], recipes: Sequence[str]) -> list[dict[str, Any]]:
    """A row per scan and recipe."""
    rows = []
    for name, truth, regions in cases:
        for recipe in recipes:
            error, local, spread, where = errors(enhancer, truth, recipe, name)
            few = slice(None, None, EVERY)
            row = {
                "scan": name,
                "recipe": recipe,
                "covered": covered(error, spread),
                "spearman": spearman(error[few], spread[few]),
                "ceiling": spearman(error[few], local[few]),
                "ause": sparsification(error[few], spread[few]),
            }
            if regions is not None:
                own = regions[where]
                row["by_region"] = {r: covered(error[own == k], spread[own == k]) for k, r in enumerate(REGIONS)}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per case, then means by recipe."""
    lines = ["| scan | recipe | inside the 90 % interval | Spearman | ceiling | AUSE |", "|---" * 6 + "|"]
    means = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        mean = {key: sum(row[key] for row in own) / len(own) for key in ("covered", "spearman", "ceiling", "ause")}
        means.append({"scan": "**mean**", "recipe": recipe, **mean})
    for row in (*rows, *means):
        lines.append(
            f"| {row['scan']} | {row['recipe']} | {row['covered']:.3f} | {row['spearman']:.2f} | {row['ceiling']:.2f} "
            f"| {row['ause']:.2f} |"
        )
    return "\n".join(lines)


def table_of_regions(rows: list[dict[str, Any]]) -> str:
    """Markdown: share of voxels inside the 90 % interval by region, mean of the cases whose regions are known."""
    known = [row for row in rows if "by_region" in row]
    lines = [f"| inside the 90 % interval (scans) | {' | '.join(REGIONS)} |", "|---" * (len(REGIONS) + 1) + "|"]
    for recipe in dict.fromkeys(row["recipe"] for row in known):
        own = [row["by_region"] for row in known if row["recipe"] == recipe]
        means = (sum(row[region] for row in own) / len(own) for region in REGIONS)
        lines.append(f"| {recipe} ({len(own)}) | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then the tables: real scans and their regions, synthetic ones and theirs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["thick5", "low1.5", "iso2"])
    parser.add_argument("--side", type=int, default=96, help="of a crop, voxels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    rows = judged(enhancer, val_scans(args.data, args.side), args.recipes)
    synthetic = judged(enhancer, synthetic_scans(args.data, args.side), args.recipes)
    print("\n\n".join(found for some in (rows, synthetic) for found in (table(some), table_of_regions(some))))
    if args.json:
        args.json.write_text(json.dumps({"bundle": enhancer.bundle.sha256, "rows": [*rows, *synthetic]}))


if __name__ == "__main__":
    main()
