"""Quality of a bundle on held-out persons: PSNR and SSIM inside the head against the better interpolation.

    python benchmarks/quality.py --data ../shared/data [--bundle DIR] [--json out.json]
    python benchmarks/quality.py --side 96 --folder train          # persons it learned from: the gap to the others
    python benchmarks/quality.py --child 0.85                      # the same voxels declared 15 % smaller
    python benchmarks/quality.py --depth --scans seg3d_T1w         # by depth under the surface of the head

Per scan of val/ and frozen recipe: gain over the better of cubic and zero-filled interpolation, then by kind of scan.
`--child` stands for a small head: nothing but sizes in millimetres changes.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import common
import torch

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.anatomy.regions import within
from moediff.benchmark.cases import Case, Scan
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import head_mask, score
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.naming import stem_of
from moediff.io.scans import load

SCANS = {
    "val": common.SCANS,
    "train": (
        "M2208_T2w",
        "cstar_stroke_FLAIR",
        "cstar_stroke_T1",
        "cstar_stroke_T2",
        "forrest_T1w",
        "mrgd_T1c",
        "niimath_T1w",
        "pysynthsr_FLAIR",
    ),
}
BAND_MM, BANDS = 6.0, 3  # scalp and skull lie in the first two
WITH_SKULL = ("seg3d_T1w", "forrest_T1w", "pysynthsr_FLAIR")  # the others are brains


def case_of(path: Path, recipe: str, side: int, child: float) -> tuple[Volume, Volume]:
    """Truth and low-resolution scan, of the middle cube where `side` is not 0, declared `child` times as large."""
    scan = Scan(stem_of(path), path)
    if not side and child == 1:
        return Case(scan, NAMED[recipe], seed=0).acquire()
    truth = load(path).volume
    truth = centre_crop(truth, side) if side else truth
    size = torch.tensor([child, child, child, 1], dtype=torch.float64)
    truth = Volume(truth.data_XYZ, truth.affine * size)
    return truth, degrade(truth, NAMED[recipe], rng_for(0, path.name, recipe))


def evaluate(enhancer: Enhancer, path: Path, recipe: str, args: argparse.Namespace) -> dict[str, object]:
    """One scan and recipe."""
    truth, low = case_of(path, recipe, args.side, args.child)
    consistency = not args.no_consistency
    mask = head_mask(truth.data_XYZ)
    start = time.perf_counter()
    result = enhancer(low, EnhanceOptions(like=truth.grid, consistency=consistency, mirrors=args.mirrors))
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
    better = max(("cubic", "zero-fill"), key=lambda name: scores[name].psnr)
    row["gain_db"] = round(scores["ours"].psnr - scores[better].psnr, 3)
    if args.depth:
        row["depth"] = by_depth(volumes["ours"], volumes[better], truth, mask)
    row["ssim_gain"] = round(scores["ours"].ssim - max(scores["cubic"].ssim, scores["zero-fill"].ssim), 4)
    return row


def by_depth(ours: Volume, plain: Volume, truth: Volume, mask_XYZ: torch.Tensor) -> list[dict[str, float]]:
    """Per band under the surface of the head: share of its voxels and of our squared error, and the gain in dB."""
    square, before = ((volume.data_XYZ - truth.data_XYZ).double().square() for volume in (ours, plain))
    bands, above = [], ~mask_XYZ
    for number in range(BANDS + 1):
        upto = within(above, BAND_MM, truth.spacing_mm) if number < BANDS else torch.ones_like(mask_XYZ)
        band, above = upto & ~above, upto
        if not bool(band.any()):
            continue
        gain = 10 * math.log10(float(before[band].sum() / square[band].sum()))
        bands.append(
            {
                "from_mm": number * BAND_MM,
                "voxels": round(float(band.sum() / mask_XYZ.sum()), 3),
                "error": round(float(square[band].sum() / square[mask_XYZ].sum()), 3),
                "gain_db": round(gain, 2),
            }
        )
    return bands


def table(rows: list[dict[str, object]]) -> str:
    """Markdown: a line per scan; in each cell the gains in PSNR (dB) and SSIM."""
    recipes, scans = (list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("recipe", "scan"))
    cells = {(row["scan"], row["recipe"]): f"{row['gain_db']:+.2f} / {row['ssim_gain']:+.3f}" for row in rows}
    lines = [f"| scan | {' | '.join(recipes)} |", "|---" * (1 + len(recipes)) + "|"]
    for scan in scans:
        lines.append(f"| {scan} | {' | '.join(cells.get((scan, recipe), '-') for recipe in recipes)} |")
    for name, key in (("mean dB", "gain_db"), ("mean SSIM", "ssim_gain")):
        kept = {r: [float(str(row[key])) for row in rows if row["recipe"] == r] for r in recipes}
        means = (f"{sum(values) / len(values):+.3f}" if values else "-" for values in kept.values())
        lines.append(f"| **{name}** | {' | '.join(means)} |")
    return "\n".join(lines)


def kinds_of(scan: str) -> list[str]:
    """The kinds that a scan counts for: its contrast, and brain or whole head."""
    contrast = scan.rsplit("_", 1)[1]
    contrast += "w" if contrast in ("T1", "T2") else ""
    return [contrast, "with skull" if scan in WITH_SKULL else "brain only"]


def table_by_kind(rows: list[dict[str, object]]) -> str:
    """Markdown: a line per kind of scan; in each cell the mean gain in dB and that of the worst scan."""
    recipes = list(dict.fromkeys(str(row["recipe"]) for row in rows))
    lines = [f"| kind (scans) | {' | '.join(recipes)} |", "|---" * (1 + len(recipes)) + "|"]
    for kind in ("T1w", "T2w", "FLAIR", "T1c", "brain only", "with skull"):
        of_kind = [row for row in rows if kind in kinds_of(str(row["scan"]))]
        gains = [[float(str(row["gain_db"])) for row in of_kind if row["recipe"] == recipe] for recipe in recipes]
        cells = [f"{sum(values) / len(values):+.2f} ({min(values):+.2f})" if values else "-" for values in gains]
        lines.append(f"| {kind} ({len(gains[0])}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_by_depth(rows: list[dict[str, object]]) -> str:
    """Markdown: a line per scan and band; in each cell the gain in dB and the share of our squared error."""
    recipes, scans = (list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("recipe", "scan"))
    bands = {(row["scan"], row["recipe"]): row["depth"] for row in rows}
    lines = [f"| scan | depth from, mm | voxels | {' | '.join(recipes)} |", "|---" * (3 + len(recipes)) + "|"]
    for scan in scans:
        for band in zip(*(bands[scan, recipe] for recipe in recipes), strict=True):
            cells = " | ".join(f"{part['gain_db']:+.2f}, {part['error']:.2f}" for part in band)
            lines.append(f"| {scan} | {band[0]['from_mm']:g} | {band[0]['voxels']:.2f} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["thick5", "low1.5", "iso2"])
    parser.add_argument("--folder", choices=list(SCANS), default="val")
    parser.add_argument("--scans", nargs="+", help="names without suffix (default: all of the folder that are sharp)")
    parser.add_argument("--side", type=int, default=0, help="judge the middle cube of this many voxels only")
    parser.add_argument("--child", type=float, default=1.0, help="declared voxel size over the true one")
    parser.add_argument("--mirrors", type=int, default=1, help="average over so many mirrored readings (1, 2, 4, 8)")
    parser.add_argument("--depth", action="store_true", help="also by depth under the surface of the head")
    parser.add_argument("--no-consistency", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tune_allocator()
    enhancer, rows = Enhancer(args.bundle), []
    for recipe in args.recipes:
        for scan in args.scans or SCANS[args.folder]:
            rows.append(evaluate(enhancer, args.data / args.folder / f"{scan}.nii.gz", recipe, args))
            print(rows[-1], file=sys.stderr)
    parts = [table(rows), table_by_kind(rows), *([table_by_depth(rows)] if args.depth else [])]
    print("\n\n".join(parts))
    if args.json:
        about = {
            "bundle": enhancer.bundle.sha256,
            "folder": args.folder,
            "side": args.side,
            "child": args.child,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
