"""Uncertainty: coverage of predicted 90 % intervals, rank correlation with errors, sparsification.

    python benchmarks/uncertainty.py --data ../shared/data [--bundle DIR] [--json out.json]

Judged on crops from the middle of val/ scans, mode `faithful`, and, for comparison, on synthetic scans of label maps
that no training used (13-16, any contrast). The rank correlation of the error with its own mean over 5x5x5 voxels is a
yardstick, no bound: even the error's true local size would hardly rank single voxels better. AUSE is of the RMSE; that
of `moediff evaluate` is of the mean absolute error. Axes: X Y Z, N voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from common import HELD_OUT, SCANS, label_map, markdown, mean, parser_of, report, validation_scan, write_rows
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

NORMAL_90 = half_width(90)
EVERY = 5  # voxels; ranks and quantiles are taken on a subset
Case = tuple[str, Volume, Tensor | None]  # name, sharp crop, its regions where they are known


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scan and recipe; `by_region` is coverage where regions are known."""

    scan: str
    recipe: str
    coverage: float
    spearman: float
    local_mean: float
    ause: float
    by_region: dict[str, float] | None


def cropped(whole: Volume, regions_XYZ: Tensor | None, side: int) -> tuple[Volume, Tensor | None]:
    """The middle of a scan and of its regions."""
    if regions_XYZ is None:
        return centre_crop(whole, side), None
    return centre_crop(whole, side), centre_crop(whole.with_data(regions_XYZ.float()), side).data_XYZ.to(torch.uint8)


def real_cases(data: Path, side: int) -> Iterator[Case]:
    """Scans of val/."""
    for name in SCANS:
        whole = validation_scan(data, name)
        yield name, *cropped(whole, scan_regions(whole.data_XYZ, whole.spacing_mm), side)


def synthetic_cases(data: Path, side: int) -> Iterator[Case]:
    """Two synthetic scans of every label map that no training used."""
    for number in HELD_OUT:
        maps, labels = label_map(data, number)
        for copy in range(2):
            scan = maps.with_data(synthesise(labels, rng_for(0, "uncertainty", number, copy)))
            yield f"labels {number}.{copy}", *cropped(scan, region_map(labels, maps.spacing_mm), side)


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
        mean_square = square[order].cumsum(0) / torch.arange(1, len(order) + 1)
        return mean_square[torch.linspace(0.05, 1, 20).mul(len(order) - 1).long()].sqrt()

    gap = left(spread_N.argsort()) - left(error_N.argsort())
    return float(gap.mean() / square.mean().sqrt())


def coverage(error_N: Tensor, spread_N: Tensor) -> float:
    """Share of voxels whose error lies within the 90 % interval."""
    return float((error_N <= NORMAL_90 * spread_N).double().mean())


def evaluate(enhancer: Enhancer, cases: Iterable[Case], recipes: Sequence[str]) -> list[Row]:
    """A row per scan and recipe."""
    rows = []
    for name, truth, regions in cases:
        for recipe in recipes:
            error, local, spread, where = errors(enhancer, truth, recipe, name)
            subset, by_region = slice(None, None, EVERY), None
            if regions is not None:
                own = regions[where]
                by_region = {r: coverage(error[own == k], spread[own == k]) for k, r in enumerate(REGIONS)}
            rows.append(
                Row(
                    scan=name,
                    recipe=recipe,
                    coverage=coverage(error, spread),
                    spearman=spearman(error[subset], spread[subset]),
                    local_mean=spearman(error[subset], local[subset]),
                    ause=sparsification(error[subset], spread[subset]),
                    by_region=by_region,
                )
            )
            report(rows[-1])
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per case, then means by recipe."""
    digits = {"coverage": ".3f", "spearman": ".2f", "local_mean": ".2f", "ause": ".2f"}
    lines = [[row.scan, row.recipe, *(f"{getattr(row, key):{form}}" for key, form in digits.items())] for row in rows]
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = [row for row in rows if row.recipe == recipe]
        means = (f"{mean([getattr(row, key) for row in own]):{form}}" for key, form in digits.items())
        lines.append(["**mean**", recipe, *means])
    columns = ["inside the 90 % interval", "Spearman", "Spearman of its local mean", "AUSE (RMSE)"]
    return markdown(["scan", "recipe", *columns], lines)


def region_table(rows: Sequence[Row]) -> str:
    """Markdown: share of voxels inside the 90 % interval by region, mean of the cases whose regions are known."""
    lines = []
    for recipe in dict.fromkeys(row.recipe for row in rows if row.by_region is not None):
        own = [row.by_region for row in rows if row.recipe == recipe and row.by_region is not None]
        means = (f"{mean([one[region] for one in own]):.3f}" for region in REGIONS)
        lines.append([f"{recipe} ({len(own)})", *means])
    return markdown(["inside the 90 % interval (scans)", *REGIONS], lines)


def main() -> None:
    """Print a line per case, then the tables: real scans and their regions, synthetic ones and theirs."""
    args = parser_of(__doc__, recipes=("thick5", "low1.5", "iso2"), side=96).parse_args()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    real = evaluate(enhancer, real_cases(args.data, args.side), args.recipes)
    synthetic = evaluate(enhancer, synthetic_cases(args.data, args.side), args.recipes)
    print("\n\n".join(text for rows in (real, synthetic) for text in (table(rows), region_table(rows))))
    write_rows(args.json, [*real, *synthetic], bundle=enhancer.bundle.sha256)


if __name__ == "__main__":
    main()
