"""Test-time means over flips (`--tta`): what they gain and what they cost.

PSNR inside the head over a single evaluation, and processor time relative to it, per recipe.

    python benchmarks/flips.py --side 96
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from common import RECIPES, SCANS, every_head, markdown, mean, parser_of, write_rows

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

FLIPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Row:
    """One head and recipe: PSNR and processor seconds, in the order of FLIPS."""

    scan: str
    recipe: str
    psnr_db: tuple[float, ...]
    seconds: tuple[float, ...]


def judged(enhancer: Enhancer, name: str, recipe: str, truth: Volume) -> Row:
    """One head degraded by one recipe."""
    low, mask = degrade(truth, NAMED[recipe], rng_for(0, name, recipe)), head_mask(truth.data_XYZ)
    scores, seconds = [], []
    for flips in FLIPS:
        start = time.process_time()
        result = enhancer(low, EnhanceOptions(like=truth.grid, tta=flips))
        seconds.append(round(time.process_time() - start, 2))
        scores.append(round(psnr(result.volume.data_XYZ, truth.data_XYZ, mask, data_range(truth.data_XYZ, mask)), 3))
    return Row(name, recipe, tuple(scores), tuple(seconds))


def main() -> None:
    """Print means over persons."""
    parser = parser_of(__doc__, recipes=RECIPES, side=96)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    args = parser.parse_args()
    enhancer = Enhancer(args.bundle)
    rows = every_head(args, partial(judged, enhancer))
    lines = []
    for recipe in args.recipes:
        same = [row for row in rows if row.recipe == recipe]
        gains = [f"{mean([row.psnr_db[n] - row.psnr_db[0] for row in same]):+.3f}" for n in range(1, len(FLIPS))]
        costs = [f"{mean([row.seconds[n] / row.seconds[0] for row in same]):.1f}" for n in range(1, len(FLIPS))]
        lines.append([recipe, *gains, *costs])
    header = ["recipe", *(f"{n} flips, dB" for n in FLIPS[1:]), *(f"{n} flips, times" for n in FLIPS[1:])]
    print(f"{args.side}^3 voxels, weights {enhancer.bundle.sha256[:8]}; mean of {len(args.scans)}\n")
    print(markdown(header, lines))
    write_rows(args.json, rows, sha256=enhancer.bundle.sha256, side=args.side)


if __name__ == "__main__":
    main()
