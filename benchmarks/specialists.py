"""What routing by region could bring at best: a denoiser for all regions against one of its size for each.

    python benchmarks/specialists.py --data ../shared/data [--minutes 3] [--sizes tiny,small] [--seed 0]

One denoiser learns from synthetic scans of label maps. From there it goes on for all regions ("everywhere"), or for
one: elsewhere its loss counts a tenth, its patches lie around voxels of its region, and all its layers are its own.
Each takes as long, so the four specialists together get four times the training and the parameters, at one denoiser's
operations a voxel, and the true regions say who works where. No gate over these regions can do better by routing, so
what this shows bounds what it can. Judged on patches of label maps kept out of training, without data consistency.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from short_runs import descend
from torch import Tensor

from moediff.evaluation.regions import BACKGROUND, REGIONS
from moediff.model.denoiser import Denoiser, DenoiserConfig, TrunkConfig, make_condition
from moediff.model.experts import ExpertsConfig
from moediff.model.gate import GateConfig
from moediff.simulate.recipe import NAMED
from moediff.training.dataset import Batch, PatchSource
from moediff.training.heads import load_heads
from moediff.training.kept import Head, ScanSource
from moediff.training.losses import LossConfig, relative_weight
from moediff.volume.prepare import PrepareSettings

LEARNED, HELD_OUT = range(1, 7), range(13, 17)
RECIPES = ("thick5", "low1.5", "iso2")
SIZES = {  # trunk, and width of a denoiser's own layers
    "tiny": (TrunkConfig(width=8, deep_width=16, blocks_before=1, blocks_deep=2, blocks_after=1), 16),
    "small": (TrunkConfig(width=16, deep_width=32), 64),
}
SIGMA_MAX = 20.0  # in units of sigma_data
PATCH, BATCH = 32, 8
PATCHES = 24  # judged for each recipe
FIRST_RATE, NEXT_RATE = 8e-3, 4e-3
EVERYWHERE = "everywhere"
ELSEWHERE = 0.1  # weight of errors outside a specialist's region: with none at all training was unstable


def uniform(size: str) -> Denoiser:
    """One denoiser without choice of experts."""
    trunk, width = SIZES[size]
    experts = ExpertsConfig(views=("plain",), width=width)
    return Denoiser(DenoiserConfig(trunk=trunk, gate=GateConfig(experts=1, top_k=1), experts=experts))


def squares(denoiser: Denoiser, batch: Batch) -> Tensor:
    """Squared error of the posterior mean, [B, X, Y, Z]."""
    condition = make_condition(denoiser, (batch.base_BXYZ, batch.slices_BNXYZ), batch.positions, batch.noise_B)
    sigma_B = torch.full((len(batch.noise_B),), SIGMA_MAX * denoiser.config.sigma_data)
    mean = denoiser(torch.zeros_like(batch.base_BXYZ), sigma_B, condition)
    return (mean - (batch.truth_BXYZ - batch.base_BXYZ)).square()


def inside(region_BXYZ: Tensor, name: str) -> Tensor:
    """Voxels of a region, or of all."""
    return region_BXYZ != BACKGROUND if name == EVERYWHERE else region_BXYZ == REGIONS.index(name)


def loss(denoiser: Denoiser, batch: Batch, *, name: str) -> Tensor:
    """Mean over voxels, above all the region's, patches weighted as in training."""
    weight_B = relative_weight(batch.truth_BXYZ, batch.base_BXYZ, denoiser.config.sigma_data, LossConfig())
    counted = inside(batch.region_BXYZ, name).float().clamp_min(ELSEWHERE) * inside(batch.region_BXYZ, EVERYWHERE)
    wrong = squares(denoiser, batch) * weight_B[:, None, None, None]
    return (wrong * counted).sum() / counted.sum().clamp_min(1)


def around(heads: Sequence[Head], name: str) -> list[Head]:
    """The same heads, patches lying around voxels of a region."""
    if name == EVERYWHERE:
        return list(heads)
    found = []
    for head in heads:
        assert head.region_XYZ is not None
        found.append(replace(head, inside_N3=inside(head.region_XYZ, name).nonzero()[::10]))
    return found


