"""Cases, methods and command-line options that several benchmark scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

RECIPES = ("thick5", "low1.5", "iso2")


def predictions(
    low: Volume, truth: Volume, enhancers: dict[str, Enhancer], modes: Sequence[str]
) -> Iterator[tuple[str, Volume]]:
    """Method and result on the truth's grid."""
    for kernel in ("cubic", "zero-fill"):
        yield kernel, resample(low, truth.grid, kernel)
    for name, enhancer in enhancers.items():
        for mode in modes:
            yield f"{name} {mode}", enhancer(low, EnhanceOptions(like=truth.grid, mode=mode)).volume


def arguments(description: str | None) -> argparse.Namespace:
    """Options of a script that compares interpolation with several bundles."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--modes", nargs="+", default=["faithful", "detail"])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def enhancers_of(bundles: Sequence[str]) -> dict[str, Enhancer]:
    """The embedded bundle and those given as NAME=DIR."""
    return {"embedded": Enhancer()} | {
        name: Enhancer(Path(folder)) for name, folder in (given.split("=", 1) for given in bundles)
    }
