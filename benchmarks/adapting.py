"""What weights gain by learning on from the thick-slice scan that they are to enhance.

    python benchmarks/adapting.py --data ../shared/data [--scans fsf_T1w] [--recipes thick5 thick3] [--side 128]

Held-out scans are degraded, the weights adapt to each degraded scan alone (`moediff.training.adapt`), and the scan is
enhanced before and after, with the weights part of the way and all of it (`--shares`). Gain in dB PSNR over the better
of cubic and zero-filling; SSIM and HaarPSI; the share of errors inside the 90 % interval that is foretold.
The truth serves the last step only.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from quality import SCANS, case_of

from moediff.core.geometry import resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, score
from moediff.evaluation.metrics.haarpsi import haarpsi
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import from_volume
from moediff.model.bundle import Bundle, load_bundle
from moediff.training.adapt import AdaptOptions, adapt, part_way

INSIDE_90 = 1.645
ROWS = ("gain_db", "ssim", "haarpsi", "coverage")


def interpolated_db(low: Volume, truth: Volume) -> float:
    """PSNR of the better of two interpolations."""
    results = (resample(low, truth.grid, kernel).data_XYZ for kernel in ("cubic", "zero-fill"))
    return max(score(data, truth.data_XYZ, head_mask(truth.data_XYZ)).psnr for data in results)


def judged(bundle: Bundle, low: Volume, truth: Volume, plain_db: float, mode: str) -> dict[str, float]:
    """What the bundle makes of a degraded scan."""
    mask = head_mask(truth.data_XYZ)
    top = data_range(truth.data_XYZ, mask)
    result = Enhancer(bundle)(low, EnhanceOptions(like=truth.grid, mode=mode))
    ours = score(result.volume.data_XYZ, truth.data_XYZ, mask)
    told = {
        "gain_db": ours.psnr - plain_db,
        "ssim": ours.ssim,
        "haarpsi": haarpsi(result.volume.data_XYZ, truth.data_XYZ, mask, top),
    }
    if result.uncertainty is not None:
        wrong = (result.volume.data_XYZ - truth.data_XYZ).abs()
        told["coverage"] = float((wrong <= INSIDE_90 * result.uncertainty.data_XYZ)[mask].double().mean())
    return told


def row(bundle: Bundle, path: Path, recipe: str, args: argparse.Namespace, options: AdaptOptions) -> dict[str, Any]:
    """One scan and recipe: before, after by share, and what it took."""
    truth, low = case_of(path, recipe, args.side, 1.0)
    start = time.perf_counter()
    adapted = adapt([from_volume(low)], bundle, options, goal=EnhanceOptions(like=truth.grid))
    seconds = round(time.perf_counter() - start, 1)
    plain_db, after = interpolated_db(low, truth), {}
    for share in args.shares:
        denoiser = part_way(bundle.denoiser, copy.deepcopy(adapted.denoiser), share)
        after[str(share)] = judged(replace(adapted, denoiser=denoiser), low, truth, plain_db, args.mode)
    told = {"scan": path.name.removesuffix(".nii.gz"), "recipe": recipe, "adapt_s": seconds}
    own = adapted.provenance["adapted"]["error_over_interpolation"]
    return {**told, "own": own, "before": judged(bundle, low, truth, plain_db, args.mode), "after": after}


def table(rows: list[dict[str, Any]], shares: list[float]) -> str:
    """Markdown: before -> after by share for every scan, and the mean change of each recipe."""
    lines = ["| scan | recipe | gain, dB | SSIM | HaarPSI | inside the 90 % interval |", "|---" * 6 + "|"]
    for told in rows:
        steps = [told["before"], *told["after"].values()]
        cells = [" -> ".join(f"{step[key]:.3f}" if key in step else "-" for step in steps) for key in ROWS]
        lines.append(f"| {told['scan']} | {told['recipe']} | {' | '.join(cells)} |")
    for recipe in dict.fromkeys(told["recipe"] for told in rows):
        of = [told for told in rows if told["recipe"] == recipe]
        won = [sum(t["after"][str(s)]["gain_db"] - t["before"]["gain_db"] for t in of) / len(of) for s in shares]
        lines.append(f"| **mean** | {recipe} | {' '.join(f'{change:+.3f}' for change in won)} | | | |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--scans", nargs="+", default=list(SCANS["val"]))
    parser.add_argument("--recipes", nargs="+", default=["thick5", "thick3"])
    parser.add_argument("--side", type=int, default=128, help="the middle cube of this many voxels; 0 takes all")
    parser.add_argument("--mode", default="faithful", choices=("faithful", "detail"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[AdaptOptions.share, 1.0])
    for field in [field for field in fields(AdaptOptions) if field.name != "share"]:
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = parser.parse_args()
    tune_allocator()
    chosen = {field.name: getattr(args, field.name) for field in fields(AdaptOptions) if field.name != "share"}
    options = AdaptOptions(**chosen, share=1.0)
    bundle, rows = load_bundle(args.bundle), []
    for recipe in args.recipes:
        for scan in args.scans:
            rows.append(row(bundle, args.data / "val" / f"{scan}.nii.gz", recipe, args, options))
            print(rows[-1], file=sys.stderr)
    print(table(rows, args.shares))
    if args.json:
        told = {"bundle": bundle.sha256, "threads": torch.get_num_threads(), "options": vars(args), "rows": rows}
        args.json.write_text(json.dumps(told, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
