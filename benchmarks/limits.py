"""Limits: is the measurement preserved in every case, and what happens to scans that the weights never learned from?

    python benchmarks/limits.py --data ../shared/data [--bundle DIR] [--failures-only] [--json out.json]

First table: the middle of val/ scans under every frozen recipe, with and without data consistency. "Preserved" means
that the RMS difference between the input and the result, acquired again, is at most 1 % of the intensity range or 1.1
times the estimated noise. Second table: faults on purpose (docs/cases.md); the score is the out-of-distribution
score. Axes: X Y Z voxels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import SCANS, markdown, mean, parser_of, report, validation_scan

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED, Recipe
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.sidecar import Sidecar

LARGEST_GAP, LARGEST_OVER_NOISE = 0.01, 1.1
FAULTY = "fsf_T1w"  # the scan of the second table


@dataclass(frozen=True, kw_only=True)
class Preserved:
    """RMS differences from the input over its intensity range, with and without data consistency.

    Args:
        limit: up to which the measurement counts as preserved.
        psnr_change: that data consistency brings, dB.
    """

    scan: str
    recipe: str
    gap: float
    limit: float
    gap_without: float
    psnr_change: float


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Gain (dB), score and warnings when something is wrong; no gain where the grid is wrong too."""

    fault: str
    gain: float | None
    score: float | None
    warnings: tuple[str, ...]


def gain(enhancer: Enhancer, truth: Volume, low: Volume, **options: Any) -> tuple[float, Sidecar]:
    """PSNR over the interpolated scan inside the head, dB, and the sidecar."""
    result = enhancer(low, EnhanceOptions(like=truth.grid, **options))
    mask = head_mask(truth.data_XYZ)
    span = data_range(truth.data_XYZ, mask)
    ours, plain = (psnr(v.data_XYZ, truth.data_XYZ, mask, span) for v in (result.volume, result.interpolated))
    return ours - plain, result.sidecar


def preserved(enhancer: Enhancer, data: Path, side: int) -> list[Preserved]:
    """A row per scan and recipe."""
    rows = []
    for scan in SCANS:
        truth = centre_crop(validation_scan(data, scan), side)
        for name, recipe in NAMED.items():
            low = degrade(truth, recipe, rng_for(0, scan, name))
            with_step, record = gain(enhancer, truth, low)
            without, bare = gain(enhancer, truth, low, data_consistency=False)
            after, before = record.data_consistency, bare.data_consistency
            assert after is not None and before is not None  # no scan here is passed through
            rows.append(
                Preserved(
                    scan=scan,
                    recipe=name,
                    gap=after.rms_over_range,
                    limit=max(LARGEST_GAP, LARGEST_OVER_NOISE * after.noise_over_range),
                    gap_without=before.rms_over_range,
                    psnr_change=with_step - without,
                )
            )
            report(rows[-1])
    return rows


def ball(truth: Volume) -> Volume:
    """A bottle: a uniform ball with a rim."""
    lines = [torch.linspace(-1, 1, n) for n in truth.shape]
    radius = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt()
    return truth.with_data(torch.where(radius < 0.8, 800.0, 0.0) + torch.where((radius - 0.8).abs() < 0.05, 200.0, 0.0))


