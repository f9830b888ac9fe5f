"""The whole training of the embedded weights, stage by stage, in slices that can be stopped and resumed without loss.

    python scripts/train_default.py [--minutes TOTAL] [--slice MIN] [--recipe auto|cpu|gpu] [--data DIR]

Each stage is a configuration of configs/ and begins with the bundle of the one before; then the head that foretells the
error and its scale are fitted, what real training scans look like is written down, and the result is compared with the
embedded weights on the validation cases of the last stage.
Running the same command again goes on where it stopped. "gpu" is chosen where torch sees a CUDA device: larger batches,
patches that grow, bfloat16, compiled blocks. Minutes of every stage are as configured (16 hours on two cores, 23
minutes on one fast GPU), or their share of --minutes. runs/training.svg shows how it went, runs/final/bundle is the
result; every stage keeps its best bundle by validation as well, on scans made from label maps kept out of training.
Nothing is installed into the package by itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from moediff.core.errors import TryAgain
from moediff.core.memory import tune_allocator
from moediff.model.bundle import load_bundle, save_bundle
from moediff.training.average import average_weights
from moediff.training.calibrate import (
    Calibration,
    HeadFit,
    StatisticsFit,
    calibrate,
    fit_statistics,
    fit_uncertainty_head,
)
from moediff.training.config import TrainConfig, load_config
from moediff.training.curves import write_curves
from moediff.training.patches import PatchSource
from moediff.training.sources import load_heads
from moediff.training.validate import validate

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True)
class Recipe:
    """Stages in turn, and which of them begin with the average of two before: by their names, folder and those two."""

    stages: tuple[str, ...]
    averages: dict[str, tuple[str, str, str]] = field(default_factory=dict)


RECIPES = {
    "cpu": Recipe(
        (
            "uniform",
            "default",
            "longer",
            "wide",
            "home",
            "lesions",
            "home-again",
            "finer",
            "home-last",
            "finest",
            "home-final",
            "longest",
            "longest-again",
            "home-longest",
            "longest-third",
            "home-third",
            "gate",
            "gate-even",
            "gate-rare",
            "home-fourth",
            "home-fifth",
        ),
        averages={
            "home": ("average", "longer", "wide"),
            "gate": ("average-third", "home-longest", "home-third"),
        },
    ),
    "gpu": Recipe(("gpu-uniform", "gpu-experts", "gpu-home")),
}


def command(stage: str, args: argparse.Namespace, minutes: float | None) -> list[str]:
    """`moediff train` for one slice of one stage."""
    budget = [] if minutes is None else ["--minutes", f"{minutes:.2f}"]
    data = [] if args.data is None else ["--data", str(args.data)]
    call = [sys.executable, "-m", "moediff", "train", str(args.configs / f"{stage}.toml")]
    return [*call, "--resume", "--slice", str(args.slice), *budget, *data]


def run_stage(stage: str, args: argparse.Namespace, minutes: float | None) -> int:
    """All slices of a stage; 0, or the exit code of the command that failed."""
    code = TryAgain.exit_code
    while code == TryAgain.exit_code:
        code = subprocess.run(command(stage, args, minutes), check=False).returncode
        if code == TryAgain.exit_code and args.one_slice:
            break
    return code


def average(one: Path, other: Path, out: Path) -> None:
    """Write the bundle whose weights are the mean of two."""
    first, second = load_bundle(one), load_bundle(other)
    provenance = {**second.provenance, "averaged_from": [first.sha256, second.sha256]}
    save_bundle(out, second.config, average_weights([first, second]), provenance)


def fit_head(args: argparse.Namespace, last: str, runs: Path) -> None:
    """Uncertainty head, its scale, and out-of-distribution statistics, fitted to the last stage."""
    tune_allocator()
    config, final = load_config(args.configs / f"{last}.toml"), runs / "final" / "bundle"
    data, device = args.data or Path(config.data), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bundle, options = load_bundle(runs / last / "bundle", device), HeadFit(patches=args.patches)
    keep = None if config.cache is None else Path(config.cache)
    source = PatchSource(
        heads=[head.to(device) for head in load_heads(config.scans, data, config.seed, keep)],
        patch=config.patch,
        seed=options.seed,
        settings=bundle.config.prepare,
        ranges=config.recipes,
        augment=config.augment,
    )
    made = fit_uncertainty_head(bundle, source, options)
    provenance = {**bundle.provenance, "error_head": made.record}
    save_bundle(final, made.config, made.weights, provenance)
    made = calibrate(load_bundle(final), config.scans, data, Calibration())
    provenance |= {"error_scale": made.record}
    save_bundle(final, made.config, made.weights, provenance)
    made = fit_statistics(load_bundle(final), config.scans, data, StatisticsFit())
    save_bundle(final, made.config, made.weights, provenance)


def compare(config: TrainConfig, final: Path) -> dict[str, dict[str, float]]:
    """Gains of the new and of the embedded bundle on the last stage's validation cases; also as runs/compared.json."""
    bundles = {"new": final, "embedded": None}
    gains = {name: validate(path, config.validation, Path(config.data)) for name, path in bundles.items()}
    (final.parent.parent / "compared.json").write_text(json.dumps(gains, indent=1), encoding="utf-8")
    for case in gains["new"]:
        print(f"{case}: {gains['new'][case]:+.3f} dB, embedded {gains['embedded'][case]:+.3f} dB")
    return gains


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="time of all stages together (default: as configured)")
    parser.add_argument("--slice", type=float, default=9.0, help="minutes between restarts (default 9)")
    parser.add_argument(
        "--one-slice", action="store_true", help="end after one slice, with exit code 75 to be run again"
    )
    parser.add_argument("--recipe", choices=["auto", *RECIPES], default="auto")
    parser.add_argument("--data", type=Path, help="where the scans lie (default: as configured)")
    parser.add_argument("--patches", type=int, default=150, help="for the head that foretells the error")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of the stages' configurations")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run every stage to its end; returns the exit code of the first command that failed."""
    args = parsed(words)
    found = "gpu" if torch.cuda.is_available() else "cpu"
    recipe = RECIPES[found if args.recipe == "auto" else args.recipe]
    configs = {stage: load_config(args.configs / f"{stage}.toml") for stage in recipe.stages}
    runs = Path(configs[recipe.stages[0]].out).parent
    share = None if args.minutes is None else args.minutes / sum(config.minutes or 0.0 for config in configs.values())
    for stage in recipe.stages:
        if stage in recipe.averages:
            result, one, other = (runs / name / "bundle" for name in recipe.averages[stage])
            average(one, other, result)
        code = run_stage(stage, args, None if share is None else share * (configs[stage].minutes or 0.0))
        begun = [runs / name for name in recipe.stages if (runs / name / "losses.csv").is_file()]
        write_curves(begun, runs / "training.svg")
        if code:
            return code
    last = recipe.stages[-1]
    fit_head(args, last, runs)
    judged = configs[last] if args.data is None else replace(configs[last], data=str(args.data))
    compare(judged, runs / "final" / "bundle")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