@torch.no_grad()
def judged(denoiser: Denoiser, batches: dict[str, list[Batch]]) -> dict[str, dict[str, tuple[float, float, int]]]:
    """By recipe and region: sum of squared errors, that of the interpolated scan, and the number of voxels.

    Errors are counted in units of their patch's interpolation error, so that no contrast outweighs the others.
    """
    found: dict[str, dict[str, tuple[float, float, int]]] = {}
    for recipe, some in batches.items():
        totals = {name: (0.0, 0.0, 0) for name in REGIONS}
        for batch in some:
            before = (batch.truth_BXYZ - batch.base_BXYZ).square()
            unit = before.mean((1, 2, 3), keepdim=True)
            wrong, before = squares(denoiser, batch) / unit, before / unit
            for name, (error, base, count) in totals.items():
                own = inside(batch.region_BXYZ, name)
                totals[name] = (
                    error + float(wrong[own].sum()),
                    base + float(before[own].sum()),
                    count + int(own.sum()),
                )
        found[recipe] = totals
    return found


def decibels(ours: float, theirs: float) -> float:
    """How far the first error lies under the second."""
    return float(10 * torch.log10(torch.tensor(theirs / ours)))


def compared(
    size: str, source: Callable[[str], PatchSource], batches: dict[str, list[Batch]], args: argparse.Namespace
) -> list[str]:
    """Train and judge one size; the lines of its table."""
    torch.manual_seed(args.seed)
    seconds = 60 * args.minutes

    def train(start: Denoiser, name: str, first: int, rate: float) -> tuple[Denoiser, int]:
        drawn = source(name)
        return descend(
            start, lambda step: drawn.batch(first + step, BATCH), partial(loss, name=name), seconds=seconds, rate=rate
        )

    half, steps = train(uniform(size), EVERYWHERE, 0, FIRST_RATE)
    errors, made = {}, {}
    for name in (EVERYWHERE, *REGIONS):
        grown, made[name] = train(deepcopy(half), name, steps, NEXT_RATE)
        errors[name] = judged(grown, batches)
        print(
            json.dumps({"size": size, "learns": name, "steps": [steps, made[name]], "errors": errors[name]}), flush=True
        )
    lines = []
    for recipe in batches:
        rival = errors[EVERYWHERE][recipe]
        gains = [decibels(errors[name][recipe][name][0], rival[name][0]) for name in REGIONS]
        routed, whole = (
            sum(part) for part in zip(*((errors[n][recipe][n][0], rival[n][0]) for n in REGIONS), strict=True)
        )
        over_base = decibels(whole, sum(rival[name][1] for name in REGIONS))
        cells = [f"{value:+.2f}" for value in (over_base, decibels(routed, whole), *gains)]
        lines.append(f"| {size} | {recipe} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print a line of JSON for every network, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minutes", type=float, default=3, help="processor time of each training")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)

    def heads(numbers: Sequence[int]) -> list[Head]:
        maps = [ScanSource(path=f"labels/training_seg_{n:02d}.nii.gz", labels=True) for n in numbers]
        return load_heads(maps, args.data, args.seed)

    known = heads(LEARNED)
    settings = PrepareSettings()

    def source(name: str) -> PatchSource:
        return PatchSource(heads=around(known, name), patch=PATCH, seed=args.seed, settings=settings)

    held, batches = heads(HELD_OUT), {}
    for recipe in RECIPES:
        fixed = PatchSource(heads=held, patch=48, seed=1, settings=settings, augment=None, recipe=NAMED[recipe])
        batches[recipe] = [fixed.batch(index, 4) for index in range(PATCHES // 4)]
    print(
        "| size | recipe | everywhere over interpolation, dB | specialists over everywhere | "
        + " | ".join(REGIONS)
        + " |"
    )
    print("|---" * (4 + len(REGIONS)) + "|")
    lines = [line for size in args.sizes.split(",") for line in compared(size, source, batches, args)]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