def chequered(truth: Volume) -> Volume:
    """Cubes of 12 voxels of random brightness in a ball: edges, but no anatomy."""
    cells = [-(-n // 12) for n in truth.shape]
    brightness = torch.rand(cells, generator=rng_for(0, "chequered")) * 900 + 100
    for axis, n in enumerate(truth.shape):
        brightness = brightness.repeat_interleave(12, axis).narrow(axis, 0, n)
    return truth.with_data(torch.where(ball(truth).data_XYZ > 0, brightness, 0.0))


def tomography(truth: Volume) -> Volume:
    """Hounsfield numbers: air at -1000."""
    top = float(truth.data_XYZ.max())
    return truth.with_data(torch.where(truth.data_XYZ > 0.05 * top, 80 * truth.data_XYZ / top, -1000.0))


def respaced(low: Volume, factor: float) -> Volume:
    """The header claims other slice distances."""
    affine = low.affine.clone()
    affine[:3, 2] *= factor
    return Volume(low.data_XYZ, affine)


def noisier(fraction: float) -> Callable[[Recipe], Recipe]:
    """The same acquisition with this much noise."""
    return lambda recipe: replace(recipe, noise=fraction, name=f"noise {fraction}")


def failures(enhancer: Enhancer, truth: Volume) -> list[Failure]:
    """A row per fault."""
    thick = NAMED["thick5"]
    rows = []
    same: Callable[[Volume], Volume] = lambda volume: volume  # noqa: E731
    scenes: Sequence[tuple[str, Callable[[Volume], Volume], Recipe]] = (
        ("nothing", same, thick),
        ("a uniform ball", ball, thick),
        ("cubes of random brightness", chequered, thick),
        ("Hounsfield numbers", tomography, replace(thick, noise=0.0, name="thick5 clean")),
        ("inverted contrast", lambda v: v.with_data(v.data_XYZ.max() - v.data_XYZ), thick),
        ("8 % noise", same, noisier(0.08)(thick)),
        ("20 % noise", same, noisier(0.20)(thick)),
        ("strong bias field", same, replace(thick, bias=0.8, name="bias")),
    )
    for fault, change, recipe in scenes:
        scene = change(truth)
        amount, record = gain(enhancer, scene, degrade(scene, recipe, rng_for(0, "failures", fault)))
        rows.append(failure(fault, amount, record))
    low = degrade(truth, thick, rng_for(0, "failures", "header"))
    for factor in (0.4, 0.2, 2.0):
        record = enhancer(respaced(low, factor)).sidecar
        rows.append(failure(f"slices of 5 mm called {5 * factor:g} mm", None, record))
    return rows


def failure(fault: str, amount: float | None, record: Sidecar) -> Failure:
    """A row, reported."""
    row = Failure(fault=fault, gain=amount, score=record.out_of_distribution_score, warnings=record.warnings)
    report(row)
    return row


def preserved_table(rows: Sequence[Preserved]) -> str:
    """Markdown, a line per recipe."""
    lines = []
    for recipe in NAMED:
        own = [row for row in rows if row.recipe == recipe]
        worst = max(own, key=lambda row: row.gap / row.limit)
        change = [row.psnr_change for row in own]
        numbers = (f"{number:.4f}" for number in (worst.gap, worst.limit, worst.gap_without))
        lines.append([recipe, *numbers, f"{mean(change):+.3f}, {min(change):+.3f}"])
    header = [
        "recipe",
        "RMS of the gap over the range, worst scan",
        "limit there",
        "without data consistency",
        "change of PSNR, dB: mean, worst",
    ]
    count = sum(row.gap <= row.limit for row in rows)
    return f"{markdown(header, lines)}\n\nPreserved in {count} of {len(rows)} cases."


def failure_table(rows: Sequence[Failure]) -> str:
    """Markdown, a line per fault."""
    lines = []
    for row in rows:
        amount = "-" if row.gain is None else f"{row.gain:+.2f}"
        score = "-" if row.score is None else f"{row.score:.2f}"
        lines.append([row.fault, amount, score, "; ".join(row.warnings) or "none"])
    return markdown(["what is wrong", "gain, dB", "score", "warnings"], lines)


def main() -> None:
    """Print a line per case, then the tables."""
    parser = parser_of(__doc__, side=96)
    parser.add_argument("--failures-only", action="store_true", help="the second table only")
    args = parser.parse_args()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    failed = failures(enhancer, validation_scan(args.data, FAULTY))
    rows = [] if args.failures_only else preserved(enhancer, args.data, args.side)
    print("", *([preserved_table(rows)] if rows else []), failure_table(failed), sep="\n\n")
    if args.json:
        record = {"preserved": [asdict(row) for row in rows], "failures": [asdict(row) for row in failed]}
        args.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
