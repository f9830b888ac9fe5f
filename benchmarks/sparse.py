"""What sparse routing costs and loses, and how an evaluation's time grows with the number of experts.

    python benchmarks/sparse.py --data ../shared/data [--bundle DIR] [--threads 1] [--json out.json]

First table: the middle of val/ scans, mode `faithful`, with all experts everywhere ("dense"), with the two or the one
of largest weight, and with a single expert everywhere; PSNR against dense, and CPU time of an evaluation against that
of one expert. Second table: untrained networks of the embedded shape with 1 to 8 experts, whose gate says something
else every few voxels. Times are the least of several turns that all variants take one after the other.
Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import Prepared, prepare
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise, middle
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import Frame, frame
from moediff.io.scans import load
from moediff.model.bundle import Bundle
from moediff.model.denoiser import Denoiser
from moediff.model.experts import ExpertsConfig
from moediff.model.gate import GateConfig

SCANS = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")
RECIPES = ("thick5", "low1.5", "iso2")
ROUTES = {"dense": (4, 0.0), "top 2": (2, 0.1), "top 1": (1, 0.1)}  # top_k, threshold
COUNTS = (1, 2, 4, 8)
VIEWS = ("plain", "smooth", "detail", "window") * 2
TURNS = 5


def routed(bundle: Bundle, top_k: int, threshold: float) -> Bundle:
    """The same weights under another rule of routing."""
    config = bundle.config.denoiser
    gate = replace(config.gate, top_k=min(top_k, config.gate.experts), threshold=threshold)
    network = Denoiser(replace(config, gate=gate))
    network.load_state_dict(bundle.denoiser.state_dict())
    return replace(bundle, denoiser=network.eval(), config=replace(bundle.config, denoiser=network.config))


def least_seconds(
    work: dict[str, Callable[[], object]], now: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Seconds of every piece of work, the least of several turns; of the processor, if no other clock is given."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(TURNS):
        for name, piece in work.items():
            start = now()
            piece()
            best[name] = min(best[name], now() - start)
    return best


def evaluation(denoiser: Denoiser, head: Frame, sigma: float) -> Callable[[], object]:
    """One evaluation at this noise level, from what was computed once for the scan."""
    x = torch.zeros_like(head.condition.interpolated_BXYZ)
    return lambda: denoiser(x, torch.tensor([sigma], device=x.device), head.condition)


@torch.no_grad()
def times_by_route(variants: dict[str, Bundle], prepared: Prepared) -> dict[str, float]:
    """CPU seconds of an evaluation under every rule of routing, and with each expert everywhere."""
    first = next(iter(variants.values()))
    sigma = first.config.process.sigma_max * first.config.denoiser.sigma_data
    work = {name: evaluation(b.denoiser, frame(b.denoiser, prepared), sigma) for name, b in variants.items()}
    whole = frame(first.denoiser, prepared)
    for index, view in enumerate(first.config.denoiser.experts.views):
        work[f"only {view}"] = evaluation(first.denoiser, whole.alone(index), sigma)
    return least_seconds(work)


@torch.no_grad()
def times_by_count(
    bundle: Bundle, prepared: Prepared, now: Callable[[], float] = time.process_time
) -> dict[str, dict[str, float]]:
    """Seconds of an evaluation for every number of experts, one or two of them a voxel, where the bundle lies."""
    shape, device = bundle.config.denoiser, next(bundle.denoiser.parameters()).device
    work: dict[str, dict[str, Callable[[], object]]] = {"top 1": {}, "top 2": {}}
    for name, top_k in (("top 1", 1), ("top 2", 2)):
        for count in COUNTS:
            gate = GateConfig(experts=count, top_k=min(top_k, count), threshold=0.0)
            torch.manual_seed(0)
            network = Denoiser(replace(shape, gate=gate, experts=ExpertsConfig(views=VIEWS[:count]))).eval()
            network.gate.log_scale.data.fill_(30.0)  # untrained tokens differ little: this spreads them over experts
            head = frame(network.to(device), prepared)
            work[name][str(count)] = evaluation(network, head, bundle.config.process.sigma_max * shape.sigma_data)
    return {name: least_seconds(pieces, now) for name, pieces in work.items()}


def case(data: Path, scan: str, recipe: str, side: int) -> tuple[Volume, Volume]:
    """Truth and its degraded scan."""
    truth = middle(canonicalise(load(data / "val" / f"{scan}.nii.gz").volume)[0], side)
    return truth, degrade(truth, NAMED[recipe], rng_for(0, scan, recipe))


def quality(variants: dict[str, Bundle], data: Path, side: int) -> list[dict[str, Any]]:
    """PSNR of every rule of routing on every case."""
    enhancers, rows = {name: Enhancer(bundle) for name, bundle in variants.items()}, []
    for scan in SCANS:
        for recipe in RECIPES:
            truth, low = case(data, scan, recipe, side)
            mask = head_mask(truth.data_XYZ)
            span = data_range(truth.data_XYZ, mask)
            row: dict[str, Any] = {"scan": scan, "recipe": recipe}
            for name, enhancer in enhancers.items():
                found = enhancer(low, EnhanceOptions(like=truth.grid)).volume.data_XYZ
                row[name] = psnr(found, truth.data_XYZ, mask, span)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    return rows


def tables(rows: list[dict[str, Any]], seconds: dict[str, float], counts: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    alone = {name: value for name, value in seconds.items() if name.startswith("only ")}
    one = sum(alone.values()) / len(alone)
    lines = [
        f"| routing | {' | '.join(f'{r}, dB against dense' for r in RECIPES)} | time over one expert's |",
        "|---" * (len(RECIPES) + 2) + "|",
    ]
    for name in ROUTES:
        gaps = []
        for recipe in RECIPES:
            own = [row[name] - row["dense"] for row in rows if row["recipe"] == recipe]
            gaps.append(f"{sum(own) / len(own):+.3f} ({min(own):+.3f} at worst)")
        lines.append(f"| {name} | {' | '.join(gaps)} | {seconds[name] / one:.2f} |")
    spread = ", ".join(f"{name} {value / one:.2f}" for name, value in alone.items())
    lines += ["", f"One expert everywhere, over their mean: {spread}.", ""]
    lines += [f"| time over one expert's | {' | '.join(f'{n} experts' for n in COUNTS)} |", "|---" * 5 + "|"]
    for name, found in counts.items():
        lines.append(f"| {name} | {' | '.join(f'{value / found[str(COUNTS[0])]:.2f}' for value in found.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--side", type=int, default=96, help="of a crop, voxels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    bundle = Enhancer(args.bundle).bundle
    variants = {name: routed(bundle, *rule) for name, rule in ROUTES.items()}
    truth, low = case(args.data, SCANS[0], RECIPES[0], args.side)
    prepared = prepare(low, truth.grid, bundle.config.prepare)
    seconds, counts = times_by_route(variants, prepared), times_by_count(bundle, prepared)
    rows = quality(variants, args.data, args.side)
    print(f"\n{tables(rows, seconds, counts)}")
    if args.json:
        found = {"bundle": bundle.sha256, "seconds": seconds, "counts": counts, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
