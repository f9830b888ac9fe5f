"""Validation: degrade a scan, enhance it with the saved bundle, compare with the truth. The same path users take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moediff.config import rng_for
from moediff.evaluation.metrics import data_range, head_mask, psnr
from moediff.inference.engine import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.simulate.degrade import degrade
from moediff.simulate.recipe import NAMED
from moediff.volume.geometry import canonicalise
from moediff.volume.io import load


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Scans (paths under the data folder) and the names of frozen recipes."""

    scans: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ("thick5", "low1.5", "iso2")


def validate(bundle: Path, validation: Validation, data: Path) -> dict[str, float]:
    """PSNR gain over the interpolated input inside the head, in dB, by "scan/recipe" and as "mean/recipe"."""
    gains: dict[str, float] = {}
    if not validation.scans:
        return gains
    enhancer = Enhancer(bundle)
    for path in validation.scans:
        truth, _ = canonicalise(load(data / path).volume)
        mask = head_mask(truth.data_XYZ)
        span = data_range(truth.data_XYZ, mask)
        for recipe in validation.recipes:
            low = degrade(truth, NAMED[recipe], rng_for(0, Path(path).name, recipe))
            result = enhancer(low, EnhanceOptions(like=truth.grid))
            ours = psnr(result.volume.data_XYZ, truth.data_XYZ, mask, span)
            plain = psnr(result.interpolated.data_XYZ, truth.data_XYZ, mask, span)
            gains[f"{path}/{recipe}"] = ours - plain
    for recipe in validation.recipes:
        values = [gain for case, gain in gains.items() if case.endswith(f"/{recipe}")]
        gains[f"mean/{recipe}"] = sum(values) / len(values)
    return gains
