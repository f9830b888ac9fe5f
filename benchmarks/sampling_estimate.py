"""How often a scan's sampling is recognised from its spectrum: simulated samplings of training and held-out heads.

python benchmarks/sampling_estimate.py
"""

from __future__ import annotations

from collections import Counter

import torch
from common import parser_of

from moediff.acquisition.degrade import degrade
from moediff.acquisition.noise import quiet_noise
from moediff.acquisition.normalisation import brain_scaling, foreground
from moediff.acquisition.operators import recipe_sampling
from moediff.acquisition.point_spread import WINDOWS, Sampling
from moediff.acquisition.recipe import NAMED, AxisRecipe, Recipe
from moediff.acquisition.sampling_estimate import estimate_axis, line_power
from moediff.core.config import rng_for
from moediff.core.errors import DataError
from moediff.core.geometry import centre_crop
from moediff.core.volume import Volume
from moediff.io.scans import load

SAMPLED = [
    *(Sampling(name) for name in ("truncate", "box", "bicubic", "gaussian")),
    *(Sampling(name, width) for name in WINDOWS for width in (1.0, 1.3) if (name, width) != ("truncate", 1.0)),
]


def estimates_of(low: Volume, axes: list[int]) -> list[Sampling | None]:
    """The window that every axis's spectrum shows; None where it shows none."""
    scaling = brain_scaling(low.data_XYZ, foreground(low.data_XYZ, low.spacing_mm), low.spacing_mm)
    scaled = scaling.apply(low.data_XYZ)
    noise = float(quiet_noise(scaled))
    powers = [line_power(scaled, axis) for axis in axes]
    return [estimate_axis(power, noise) for power in powers if power is not None]


def main() -> None:
    """Print what was estimated for each sampling."""
    parser = parser_of(__doc__, side=128, bundle=False)
    parser.add_argument("--folders", nargs="+", default=["train", "val"])
    parser.add_argument("--factors", type=float, nargs="+", default=[1.5, 2.0])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.02])
    args = parser.parse_args()
    kinds = {
        f"{one.words}, factor {factor:g}, noise {noise:g}": Recipe(
            axes=(AxisRecipe(method=one.method, factor=factor, thickness=one.width),) * 2 + (AxisRecipe(),), noise=noise
        )
        for one in SAMPLED
        for factor in args.factors
        for noise in args.noise
    } | {f"recipe {name}": NAMED[name] for name in ("low1.5", "iso1.5", "iso2", "inplane2", "mixed", "low-field")}
    estimates: dict[str, Counter[str]] = {kind: Counter[str]() for kind in (*kinds, "as it was acquired")}
    for folder in args.folders:
        for path in sorted((args.data / folder).glob("*.nii.gz")):
            scan = load(path).volume
            if max(scan.spacing_mm) > 1.3 or "mask" in path.name:
                continue
            truth = centre_crop(scan, args.side)
            truth = truth.with_data(truth.data_XYZ.float().clamp_min(0))
            try:
                for kind, recipe in kinds.items():
                    low = degrade(truth, recipe, rng_for(0, "estimate"))
                    axes = [a for a, one in enumerate(recipe_sampling(recipe.axes)) if one.method != "none"][:2]
                    estimates[kind].update(str(one and one.words) for one in estimates_of(low, axes))
                names = [str(one and one.words) for one in estimates_of(truth, [0, 1, 2])]
                estimates["as it was acquired"].update(f"{path.name[:12]} {name}" for name in names)
            except DataError as error:
                print(path.name, error)
    for kind, counter in estimates.items():
        print(f"{kind}: {dict(counter.most_common(5))}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
