"""Does routing pay? Small networks, trained alike from nothing: mixture of experts against one uniform denoiser.

    python benchmarks/ablation.py --data ../shared/data --out runs/ablation [--minutes 8] [--seeds 3]

Every network gets the same minutes of CPU time (one thread) on the same data in two halves of equal schedule. "experts"
is a uniform denoiser in the first half and branched in the second; "equal compute" is a uniform denoiser whose own
layers are as wide as makes an evaluation cost the same operations, "equal parameters" one that holds as many weights.
The gate's teachers (label-map regions, agreement with the truth, balance of the load) are left out by turns, on the
first seed. Run it again to go on where it stopped. OUT/ablation.md holds the tables, OUT/ablation.png the figure.
Axes: X Y Z voxels, E experts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ablation_tables import write
from experts import auc, cases
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moediff.config import rng_for
from moediff.evaluation.haar import haarpsi
from moediff.evaluation.metrics import data_range, head_mask, psnr, ssim
from moediff.evaluation.regions import BACKGROUND, REGIONS
from moediff.inference.engine import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiles import frame
from moediff.memory import keep_memory
from moediff.model.denoiser import Denoiser, DenoiserConfig, TrunkConfig
from moediff.model.experts import ExpertsConfig
from moediff.model.gate import GateConfig
from moediff.simulate.degrade import degrade
from moediff.simulate.recipe import NAMED
from moediff.training.settings import load_config
from moediff.volume.geometry import canonicalise, middle
from moediff.volume.io import load
from moediff.volume.prepare import prepare
from moediff.volume.volume import Volume

BASE = Path(__file__).resolve().parent.parent / "configs" / "uniform.toml"
VAL = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")
RECIPES = ("thick5", "low1.5", "iso2")
LABEL_MAPS = 4
SIDE = 96  # voxels of the crops that are judged, and of the one that is timed
VIEWS = ("smooth", "detail", "window", "plain")
TRUNK, WIDTH = TrunkConfig(width=32, deep_width=96), 160  # what is an expert's own is a third of an evaluation's cost
# Weights of the gate's teachers: label-map regions, agreement, balance.
TEACHERS = {
    "experts": (0.2, 0.02, 0.01),
    "no teacher": (0.0, 0.0, 0.0),
    "regions only": (0.2, 0.0, 0.0),
    "agreement only": (0.0, 0.02, 0.0),
    "balance only": (0.0, 0.0, 0.01),
}
RIVALS = ("equal compute", "equal parameters")


def shape(views: tuple[str, ...], width: int) -> DenoiserConfig:
    """A small network with these experts, each of this width."""
    gate = GateConfig(experts=len(views), top_k=min(2, len(views)))
    return DenoiserConfig(trunk=TRUNK, gate=gate, experts=ExpertsConfig(views=views, width=width))


def sources() -> list[str]:
    """The embedded weights' scans, half of the label maps and one voxel size each, so that reading is soon done."""
    lines = []
    for scan in load_config(BASE).scans:
        if scan.labels and int(Path(scan.path).name.split(".")[0][-2:]) > LABEL_MAPS:
            continue
        lines += [
            "[[scans]]",
            f'path = "{scan.path}"',
            f"weight = {scan.weight}",
            f"spacing_mm = {list(scan.spacing_mm[-1:])}",
        ]
        lines += [f"labels = {json.dumps(scan.labels)}"]
    return lines


def settings(  # noqa: PLR0913
    config: DenoiserConfig, seed: int, minutes: float, data: Path, out: Path, start: Path | None, teach: str
) -> str:
    """The TOML of one half of a training."""
    region, agreement, balance = TEACHERS[teach]
    lines = [
        f'like = "{BASE}"', f'data = "{data.resolve()}"', f'out = "{out}"', f"seed = {seed}",
        f"minutes = {minutes}", 'clock = "cpu"', "batch = 8", "ema = 0.99",
        "warmup = 30", "rate = 8e-3" if start is None else "rate = 4e-3", "save_every = 100000",
        *([f'start = "{start}"'] if start else []),
        *sources(), "[validation]", "label_maps = []",
        "[loss]", "expert = 1.0", f"region = {region}", f"agreement = {agreement}", f"balance = {balance}",
        "[model.denoiser.trunk]", f"width = {TRUNK.width}", f"deep_width = {TRUNK.deep_width}",
        "[model.denoiser.gate]", f"experts = {config.gate.experts}", f"top_k = {config.gate.top_k}",
        "[model.denoiser.experts]", f"views = {json.dumps(config.experts.views)}", f"width = {config.experts.width}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def trained(
    name: str, config: DenoiserConfig, seed: int, args: argparse.Namespace, *, start: Path | None, teach: str
) -> Path:
    """Bundle of one half of a training; made now unless it is there."""
    out: Path = args.out.resolve() / name.replace(" ", "-") / str(seed)
    if not (out / "done").is_file():
        out.mkdir(parents=True, exist_ok=True)
        text = settings(config, seed, args.minutes / 2, args.data, out, start, teach)
        (out / "train.toml").write_text(text, encoding="utf-8")
        load_config(out / "train.toml")
        command = [sys.executable, "-m", "moediff", "train", str(out / "train.toml"), "--resume", "--quiet"]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--processes", "1"], check=True, env=alone)
        (out / "done").touch()
    return out / "bundle"


