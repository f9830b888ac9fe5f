"""How far the noise that the network is told is from the noise that was added, by both estimates of `PrepareSettings`.

    python benchmarks/noise.py --data ../shared/data [--scans fsf_T1w ...] [--patches 24]

Held-out scans are degraded and prepared, whole and as their middle 96^3 voxels, and patches of 64^3 are drawn from
them as training draws them. Told over added noise, geometric mean of the cases, and in brackets how far cases spread
(standard deviation of the logarithm, in percent): a network can learn a constant factor, but no spread. Noise that the
sharp scans hold themselves counts as told too much.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from moediff.acquisition.degrade import degrade, reference_intensity
from moediff.acquisition.prepare import ESTIMATES, PrepareSettings, prepare
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise, middle
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.io.scans import load
from moediff.training.cache import Head, ScanSource
from moediff.training.patches import PatchSource
from moediff.training.sources import load_heads

SCANS = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")
RECIPES = ("thick5", "low1.5", "iso2")
PATCH = 64


def told(truth: Volume, recipe: str, name: str, settings: PrepareSettings) -> float:
    """Told over added noise of one scan."""
    low = degrade(truth, NAMED[recipe], rng_for(0, name, recipe))
    ready = prepare(low, truth.grid, settings)
    return ready.noise * ready.scaling.scale / (NAMED[recipe].noise * reference_intensity(truth.data_XYZ))


def told_patches(head: Head, recipe: str, settings: PrepareSettings, count: int) -> Iterator[float]:
    """Told over added noise of patches as training draws them."""
    source = PatchSource(heads=[head], patch=PATCH, seed=0, settings=settings, augment=None, recipe=NAMED[recipe])
    for number in range(count):
        yield float(source.example(number).noise) / (NAMED[recipe].noise * head.reference)


def cell(ratios: Sequence[float]) -> str:
    """Geometric mean and, of more than one, the spread."""
    logs = torch.tensor([math.log(ratio) for ratio in ratios], dtype=torch.float64)
    spread = f" ({100 * float(logs.std()):.0f} %)" if len(ratios) > 1 else ""
    return f"{float(logs.mean().exp()):.2f}{spread}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--patches", type=int, default=24, help="of every scan")
    args = parser.parse_args()
    keep_memory()
    wholes = {name: canonicalise(load(args.data / "val" / f"{name}.nii.gz").volume)[0] for name in args.scans}
    heads = load_heads([ScanSource(path=f"val/{name}.nii.gz") for name in args.scans], args.data, 0)
    print("| recipe | estimate | whole scans | middle 96^3 | patches 64^3 |\n|---|---|---|---|---|")
    for recipe in args.recipes:
        for estimate in ESTIMATES:
            settings = PrepareSettings(noise=estimate)
            whole = [told(truth, recipe, name, settings) for name, truth in wholes.items()]
            inner = [told(middle(truth, 96), recipe, name, settings) for name, truth in wholes.items()]
            patches = [r for head in heads for r in told_patches(head, recipe, settings, args.patches)]
            print(f"| {recipe} | {estimate} | {cell(whole)} | {cell(inner)} | {cell(patches)} |", flush=True)


if __name__ == "__main__":
    main()
