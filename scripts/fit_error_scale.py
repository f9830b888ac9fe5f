"""The factor from foretold to actual errors, fitted so that 90 % intervals hold 90 % of a training person's voxels.

    python scripts/fit_error_scale.py BUNDLE OUT [--config configs/home-fifth.toml] [--side 96] [--data DIR]

The middle of every real training scan is degraded by frozen recipes (a pair is taken as it was measured) and enhanced
as `enhance` does it. One factor is chosen, at which intervals hold 90 % of voxels in the mean of all cases, as in split
conformal prediction (Angelopoulos and Bates 2021, arXiv 2107.07511), but that cases count, not voxels, since those of
one scan err together. Weights stay as they are. The network must not know the scans by heart; that the embedded weights
do not is measured (LOG.md, 2026-11-27). Axes: V voxels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.core.geometry import canonicalise, middle
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.evaluation.calibration import AIMED, half_width
from moediff.evaluation.metrics.fidelity import head_mask
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load
from moediff.model.bundle import load_bundle, save_bundle
from moediff.training.cache import ScanSource
from moediff.training.config import load_config

RECIPES = ("thick3", "thick5", "low1.5", "iso2")
SHARE = AIMED / 100
HALF_WIDTH = half_width(AIMED)
WIDEST = 100.0  # times what was foretold


def cases(source: ScanSource, data: Path, side: int) -> Iterator[tuple[str, Volume, Volume]]:
    """Name, what the scanner would have given, truth."""
    truth = middle(canonicalise(load(data / source.path).volume)[0], side)
    if source.input is not None:
        yield source.input, load(data / source.input).volume, truth
        return
    for recipe in RECIPES:
        yield f"{source.path} {recipe}", degrade(truth, NAMED[recipe], rng_for(0, source.path, recipe)), truth


def ratios(enhancer: Enhancer, low: Volume, truth: Volume) -> Tensor:
    """Absolute error over half the width of its 90 % interval, voxels of the head [V]."""
    result = enhancer(low, EnhanceOptions(like=truth.grid))
    assert result.uncertainty is not None
    spread_XYZ = result.uncertainty.data_XYZ
    known = head_mask(truth.data_XYZ) & (spread_XYZ > 0)
    return ((result.volume.data_XYZ - truth.data_XYZ).abs() / (HALF_WIDTH * spread_XYZ))[known]


def covered(found: Sequence[Tensor], factor: float) -> float:
    """Share of voxels inside intervals that are so many times as wide, mean of the cases."""
    return sum(float((ratio_V <= factor).double().mean()) for ratio_V in found) / len(found)


def fitted(found: Sequence[Tensor]) -> float:
    """The factor at which intervals hold 90 % in the mean of the cases.

    Raises:
        DataError: not even intervals a hundred times as wide do.
    """
    below, above = 0.0, WIDEST
    if covered(found, above) < SHARE:
        raise DataError(f"intervals {WIDEST:g} times as wide hold under {SHARE:g} of voxels: fit the error head first")
    for _ in range(30):
        factor = (below + above) / 2
        below, above = (below, factor) if covered(found, factor) >= SHARE else (factor, above)
    return above


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--config", type=Path, default=Path(__file__).resolve().parent.parent / "configs" / "home-fifth.toml"
    )
    parser.add_argument("--side", type=int, default=96, help="of the middle that is read, voxels")
    parser.add_argument("--data", type=Path, help="where the scans lie (default: as configured)")
    args = parser.parse_args()
    keep_memory()
    config, bundle = load_config(args.config), load_bundle(args.bundle)
    enhancer, data, found = Enhancer(bundle), args.data or Path(config.data), []
    for source in config.scans:
        if source.labels or source.prepared:
            continue
        for name, low, truth in cases(source, data, args.side):
            found.append(ratios(enhancer, low, truth))
            print(f"{name}: {covered(found[-1:], 1):.3f} inside", flush=True)
    if not found:  # hours of training on label maps alone shall not end in an error
        save_bundle(args.out, bundle.config, bundle.denoiser.state_dict(), bundle.provenance)
        print(f"{args.out}: no real scans are listed, so error_scale stays {bundle.config.error_scale}")
        return
    factor = fitted(found)
    told = {"cases": len(found), "side": args.side, "covered_before": round(covered(found, 1), 4)}
    config_now = replace(bundle.config, error_scale=round(bundle.config.error_scale * factor, 4))
    save_bundle(args.out, config_now, bundle.denoiser.state_dict(), {**bundle.provenance, "error_scale": told})
    print(f"{args.out}: error_scale {config_now.error_scale} ({factor:.3f} of before), {len(found)} cases")


if __name__ == "__main__":
    main()