def cost(enhancer: Enhancer, low: Volume, goal: Volume) -> dict[str, float]:
    """Of one evaluation with encoder and gate: kFLOP and, best of five, CPU microseconds a foreground voxel."""
    denoiser, prepared = enhancer.bundle.denoiser, prepare(low, goal.grid, enhancer.bundle.config.prepare)
    sigma = torch.tensor([enhancer.bundle.config.process.sigma_max * denoiser.config.sigma_data])

    def evaluate() -> int:
        head = frame(denoiser, prepared)
        denoiser(torch.zeros(1, *head.shape), sigma, head.condition)
        return int(head.inside_BXYZ.sum())

    times = []
    for _ in range(5):
        start = time.process_time()
        voxels = evaluate()
        times.append(time.process_time() - start)
    with FlopCounterMode(display=False) as counter:
        evaluate()
    return {"kflop": counter.get_total_flops() / voxels / 1e3, "us": min(times) / voxels * 1e6,
            "parameters": sum(p.numel() for p in denoiser.parameters())}  # fmt: skip


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


def results(name: str, bundle: Path, seed: int, held_out: list[Crop], args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one network; kept beside it."""
    kept: Path = bundle.parent / "result.json"
    if not kept.is_file():
        enhancer = Enhancer(bundle)
        first = next(crop for crop in held_out if crop.regions_XYZ is not None)
        rows = [judged(enhancer, crop) for crop in held_out]
        steps = enhancer.bundle.provenance.get("steps")
        told = {"network": name, "seed": seed, "steps": steps, **cost(enhancer, first.low, first.truth), "rows": rows}
        kept.write_text(json.dumps(told), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    print(name, seed, {key: round(found[key], 3) for key in ("kflop", "us", "parameters")}, summary(found), flush=True)
    return found


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


def width_for(views: tuple[str, ...], measure: Callable[[DenoiserConfig], float], goal: float) -> int:
    """The width of the experts' layers, a multiple of 8, whose measure comes nearest to the goal."""
    return min(range(16, 513, 8), key=lambda width: abs(measure(shape(views, width)) - goal))


def parameters(config: DenoiserConfig) -> float:
    """Weights of a network of this shape."""
    with torch.device("meta"):
        return sum(p.numel() for p in Denoiser(config).parameters())


def own_kflop(config: DenoiserConfig) -> float:
    """Operations of one expert's own layers a voxel, in thousands."""
    channels, width, layers = config.trunk.width, config.experts.width, config.experts.layers
    return 2 * (2 * channels * width + layers * width**2 + 8 * width) / 8 / 1e3


def networks(seed: int, held_out: list[Crop], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Experts and both rivals of one seed, trained and judged."""

    def both_halves(name: str, first: DenoiserConfig, second: DenoiserConfig) -> dict[str, Any]:
        half = trained(f"{name} half", first, seed, args, start=None, teach="experts")
        whole = trained(name, second, seed, args, start=half, teach="experts")
        return results(name, whole, seed, held_out, args)

    plain = shape(("plain",), WIDTH)
    moe = both_halves("experts", plain, shape(VIEWS, WIDTH))
    before = results("experts half", args.out.resolve() / "experts-half" / str(seed) / "bundle", seed, held_out, args)
    aims = {"equal compute": (own_kflop, own_kflop(plain) + moe["kflop"] - before["kflop"]),
            "equal parameters": (parameters, parameters(shape(VIEWS, WIDTH)))}  # fmt: skip
    found = [moe, before]
    for name in RIVALS:
        config = shape(("plain",), width_for(("plain",), *aims[name]))
        found.append(both_halves(name, config, config))
    return found


def teachers(held_out: list[Crop], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The experts of the first seed under other teachers of the gate."""
    half = args.out.resolve() / "experts-half" / "0" / "bundle"
    names = [name for name in TEACHERS if name != "experts"]
    folders = [trained(n, shape(VIEWS, WIDTH), 0, args, start=half, teach=n) for n in names]
    return [results(n, f, 0, held_out, args) for n, f in zip(names, folders, strict=True)]


def main() -> None:
    """Train what is missing, judge it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--minutes", type=float, default=8, help="of training, every network")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    held_out = crops(args.data)
    found = [row for seed in range(args.seeds) for row in networks(seed, held_out, args)]
    found += teachers(held_out, args)
    (args.out / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(write(args.out, VAL, tuple(TEACHERS)))


if __name__ == "__main__":
    main()
