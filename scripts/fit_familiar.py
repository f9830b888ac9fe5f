"""What real training scans look like to a bundle's encoder, written into the bundle for its out-of-distribution score.

    python scripts/fit_familiar.py BUNDLE OUT [--config configs/home.toml] [--data DIR]

Every real training scan of the configuration is degraded by frozen recipes and read as `enhance` reads it. Weights stay
as they are. Label maps are left out: the score is to tell real heads from what is none.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import prepare
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.inference.grid_plan import aligned_grid, target_grid
from moediff.inference.options import EnhanceOptions
from moediff.inference.out_of_distribution import statistics
from moediff.inference.tiling import frame
from moediff.io.scans import load
from moediff.model.bundle import Bundle, Familiar, load_bundle, save_bundle
from moediff.training.config import load_config

RECIPES = ("thick5", "low1.5", "iso2")
LEAST_SPREAD = 1e-3
FEWEST = 4  # scans; fewer say nothing of how much scans differ


@torch.no_grad()
def seen(bundle: Bundle, scan: Volume) -> torch.Tensor:
    """Token statistics of one scan, on the grid that `enhance` takes by default."""
    goal = aligned_grid(scan.grid, target_grid(scan.grid, EnhanceOptions()))
    return statistics(frame(bundle.denoiser, prepare(scan, goal, bundle.config.prepare)))


def fitted(bundle: Bundle, paths: list[Path]) -> Familiar | None:
    """Over all scans and recipes; None where there are too few scans."""
    if len(paths) < FEWEST:
        return None
    found = []
    for path in paths:
        truth, _ = canonicalise(load(path).volume)
        for name in RECIPES:
            found.append(seen(bundle, degrade(truth, NAMED[name], rng_for(0, path.name, name))))
    table = torch.stack(found).double()
    spread = table.std(0).clamp_min(LEAST_SPREAD)
    return Familiar(
        mean=tuple(round(v, 5) for v in table.mean(0).tolist()), spread=tuple(round(v, 5) for v in spread.tolist())
    )


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=Path(__file__).resolve().parent.parent / "configs" / "home.toml")
    parser.add_argument("--data", type=Path, help="where the scans lie (default: as configured)")
    args = parser.parse_args()
    keep_memory()
    config, bundle = load_config(args.config), load_bundle(args.bundle)
    paths = [(args.data or Path(config.data)) / scan.path for scan in config.scans if not scan.labels]
    familiar = fitted(bundle, paths)
    save_bundle(args.out, replace(bundle.config, familiar=familiar), bundle.denoiser.state_dict(), bundle.provenance)
    print(f"{args.out}: {len(paths)} scans" + ("" if familiar else ", too few; no score"))


if __name__ == "__main__":
    main()
