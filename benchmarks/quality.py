"""Quality of a bundle on held-out persons: PSNR and SSIM inside the head against the better interpolation.

    python benchmarks/quality.py --data ../shared/data [--bundle DIR] [--json out.json]

Per scan of val/ and frozen recipe: gain over the better of cubic and zero-filled interpolation.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from moediff.evaluation.cases import BEHAVIOUR_ONLY, Case, Scan
from moediff.evaluation.metrics import head_mask, score
from moediff.inference.engine import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.inference.outputs import stem_of
from moediff.memory import keep_memory
from moediff.simulate.recipe import NAMED
from moediff.volume.geometry import resample

SCANS = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w", "trio_b17_T1w")


def evaluate(enhancer: Enhancer, path: Path, recipe: str, consistency: bool) -> dict[str, object]:
    """One scan and recipe."""
    truth, low = Case(Scan(stem_of(path), path), NAMED[recipe], seed=0).make()
    mask = head_mask(truth.data_XYZ)
    start = time.perf_counter()
    result = enhancer(low, EnhanceOptions(like=truth.grid, consistency=consistency))
    seconds = time.perf_counter() - start
    row: dict[str, object] = {"scan": stem_of(path), "recipe": recipe, "seconds": round(seconds, 1)}
    volumes = {
        "cubic": resample(low, truth.grid, "cubic"),
        "zero-fill": resample(low, truth.grid, "zero-fill"),
        "ours": result.volume,
    }
    scores = {name: score(volume.data_XYZ, truth.data_XYZ, mask) for name, volume in volumes.items()}
    for name, value in scores.items():
        row |= {f"psnr_{name}": round(value.psnr, 3), f"ssim_{name}": round(value.ssim, 4)}
    row["gain_db"] = round(scores["ours"].psnr - max(scores["cubic"].psnr, scores["zero-fill"].psnr), 3)
    row["ssim_gain"] = round(scores["ours"].ssim - max(scores["cubic"].ssim, scores["zero-fill"].ssim), 4)
    return row


def table(rows: list[dict[str, object]]) -> str:
    """Markdown: a line per scan; in each cell the gains in PSNR (dB) and SSIM."""
    recipes, scans = (list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("recipe", "scan"))
    cells = {(row["scan"], row["recipe"]): f"{row['gain_db']:+.2f} / {row['ssim_gain']:+.3f}" for row in rows}
    lines = [f"| scan | {' | '.join(recipes)} |", "|---" * (1 + len(recipes)) + "|"]
    for scan in scans:
        note = " (behaviour only)" if scan in BEHAVIOUR_ONLY else ""
        lines.append(f"| {scan}{note} | {' | '.join(cells.get((scan, recipe), '-') for recipe in recipes)} |")
    for name, key in (("mean dB", "gain_db"), ("mean SSIM", "ssim_gain")):
        kept = {r: [float(str(row[key])) for row in rows if row["recipe"] == r and row["scan"] not in BEHAVIOUR_ONLY]
                for r in recipes}  # fmt: skip
        means = (f"{sum(values) / len(values):+.3f}" if values else "-" for values in kept.values())
        lines.append(f"| **{name}** | {' | '.join(means)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["thick5", "low1.5", "iso2"])
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--no-consistency", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    keep_memory()
    enhancer, rows = Enhancer(args.bundle), []
    for recipe in args.recipes:
        for scan in args.scans:
            rows.append(evaluate(enhancer, args.data / "val" / f"{scan}.nii.gz", recipe, not args.no_consistency))
            print(rows[-1], flush=True)
    print(table(rows))
    if args.json:
        about = {
            "bundle": enhancer.bundle.sha256,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
