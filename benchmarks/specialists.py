"""What specialising by region brings: a denoiser for all regions against one of its size for each.

    python benchmarks/specialists.py --data ../shared/data [--regions truth|gate] [--sizes tiny,small] [--seed 0]

One denoiser learns from synthetic scans of label maps. From there it goes on for all regions ("everywhere"), or for
one: elsewhere its loss counts a tenth, its patches lie around voxels of its region, and all its layers are its own.
Each takes as long, so the four specialists together get four times the training and the parameters, at one denoiser's
operations a voxel; "everywhere, four times as long" gets their training too. Who learns and works where is said by the
true regions, which also give away what tissue is there and so flatter the specialists, or (`--regions gate`) by the
embedded weights' gate, which reads the degraded scan only; its soft weights are tried in either case. Experts that
share layers are another matter: what they share learns all the time. Judged on patches of label maps kept out of
training, without data consistency.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from short_runs import descend
from torch import Tensor

from moediff.acquisition.prepare import PrepareSettings
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import BACKGROUND, REGIONS
from moediff.model.bundle import load_bundle
from moediff.model.denoiser import Denoiser, DenoiserConfig, TrunkConfig, make_condition
from moediff.model.experts import ExpertsConfig
from moediff.model.gate import GateConfig
from moediff.training.cache import Head, ScanSource
from moediff.training.losses import LossConfig, relative_weight
from moediff.training.patches import Batch, PatchSource
from moediff.training.sources import load_heads

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
LONGER = "everywhere, four times as long"
GATED = "specialists, mixed by the gate"
Batches = dict[str, list[Batch]]
Means = dict[str, list[Tensor]]
Errors = dict[str, dict[str, list[float]]]
ELSEWHERE = 0.1  # weight of errors outside a specialist's region: with none at all training was unstable


def uniform(size: str) -> Denoiser:
    """One denoiser without choice of experts."""
    trunk, width = SIZES[size]
    experts = ExpertsConfig(views=("plain",), width=width)
    return Denoiser(DenoiserConfig(trunk=trunk, gate=GateConfig(experts=1, top_k=1), experts=experts))


def means(denoiser: Denoiser, batch: Batch) -> Tensor:
    """The residual's posterior mean, [B, X, Y, Z]."""
    condition = make_condition(denoiser, (batch.base_BXYZ, batch.slices_BNXYZ), batch.positions, batch.noise_B)
    sigma_B = torch.full((len(batch.noise_B),), SIGMA_MAX * denoiser.config.sigma_data)
    return denoiser(torch.zeros_like(batch.base_BXYZ), sigma_B, condition)


def squares(mean_BXYZ: Tensor, batch: Batch) -> Tensor:
    """Squared error of a residual, [B, X, Y, Z]."""
    return (mean_BXYZ - (batch.truth_BXYZ - batch.base_BXYZ)).square()


def inside(region_BXYZ: Tensor, name: str) -> Tensor:
    """Voxels of a region, or of all."""
    return region_BXYZ != BACKGROUND if name == EVERYWHERE else region_BXYZ == REGIONS.index(name)


def loss(denoiser: Denoiser, batch: Batch, *, name: str) -> Tensor:
    """Mean over voxels, above all the region's, patches weighted as in training."""
    weight_B = relative_weight(batch.truth_BXYZ, batch.base_BXYZ, denoiser.config.sigma_data, LossConfig())
    counted = inside(batch.region_BXYZ, name).float().clamp_min(ELSEWHERE) * inside(batch.region_BXYZ, EVERYWHERE)
    wrong = squares(means(denoiser, batch), batch) * weight_B[:, None, None, None]
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
def found_by(denoiser: Denoiser, batches: Batches) -> Means:
    """What a network makes of every patch, by recipe."""
    return {recipe: [means(denoiser, batch) for batch in some] for recipe, some in batches.items()}


def gate_weights(gate: Denoiser, base_BXYZ: Tensor) -> Tensor:
    """What the gate says of every voxel of an interpolated scan, [B, X, Y, Z, E]."""
    weight_BxyzE = gate.routing(base_BXYZ)[1]
    return weight_BxyzE.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)


@torch.no_grad()
def as_seen(batch: Batch, gate: Denoiser) -> Batch:
    """The batch with the regions that the gate sees instead of the true ones."""
    seen = gate_weights(gate, batch.base_BXYZ).argmax(-1)
    region = torch.where(batch.region_BXYZ == BACKGROUND, BACKGROUND, seen.to(batch.region_BXYZ.dtype))
    return replace(batch, region_BXYZ=region)


def judged(found: Means, batches: Batches) -> Errors:
    """By recipe and region: sum of squared errors, and that of the interpolated scan.

    Errors are counted in units of their patch's interpolation error, so that no contrast outweighs the others.
    """
    errors: Errors = {recipe: {name: [0.0, 0.0] for name in REGIONS} for recipe in batches}
    for recipe, some in batches.items():
        for batch, mean in zip(some, found[recipe], strict=True):
            before = (batch.truth_BXYZ - batch.base_BXYZ).square()
            unit = before.mean((1, 2, 3), keepdim=True)
            both = squares(mean, batch) / unit, before / unit
            for name, total in errors[recipe].items():
                own = inside(batch.region_BXYZ, name)
                for index, error in enumerate(both):
                    total[index] += float(error[own].sum())
    return errors


