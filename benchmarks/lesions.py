"""What becomes of outlined lesions: degraded, then interpolated or enhanced, against the original scan.

    python benchmarks/lesions.py --data ../shared/data [--bundle NAME=DIR ...] [--recipes thick5] [--json out.json]

A bundle called "embedded" is always judged; a uniform denoiser can be given beside it. The rule: docs/metrics.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moediff.acquisition.recipe import NAMED
from moediff.benchmark.cases import Case, Scan
from moediff.core.geometry import canonicalise, resample
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.evaluation.evaluate import Drawn, EvaluateOptions, evaluate
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

CASES = {"ljms07_FLAIR": "ljms07_mask", "M2307_T2w": "M2307_mask"}
RECIPES = ("thick5", "low1.5", "iso2")
SHOWN = ("count", "lost", "invented", "contrast_kept", "dice", "volume_pred_ml", "volume_ref_ml")


def predictions(
    low: Volume, truth: Volume, enhancers: dict[str, Enhancer], modes: Sequence[str]
) -> Iterator[tuple[str, Volume]]:
    """Method and result on the truth's grid."""
    for kernel in ("cubic", "zero-fill"):
        yield kernel, resample(low, truth.grid, kernel)
    for name, enhancer in enhancers.items():
        for mode in modes:
            yield f"{name} {mode}", enhancer(low, EnhanceOptions(like=truth.grid, mode=mode)).volume


def arguments(described: str | None) -> argparse.Namespace:
    """Options that tables of parts and of lesions share."""
    parser = argparse.ArgumentParser(description=described, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def main() -> None:
    """Print a row per method, scan and recipe."""
    args = arguments(__doc__)
    keep_memory()
    enhancers = enhancers_of(args.bundle)
    rows: list[dict[str, Any]] = []
    print(f"| scan | recipe | method | {' | '.join(SHOWN)} |\n" + "|---" * (len(SHOWN) + 3) + "|")
    for scan, mask in CASES.items():
        lesions, _ = canonicalise(load(args.data / "val" / f"{mask}.nii.gz").volume)
        for recipe in args.recipes:
            truth, low = Case(Scan(scan, args.data / "val" / f"{scan}.nii.gz"), NAMED[recipe], seed=0).make()
            for method, volume in predictions(low, truth, enhancers, args.modes):
                options = EvaluateOptions(metrics=("psnr",))
                found = evaluate(volume, truth, options, drawn=Drawn(lesions=lesions))["lesions"]
                rows.append({"scan": scan, "recipe": recipe, "method": method} | found)
                cells = " | ".join(f"{found[key]:.3g}" for key in SHOWN)
                print(f"| {scan} | {recipe} | {method} | {cells} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"bundle": enhancers["embedded"].bundle.sha256, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
