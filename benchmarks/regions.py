"""Errors region by region: degraded, then interpolated or enhanced, against the original scan.

    python benchmarks/regions.py --data ../shared/data [--bundle NAME=DIR ...] [--recipes thick5] [--json out.json]

PSNR in dB by region, for the scans of val/ whose tissues can be told apart; the others are named and left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lesions import arguments, enhancers_of, predictions

from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import REGIONS
from moediff.benchmark.cases import Case, find_scans
from moediff.core.errors import DataError
from moediff.core.geometry import canonicalise
from moediff.core.memory import keep_memory
from moediff.evaluation.evaluate import EvaluateOptions, evaluate
from moediff.evaluation.per_region import named_parts
from moediff.io.scans import load


def distinct(path: Path) -> bool:
    """Whether the tissues of a scan can be told apart; says so where they cannot."""
    try:
        named_parts(canonicalise(load(path).volume)[0], None)
    except DataError as error:
        print(f"{path.name}: {error}", flush=True)
        return False
    return True


def main() -> None:
    """Print a row per method, scan and recipe."""
    args = arguments(__doc__)
    keep_memory()
    enhancers = enhancers_of(args.bundle)
    scans = [scan for scan in find_scans(args.data) if distinct(scan.path)]
    rows: list[dict[str, Any]] = []
    print(f"| scan | recipe | method | {' | '.join(REGIONS)} |\n" + "|---" * (len(REGIONS) + 3) + "|")
    for scan in scans:
        for recipe in args.recipes:
            truth, low = Case(scan, NAMED[recipe], seed=0).make()
            for method, volume in predictions(low, truth, enhancers, args.modes):
                parts = evaluate(volume, truth, EvaluateOptions(metrics=("psnr",), regions=True))["parts"]
                rows.append({"scan": scan.name, "recipe": recipe, "method": method, "parts": parts})
                cells = " | ".join(f"{parts[name]['psnr']:.2f}" if name in parts else "-" for name in REGIONS)
                print(f"| {scan.name} | {recipe} | {method} | {cells} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"bundle": enhancers["embedded"].bundle.sha256, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
