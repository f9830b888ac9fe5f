"""What it brings to know how a scan was sampled: gain over the better interpolation on the middle of held-out heads.

Every scan is halved along three or two axes by one point spread, then enhanced four times: with what voxel sizes
suggest and with the true sampling stated, each without and with data consistency.

    python benchmarks/sampling.py --side 80 --json sampling.json
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from common import SCANS, markdown, mean, parser_of, report, validation_scan, write_rows

from moediff.acquisition.degrade import degrade
from moediff.acquisition.operators import recipe_sampling
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

KINDS = {
    "truncate": AxisRecipe(method="truncate", factor=2),
    "box": AxisRecipe(method="box", factor=2),
    "bicubic": AxisRecipe(method="bicubic", factor=2),
    "gaussian": AxisRecipe(method="gaussian", factor=2),
    "hamming": AxisRecipe(method="hamming", factor=2),
    "zero-filled 1.4": AxisRecipe(method="truncate", factor=2, thickness=1.4),
    "zero-filled hamming 1.3": AxisRecipe(method="hamming", factor=2, thickness=1.3),
}
VARIANTS = ("suggested", "suggested, consistent", "stated", "stated, consistent")


@dataclass(frozen=True)
class Row:
    """Gains in dB, in the order of VARIANTS."""

    scan: str
    kind: str
    axes: int
    noise: float
    gains_db: tuple[float, ...]


def psnr(result: Volume, truth: Volume) -> float:
    """Inside the head, over the truth's 99.9th percentile."""
    top = quantile(truth.data_XYZ, 0.999)
    inside = truth.data_XYZ > 0.05 * top
    return float(10 * torch.log10(top**2 / (result.data_XYZ - truth.data_XYZ)[inside].square().mean()))


def gains(truth: Volume, recipe: Recipe, enhancer: Enhancer) -> tuple[float, ...]:
    """In the order of VARIANTS."""
    low = degrade(truth, recipe, rng_for(0, "sampling"))
    best = max(psnr(resample(low, truth.grid, kernel), truth) for kernel in ("cubic", "zero-fill"))
    values = []
    for profile in (None, recipe_sampling(recipe.axes)):
        for consistent in (False, True):
            options = EnhanceOptions(like=truth.grid, profile=profile, data_consistency=consistent)
            values.append(round(psnr(enhancer(low, options).volume, truth) - best, 3))
    return tuple(values)


def main() -> None:
    """Print a table of means, and one of single persons."""
    parser = parser_of(__doc__, side=80)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.01])
    args = parser.parse_args()
    enhancer, rows = Enhancer(args.bundle), []
    for name in args.scans:
        scan = centre_crop(validation_scan(args.data, name), args.side)
        truth = scan.with_data(scan.data_XYZ.float().clamp_min(0))
        for kind in args.kinds:
            for axes in (3, 2):
                for noise in args.noise:
                    sampled = (*[KINDS[kind]] * axes, *[AxisRecipe()] * (3 - axes))
                    recipe = Recipe(axes=(sampled[0], sampled[1], sampled[2]), noise=noise)
                    rows.append(Row(name, kind, axes, noise, gains(truth, recipe, enhancer)))
                    report(rows[-1])
    print(f"{args.side}^3 voxels, weights {enhancer.bundle.sha256[:8]}; mean of {len(args.scans)}\n")
    lines = []
    for kind in args.kinds:
        for axes in (3, 2):
            for noise in args.noise:
                same = [row.gains_db for row in rows if (row.kind, row.axes, row.noise) == (kind, axes, noise)]
                means = [f"{mean([one[index] for one in same]):+.2f}" for index in range(len(VARIANTS))]
                worst = min(one[3] - one[1] for one in same)
                lines.append([kind, str(axes), f"{noise:g}", *means, f"{worst:+.2f}"])
    print(markdown(["sampled by", "axes", "noise", *VARIANTS, "worst"], lines))
    write_rows(args.json, rows, sha256=enhancer.bundle.sha256, side=args.side)


if __name__ == "__main__":
    main()
