"""Is what was measured kept in every case, and what happens to scans that the weights never learned from?

    python benchmarks/limits.py --data ../shared/data [--bundle DIR] [--failures-only] [--json out.json]

First table: the middle of val/ scans under every frozen recipe, with and without the step of data consistency. "Kept"
means that the RMS of what re-acquiring the result leaves of the input is at most 1 % of the intensity range or 1.1
times the estimated noise. Second table: what goes wrong when something is wrong
(docs/failure-modes.md); the score says how unlike training scans the encoder finds a scan. Axes: X Y Z voxels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

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
from moediff.io.scans import load

SCANS = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")
LARGEST_GAP, LARGEST_OVER_NOISE = 0.01, 1.1
BROKEN = "fsf_T1w"  # the scan that is broken in the second table


def gain(enhancer: Enhancer, truth: Volume, low: Volume, **options: Any) -> tuple[float, Sidecar]:
    """PSNR over the interpolated scan inside the head, dB, and the sidecar."""
    result = enhancer(low, EnhanceOptions(like=truth.grid, **options))
    mask = head_mask(truth.data_XYZ)
    span = data_range(truth.data_XYZ, mask)
    ours, plain = (psnr(v.data_XYZ, truth.data_XYZ, mask, span) for v in (result.volume, result.interpolated))
    return ours - plain, result.sidecar


def consistency(enhancer: Enhancer, data: Path, side: int) -> list[dict[str, Any]]:
    """A row per scan and recipe."""
    rows = []
    for scan in SCANS:
        truth = centre_crop(load(data / "val" / f"{scan}.nii.gz").volume, side)
        for name, recipe in NAMED.items():
            low = degrade(truth, recipe, rng_for(0, scan, name))
            with_step, record = gain(enhancer, truth, low)
            without, bare = gain(enhancer, truth, low, consistency=False)
            found, before = record.data_consistency, bare.data_consistency
            assert found is not None and before is not None  # no scan here is passed through
            limit = max(LARGEST_GAP, LARGEST_OVER_NOISE * found.noise_over_range)
            rows.append(
                {
                    "scan": scan,
                    "recipe": name,
                    "gap": found.rms_over_range,
                    "limit": limit,
                    "gap_without": before.rms_over_range,
                    "psnr_change": with_step - without,
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def ball(truth: Volume) -> Volume:
    """A bottle: a uniform ball with a rim."""
    lines = [torch.linspace(-1, 1, n) for n in truth.shape]
    radius = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt()
    return truth.with_data(torch.where(radius < 0.8, 800.0, 0.0) + torch.where((radius - 0.8).abs() < 0.05, 200.0, 0.0))


def chequered(truth: Volume) -> Volume:
    """Cubes of 12 voxels of random brightness in a ball: edges, but no anatomy."""
    cells = [-(-n // 12) for n in truth.shape]
    level = torch.rand(cells, generator=rng_for(0, "chequered")) * 900 + 100
    for axis, n in enumerate(truth.shape):
        level = level.repeat_interleave(12, axis).narrow(axis, 0, n)
    return truth.with_data(torch.where(ball(truth).data_XYZ > 0, level, 0.0))


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


def failures(enhancer: Enhancer, truth: Volume) -> list[dict[str, Any]]:
    """What is said and what is gained when something is wrong; no gain where the grid is wrong too."""
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
    for name, make, recipe in scenes:
        made = make(truth)
        found, record = gain(enhancer, made, degrade(made, recipe, rng_for(0, "failures", name)))
        rows.append(
            {"wrong": name, "gain": found, "score": record.out_of_distribution_score, "warnings": list(record.warnings)}
        )
    low = degrade(truth, thick, rng_for(0, "failures", "header"))
    for told in (0.4, 0.2, 2.0):
        record = enhancer(respaced(low, told)).sidecar
        wrong = f"slices of 5 mm called {5 * told:g} mm"
        rows.append(
            {"wrong": wrong, "gain": None, "score": record.out_of_distribution_score, "warnings": list(record.warnings)}
        )
    return rows


def table_of_kept(kept: list[dict[str, Any]]) -> str:
    """Markdown, a line per recipe."""
    lines = [
        "| recipe | RMS of the gap over the range, worst scan | limit there | without the step "
        "| change of PSNR, dB: mean, worst |",
        "|---" * 5 + "|",
    ]
    for recipe in NAMED:
        own = [row for row in kept if row["recipe"] == recipe]
        worst = max(own, key=lambda row: row["gap"] / row["limit"])
        change = [row["psnr_change"] for row in own]
        lines.append(
            f"| {recipe} | {worst['gap']:.4f} | {worst['limit']:.4f} | {worst['gap_without']:.4f} "
            f"| {sum(change) / len(change):+.3f}, {min(change):+.3f} |"
        )
    within = sum(row["gap"] <= row["limit"] for row in kept)
    return "\n".join([*lines, "", f"Kept in {within} of {len(kept)} cases."])


def table_of_failures(failed: list[dict[str, Any]]) -> str:
    """Markdown, a line per thing that is wrong."""
    lines = ["| what is wrong | gain, dB | score | warnings |", "|---" * 4 + "|"]
    for row in failed:
        amount = "-" if row["gain"] is None else f"{row['gain']:+.2f}"
        score = "-" if row["score"] is None else f"{row['score']:.2f}"
        lines.append(f"| {row['wrong']} | {amount} | {score} | {'; '.join(row['warnings']) or 'none'} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--side", type=int, default=96, help="of a crop, voxels")
    parser.add_argument("--failures-only", action="store_true", help="the second table only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    truth = load(args.data / "val" / f"{BROKEN}.nii.gz").volume
    failed = failures(enhancer, truth)
    for row in failed:
        print(json.dumps(row), file=sys.stderr)
    kept = [] if args.failures_only else consistency(enhancer, args.data, args.side)
    print("", *([table_of_kept(kept)] if kept else []), table_of_failures(failed), sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps({"kept": kept, "failed": failed}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
