"""How far may a result follow the measurement? Data consistency with other variances of the result's error.

    python benchmarks/consistency.py --data ../shared/data [--bundle DIR] [--json out.json]

Middles of real scans (train/, val/), of synthetic ones from label maps kept out of training, and of the MNI152
average, whose truths hold no noise, under every frozen recipe and some noisier ones. The network runs once a case, the
correction once a variance. Printed: change in PSNR inside the head, dB, mean and worst of a group, for a variance from
noise alone (3e-9 / noise^3), for the one in use (`error_variance`), and for the best of all that were tried.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experts import cases

from moediff.acquisition.data_consistency import SMALLEST_VARIANCE, assumed_acquisition, correct, error_variance
from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import prepare
from moediff.acquisition.recipe import NAMED, Recipe
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise, middle
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import land
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import from_nibabel, load

REAL = {
    "train": ("M2208_T2w", "cstar_stroke_FLAIR", "forrest_T1w", "mrgd_T1c", "niimath_T1w", "cstar_stroke_T1"),
    "val": ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w"),
}
NOISIER = {"thick3": 0.02, "thick5": 0.03, "iso2": 0.02, "iso1.5": 0.03}
TRIED = [10 ** (e / 2) for e in range(-13, -3)]  # variances


def scans(data: Path, side: int) -> Iterator[tuple[str, str, Volume]]:
    """Group, name and middle of every truth."""
    for group, names in REAL.items():
        for name in names:
            yield group, name, middle(canonicalise(load(data / group / f"{name}.nii.gz").volume)[0], side)
    for name, volume, _ in cases(data):
        if name.startswith("labels"):
            yield "labels", name, middle(volume, side)
    from nilearn.datasets import load_mni152_template

    template = from_nibabel(load_mni152_template(resolution=1)).volume
    yield "mni", "MNI152", middle(canonicalise(template)[0], side)


def recipes() -> list[Recipe]:
    """Every frozen one, and some with more noise."""
    return [*NAMED.values(), *(replace(NAMED[n], noise=z, name=f"{n} {z:.0%}") for n, z in NOISIER.items())]


def judged(enhancer: Enhancer, truth: Volume, recipe: Recipe, name: str) -> dict[str, Any]:
    """Change in PSNR by variance, and by rule."""
    low = degrade(truth, recipe, rng_for(0, name, recipe.name))
    result = enhancer(low, EnhanceOptions(like=truth.grid, consistency=False))
    prepared = prepare(low, truth.grid, enhancer.bundle.config.prepare)
    scaled_XYZ = prepared.scaling.apply(result.volume.data_XYZ)
    acquisition, mask = assumed_acquisition(prepared), head_mask(truth.data_XYZ)
    span = data_range(truth.data_XYZ, mask)

    def gain(variance: float | None) -> float:
        moved = correct(scaled_XYZ, prepared, acquisition, variance)
        return psnr(land(prepared.undo(moved), truth.grid).data_XYZ, truth.data_XYZ, mask, span) - plain

    plain = psnr(result.volume.data_XYZ, truth.data_XYZ, mask, span)
    by_variance = {v: gain(v) for v in (SMALLEST_VARIANCE, *TRIED)}
    noise_only = min(3e-9 / max(prepared.noise, 1e-3) ** 3, 1e-2)
    return {
        "recipe": recipe.name,
        "noise": prepared.noise,
        "variance": error_variance(prepared),
        "by_variance": by_variance,
        "noise only": gain(noise_only),
        "in use": gain(None),
        "best": max(by_variance.values()),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean (worst) of every group and recipe."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines = [f"| recipe | rule | {' | '.join(groups)} |", "|---" * (len(groups) + 2) + "|"]
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        for rule in ("noise only", "in use", "best"):
            found = [[r[rule] for r in rows if r["group"] == g and r["recipe"] == recipe] for g in groups]
            told = " | ".join(f"{sum(some) / len(some):+.2f} ({min(some):+.2f})" for some in found)
            lines.append(f"| {recipe} | {rule} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--side", type=int, default=80, help="of a crop, voxels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_memory()
    enhancer, rows = Enhancer(args.bundle), []
    for group, name, truth in scans(args.data, args.side):
        for recipe in recipes():
            rows.append({"group": group, "scan": name} | judged(enhancer, truth, recipe, name))
            print(json.dumps(rows[-1]), file=sys.stderr)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"bundle": enhancer.bundle.sha256, "rows": rows}))


if __name__ == "__main__":
    main()
