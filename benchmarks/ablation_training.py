"""Training of benchmarks/ablation.py: half a schedule of one design on one thread."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from moediff.model.denoiser import Denoiser, DenoiserConfig, TrunkConfig
from moediff.model.experts import ExpertsConfig
from moediff.model.gate import GateConfig
from moediff.training.config import load_config

BASE = Path(__file__).resolve().parent.parent / "configs" / "uniform.toml"
LABEL_MAPS = 4
VIEWS = ("smooth", "detail", "window", "plain")
TRUNK = TrunkConfig(width=32, deep_width=96)


@dataclass(frozen=True, kw_only=True)
class Design:
    """A network and how half a schedule trains it; without changes, the experts' second half as it was at first.

    Args:
        views, width, top_k: the experts' views, the width of their own layers, and how many a cell uses.
        expert, region, agreement, balance, gradient, probe_every: as in `LossConfig`.
        ema, share_at_max: decay of the weights' average; share of examples at the highest noise level.
        rate: learning rate at the half's start.
        only: parts that learn; none for all.
        after: the first half that it goes on from; None for a first half itself.
        trunk: what all experts share.
        learned_from: parts of the paths of the scans that are kept; none for all.
    """

    views: tuple[str, ...] = VIEWS
    width: int = 160
    top_k: int = 2
    expert: float = 1.0
    region: float = 0.2
    agreement: float = 0.02
    balance: float = 0.01
    gradient: float = 0.0
    probe_every: int = 1
    ema: float = 0.99
    share_at_max: float = 0.95
    rate: float = 4e-3
    only: tuple[str, ...] = ()
    after: str | None = "experts half"
    trunk: TrunkConfig = TRUNK
    learned_from: tuple[str, ...] = ()

    @property
    def network(self) -> DenoiserConfig:
        """The shape of the network."""
        gate = GateConfig(experts=len(self.views), top_k=self.top_k)
        return DenoiserConfig(trunk=self.trunk, gate=gate, experts=ExpertsConfig(views=self.views, width=self.width))


def uniform(width: int, after: str | None = None, trunk: TrunkConfig = TRUNK) -> Design:
    """One denoiser with layers of this width everywhere."""
    return Design(views=("plain",), width=width, top_k=1, rate=4e-3 if after else 8e-3, after=after, trunk=trunk)


def sources(design: Design) -> list[str]:
    """The embedded weights' scans, half of the label maps and one voxel size each, so that reading is soon done."""
    lines = []
    for scan in load_config(BASE).scans:
        if design.learned_from and not any(part in scan.path for part in design.learned_from):
            continue
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


def settings(design: Design, seed: int, args: argparse.Namespace, out: Path) -> str:
    """The TOML of one half of a training; paths are relative to its folder, so that a moved checkout goes on."""

    def near(path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), out)).as_posix()

    start = [] if design.after is None else [f'start = "{near(folder(design.after, seed, args) / "bundle")}"']
    lines = [
        f'like = "{near(BASE)}"',
        f'data = "{near(args.data)}"',
        'out = "."',
        f"seed = {seed}",
        f"minutes = {args.minutes / 2}",
        'clock = "cpu"',
        "batch = 8",
        f"ema = {design.ema}",
        "warmup = 30",
        f"rate = {design.rate}",
        "save_every = 100000",
        f"only = {json.dumps(design.only)}",
        *start,
        *sources(design),
        "[validation]",
        "label_maps = []",
        "[loss]",
        f"expert = {design.expert}",
        f"region = {design.region}",
        f"agreement = {design.agreement}",
        f"balance = {design.balance}",
        f"probe_every = {design.probe_every}",
        "[model.denoiser.trunk]",
        f"width = {design.trunk.width}",
        f"deep_width = {design.trunk.deep_width}",
        "[model.denoiser.gate]",
        f"experts = {len(design.views)}",
        f"top_k = {design.top_k}",
        "[model.denoiser.experts]",
        f"views = {json.dumps(design.views)}",
        f"width = {design.width}",
    ]
    if design.gradient:
        lines.insert(lines.index(f"balance = {design.balance}"), f"gradient = {design.gradient}")
    if design.share_at_max != Design.share_at_max:
        lines += ["[model.process]", f"share_at_max = {design.share_at_max}"]
    return "\n".join(lines) + "\n"


def folder(name: str, seed: int, args: argparse.Namespace) -> Path:
    """Where one half of a network of this name and seed lies."""
    found: Path = args.out.resolve() / name.replace(" ", "-") / str(seed)
    return found


def trained(name: str, design: Design, seed: int, args: argparse.Namespace) -> Path:
    """Bundle of one half of a training; made now unless it is there."""
    out = folder(name, seed, args)
    told, text = out / "train.toml", settings(design, seed, args, out)
    begun = told.is_file() and any((out / part).exists() for part in ("done", "checkpoint"))
    if begun and told.read_text(encoding="utf-8") != text:
        raise SystemExit(f"{out} was trained with other settings; move it away to train it anew")
    if not (out / "done").is_file():
        out.mkdir(parents=True, exist_ok=True)
        told.write_text(text, encoding="utf-8")
        load_config(told)
        command = [sys.executable, "-m", "moediff", "train", str(told), "--resume", "--quiet"]
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--processes", "1"], check=True, env=alone)
        (out / "done").touch()
    return out / "bundle"


def width_for(measure: Callable[[Design], float], goal: float) -> int:
    """The width of a uniform denoiser's layers, a multiple of 8, whose measure comes nearest to the goal."""
    return min(range(16, 513, 8), key=lambda width: abs(measure(uniform(width)) - goal))


def parameters(design: Design) -> float:
    """Weights of a network of this design."""
    with torch.device("meta"):
        return sum(p.numel() for p in Denoiser(design.network).parameters())