@torch.no_grad()
def mixed(specialists: Sequence[Means], batches: Batches, gate: Denoiser) -> Means:
    """The specialists' results, in the order of regions, weighted by the gate."""
    found: Means = {}
    for recipe, some in batches.items():
        each = (torch.stack([means_of[recipe][index] for means_of in specialists], -1) for index in range(len(some)))
        pairs = zip(some, each, strict=True)
        found[recipe] = [(gate_weights(gate, batch.base_BXYZ) * mean).sum(-1) for batch, mean in pairs]
    return found


def trained(
    size: str, source: Callable[[str], PatchSource], gate: Denoiser | None, args: argparse.Namespace
) -> Iterator[tuple[str, int, Denoiser]]:
    """Every network of a size, with its name and steps; what they all begin with is trained first.

    With a gate, regions are those that it sees.
    """
    torch.manual_seed(args.seed)

    def train(start: Denoiser, name: str, rate: float, *, times: float = 1, first: int = 0) -> tuple[Denoiser, int]:
        drawn, seconds = source(name), 60 * args.minutes * times

        def draw(step: int) -> Batch:
            batch = drawn.batch(first + step, BATCH)
            return batch if gate is None else as_seen(batch, gate)

        return descend(start, draw, partial(loss, name=name), seconds=seconds, rate=rate)

    half, steps = train(uniform(size), EVERYWHERE, FIRST_RATE)
    for name in (EVERYWHERE, *REGIONS, LONGER):
        region, times = (EVERYWHERE, len(REGIONS)) if name == LONGER else (name, 1)
        grown, more = train(deepcopy(half), region, NEXT_RATE, times=times, first=steps)
        yield name, steps + more, grown


def decibels(ours: float, theirs: float) -> str:
    """How far the first error lies under the second."""
    return f"{10 * math.log10(theirs / ours):+.2f}"


def lines(size: str, errors: dict[str, Errors]) -> list[str]:
    """A row for every recipe."""
    rows = []
    for recipe, rival in errors[EVERYWHERE].items():
        whole, base = (sum(rival[name][index] for name in REGIONS) for index in (0, 1))
        patient = sum(errors[LONGER][recipe][name][0] for name in REGIONS)
        own = {name: errors[name][recipe][name][0] for name in REGIONS}
        routed, gated = sum(own.values()), sum(errors[GATED][recipe][name][0] for name in REGIONS)
        cells = [decibels(whole, base), decibels(patient, whole)]
        cells += [decibels(ours, theirs) for ours in (routed, gated) for theirs in (whole, patient)]
        cells += [decibels(own[name], rival[name][0]) for name in REGIONS]
        rows.append(f"| {size} | {recipe} | " + " | ".join(cells) + " |")
    return rows


def sources(args: argparse.Namespace) -> tuple[Callable[[str], PatchSource], Batches]:
    """Where a network's patches come from, by what it learns; and what is judged, by recipe."""

    def heads(numbers: Sequence[int]) -> list[Head]:
        maps = [ScanSource(path=f"labels/training_seg_{n:02d}.nii.gz", labels=True) for n in numbers]
        return load_heads(maps, args.data, args.seed)

    known, held, settings, batches = heads(LEARNED), heads(HELD_OUT), PrepareSettings(), {}
    for recipe in RECIPES:
        fixed = PatchSource(heads=held, patch=48, seed=1, settings=settings, augment=None, recipe=NAMED[recipe])
        batches[recipe] = [fixed.batch(index, 4) for index in range(PATCHES // 4)]
    return lambda name: PatchSource(heads=around(known, name), patch=PATCH, seed=args.seed, settings=settings), batches


def main() -> None:
    """Write what was measured after every network, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--minutes", type=float, default=2.5, help="processor time of each training")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--regions", default="truth", choices=("truth", "gate"), help="who says where they are")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("specialists.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    source, batches = sources(args)
    embedded = load_bundle(None, torch.device("cpu")).denoiser
    gate = embedded if args.regions == "gate" else None
    if gate is not None:
        batches = {recipe: [as_seen(batch, gate) for batch in some] for recipe, some in batches.items()}
    found: dict[str, dict[str, Any]] = {}
    for size in args.sizes.split(","):
        kept = found.setdefault(size, {"steps": {}, "errors": {}})
        means_of: dict[str, Means] = {}
        for name, steps, denoiser in trained(size, source, gate, args):
            means_of[name] = found_by(denoiser, batches)
            kept["steps"][name], kept["errors"][name] = steps, judged(means_of[name], batches)
            if all(region in means_of for region in REGIONS):
                kept["errors"][GATED] = judged(mixed([means_of[name] for name in REGIONS], batches, embedded), batches)
            args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    head = (
        "size",
        "recipe",
        "everywhere over interpolation, dB",
        f"{LONGER} over everywhere",
        f"{args.regions} over everywhere",
        f"{args.regions} over {LONGER}",
        "mixed by the gate over everywhere",
        f"mixed by the gate over {LONGER}",
        *REGIONS,
    )
    print("\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]))
    print("\n".join(row for size in found for row in lines(size, found[size]["errors"])))


if __name__ == "__main__":
    main()
