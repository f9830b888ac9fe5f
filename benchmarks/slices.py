"""Slices that alternate in brightness: what they cost, and what `--even-slices` gives back.

    python benchmarks/slices.py --data ../shared/data [--threads 1] [--scans fsf_T1w ...]

Every scan of val/ is degraded into thick slices, which then alternate by a known gain, as interleaved acquisitions do;
the result is compared with the truth, brightness of the whole fitted. The second table says what real thick-slice scans
hold. Whole heads, faithful, seed 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ablation_judging import VAL

from moediff.acquisition.degrade import degrade
from moediff.acquisition.normalisation import brain_scaling, foreground
from moediff.acquisition.recipe import NAMED
from moediff.acquisition.slice_intensity import Interleave, interleave
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise, coarsest_axis
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

RECIPES = ("thick3", "thick5")
LOG_GAINS = (0.0, 0.01, 0.02)  # of one half of the slices; the other half has its inverse
CASES = ((False, "as they are"), (True, "evened"))


def measured(volume: Volume) -> Interleave | None:
    """How a canonical scan's slices alternate."""
    scaling = brain_scaling(volume.data_XYZ, foreground(volume.data_XYZ, volume.spacing_mm), volume.spacing_mm)
    return interleave(scaling.apply(volume.data_XYZ), volume.spacing_mm)


def alternating(volume: Volume, log_gain: float) -> Volume:
    """A canonical scan whose slices alternate by this gain."""
    axis = coarsest_axis(volume.spacing_mm)
    return volume.with_data(Interleave(axis, -log_gain, 0.0).evened(volume.data_XYZ))


def scores(enhancer: Enhancer, truth: Volume, low: Volume, *, even_slices: bool) -> float:
    """PSNR inside the head after one factor for the whole scan, since evening keeps the mean of both halves only."""
    options = EnhanceOptions(like=truth.grid, even_slices=even_slices)
    pred_XYZ, truth_XYZ = enhancer(low, options).volume.data_XYZ, truth.data_XYZ
    mask_XYZ = head_mask(truth_XYZ)
    factor = float((pred_XYZ * truth_XYZ)[mask_XYZ].sum() / pred_XYZ.square()[mask_XYZ].sum())
    return psnr(factor * pred_XYZ, truth_XYZ, mask_XYZ, data_range(truth_XYZ, mask_XYZ))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--scans", nargs="+", default=list(VAL), metavar="NAME", help="of val/ (default: all five)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    keep_memory()
    enhancer = Enhancer(args.bundle, threads=args.threads)
    columns = [f"{2 * gain:.0%} {word}" for gain in LOG_GAINS for _, word in CASES]
    print(f"| scan | recipe | {' | '.join(columns)} | log-gain found |", "|---" * (len(columns) + 3) + "|", sep="\n")
    for name in args.scans:
        truth = canonicalise(load(args.data / "val" / f"{name}.nii.gz").volume)[0]
        for recipe in RECIPES:
            low = canonicalise(degrade(truth, NAMED[recipe], rng_for(0, name, recipe)))[0]
            uneven = [alternating(low, gain) for gain in LOG_GAINS]
            cells = [scores(enhancer, truth, scan, even_slices=even) for scan in uneven for even, _ in CASES]
            gains = ", ".join("-" if found is None else f"{found.log_gain:+.4f}" for found in map(measured, uneven))
            print(f"| {name} | {recipe} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {gains} |", flush=True)
    print(
        "\n| thick-slice scan | spacing, mm | every other slice brighter by | noticeable |",
        "|---|---|---|---|",
        sep="\n",
    )
    for path in sorted((args.data / "anisotropic").glob("*.nii.gz")):
        scan = canonicalise(load(path).volume)[0]
        found = measured(scan.with_data(scan.data_XYZ.to(torch.float32)))
        told = ("-", "-") if found is None else (f"{found.difference:.1%}", "yes" if found.noticeable else "no")
        print(f"| {path.name.split('.')[0]} | {max(scan.spacing_mm):.1f} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
