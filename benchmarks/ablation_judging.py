"""Judging of benchmarks/ablation.py: the same crops for every network, and what an evaluation costs.

Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from experts import auc, cases
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import prepare
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import BACKGROUND, REGIONS
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise, middle
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr, ssim
from moediff.evaluation.metrics.haarpsi import haarpsi
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import frame
from moediff.io.scans import load

VAL = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")
RECIPES = ("thick5", "low1.5", "iso2")
SIDE = 96  # voxels of the crops that are judged, and of the one that is timed


@dataclass(frozen=True)
class Crop:
    """One degraded crop; regions are known where the scan was made from labels or its tissues can be told."""

    name: str
    recipe: str
    truth: Volume
    low: Volume
    regions_XYZ: Tensor | None


def crops(data: Path) -> list[Crop]:
    """The middle of every scan of val/ under every recipe, and of label maps kept out of training under the first."""
    scans: list[tuple[str, Volume, Tensor | None]] = []
    for name in VAL:
        scans.append((name, canonicalise(load(data / "val" / f"{name}.nii.gz").volume)[0], None))
    known = {name: (volume, regions) for name, volume, regions in cases(data)}
    scans = [(name, volume, known[name][1] if name in known else None) for name, volume, _ in scans]
    scans += [(name, *pair) for name, pair in known.items() if name not in VAL]
    found = []
    for name, volume, regions in scans:
        truth = middle(volume, SIDE)
        inner = None if regions is None else middle(volume.with_data(regions), SIDE).data_XYZ
        for recipe in RECIPES if name in VAL else RECIPES[:1]:
            low = degrade(truth, NAMED[recipe], rng_for(0, name, recipe))
            found.append(Crop(name, recipe, truth, low, inner))
    return found


def judged(enhancer: Enhancer, crop: Crop) -> dict[str, Any]:
    """Scores inside the head, PSNR by region, and how well the gate's weights tell the regions."""
    result = enhancer(crop.low, EnhanceOptions(like=crop.truth.grid))
    pred, truth = result.volume.data_XYZ, crop.truth.data_XYZ
    mask = head_mask(truth)
    span = data_range(truth, mask)
    row: dict[str, Any] = {"case": crop.name, "recipe": crop.recipe}
    row |= {
        "psnr": psnr(pred, truth, mask, span),
        "ssim": ssim(pred, truth, mask, span),
        "haarpsi": haarpsi(pred, truth, mask, span),
    }
    if crop.regions_XYZ is None:
        return row
    known = (crop.regions_XYZ != BACKGROUND) & result.mask_XYZ
    parts = {name: known & (crop.regions_XYZ == k) for k, name in enumerate(REGIONS)}
    row["regions"] = {name: psnr(pred, truth, part, span) for name, part in parts.items() if part.sum() > 100}
    if len(result.expert_names) == len(REGIONS):
        gate, region = result.gate_XYZE[known][::9], crop.regions_XYZ[known][::9]
        areas = [auc(gate[:, k], region == k) for k in range(len(REGIONS))]
        row |= {"auc": sum(areas) / len(areas), "load": gate.mean(0).tolist()}
    return row


def evaluation(enhancer: Enhancer, crop: Crop) -> Callable[[], int]:
    """One evaluation with encoder and gate, to be counted or timed; it returns the number of foreground voxels."""
    denoiser, prepared = enhancer.bundle.denoiser, prepare(crop.low, crop.truth.grid, enhancer.bundle.config.prepare)
    sigma = torch.tensor([enhancer.bundle.config.process.sigma_max * denoiser.config.sigma_data])

    def evaluate() -> int:
        head = frame(denoiser, prepared)
        denoiser(torch.zeros(1, *head.shape), sigma, head.condition)
        return int(head.inside_BXYZ.sum())

    return evaluate


def cost(enhancer: Enhancer, crop: Crop) -> dict[str, float]:
    """Thousands of operations of one evaluation a foreground voxel, and the number of weights."""
    evaluate = evaluation(enhancer, crop)
    with FlopCounterMode(display=False) as counter:
        voxels = evaluate()
    weights = sum(p.numel() for p in enhancer.bundle.denoiser.parameters())
    return {"kflop": counter.get_total_flops() / voxels / 1e3, "parameters": weights}


def times(bundles: list[Path], crop: Crop, rounds: int = 9) -> list[float]:
    """CPU microseconds of an evaluation a foreground voxel: the best of so many rounds, networks taking turns.

    Other work on the machine slows whichever runs beside it, so only what was timed in turns can be compared.
    """
    evaluations = [evaluation(Enhancer(bundle), crop) for bundle in bundles]
    best = [float("inf")] * len(bundles)
    for _ in range(rounds):
        for index, evaluate in enumerate(evaluations):
            start = time.process_time()
            voxels = evaluate()
            best[index] = min(best[index], (time.process_time() - start) / voxels * 1e6)
    return best


def results(name: str, bundle: Path, seed: int, held_out: list[Crop], *, again: bool = False) -> dict[str, Any]:
    """All numbers of one network; kept beside it, and taken from there unless they shall be found `again`."""
    kept: Path = bundle.parent / "result.json"
    if again or not kept.is_file():
        enhancer = Enhancer(bundle)
        rows = [judged(enhancer, crop) for crop in held_out]
        told = {"network": name, "seed": seed, "steps": enhancer.bundle.provenance.get("steps")}
        told |= {**cost(enhancer, timed_crop(held_out)), "rows": rows}
        kept.write_text(json.dumps(told), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    print(name, seed, {key: round(found[key], 3) for key in ("kflop", "parameters")}, summary(found), flush=True)
    return found


def timed_crop(held_out: list[Crop]) -> Crop:
    """The crop on which evaluations are counted and timed."""
    return next(crop for crop in held_out if crop.regions_XYZ is not None)


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Means over crops."""
    rows = found["rows"]
    values: dict[str, list[float]] = {}
    for row in rows:
        for key in ("psnr", "ssim", "haarpsi", "auc"):
            if key in row:
                values.setdefault(key, []).append(row[key])
        for region, value in row.get("regions", {}).items():
            values.setdefault(region, []).append(value)
    return {key: round(sum(some) / len(some), 4) for key, some in values.items()}
