"""Quality of a bundle on single persons: PSNR and SSIM inside the head against the better interpolation.

    python benchmarks/quality.py --data ../shared/data [--bundle DIR] [--json out.json]
    python benchmarks/quality.py --side 96 --folder train          # persons of the training data: shows overfitting
    python benchmarks/quality.py --child 0.85                      # the same voxels declared 15 % smaller
    python benchmarks/quality.py --depth --scans seg3d_T1w         # by depth under the surface of the head

Per scan of val/ and frozen recipe: gain over the better of cubic and zero-filled interpolation, then by kind of scan.
`--child` stands for a small head: nothing but sizes in millimetres changes.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from common import SCANS, markdown, mean, parser_of, report, write_rows

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.benchmark.cases import Case, Scan
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.memory import tune_allocator
from moediff.core.morphology import within
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import Scores, head_mask, score
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.naming import stem_of
from moediff.io.scans import load

FOLDERS = {
    "val": SCANS,
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
BASELINES = ("cubic", "zero-fill")
BAND_MM, BANDS = 6.0, 3  # scalp and skull lie in the first two
WITH_SKULL = ("seg3d_T1w", "forrest_T1w", "pysynthsr_FLAIR")  # the others are brains
KINDS = ("T1w", "T2w", "FLAIR", "T1c", "brain only", "with skull")


@dataclass(frozen=True, kw_only=True)
class Band:
    """A band under the surface of the head: shares of its voxels and of our squared error, and the gain."""

    from_mm: float
    voxels: float
    error: float
    gain_db: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scan and recipe; `gain_db` and `gain_ssim` are over the better interpolation."""

    scan: str
    recipe: str
    seconds: float
    scores: dict[str, Scores]
    gain_db: float
    gain_ssim: float
    depth: tuple[Band, ...] = ()


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


def evaluate(enhancer: Enhancer, path: Path, recipe: str, args: argparse.Namespace) -> Row:
    """One scan and recipe."""
    truth, low = case_of(path, recipe, args.side, args.child)
    mask = head_mask(truth.data_XYZ)
    start = time.perf_counter()
    options = EnhanceOptions(like=truth.grid, data_consistency=not args.no_data_consistency, tta=args.tta)
    volumes = {"ours": enhancer(low, options).volume}
    seconds = time.perf_counter() - start
    volumes |= {kernel: resample(low, truth.grid, kernel) for kernel in BASELINES}
    scores = {name: score(volume.data_XYZ, truth.data_XYZ, mask) for name, volume in volumes.items()}
    better = max(BASELINES, key=lambda name: scores[name].psnr)
    return Row(
        scan=stem_of(path),
        recipe=recipe,
        seconds=round(seconds, 1),
        scores=scores,
        gain_db=round(scores["ours"].psnr - scores[better].psnr, 3),
        gain_ssim=round(scores["ours"].ssim - max(scores[name].ssim for name in BASELINES), 4),
        depth=by_depth(volumes["ours"], volumes[better], truth, mask) if args.depth else (),
    )


def by_depth(ours: Volume, interpolated: Volume, truth: Volume, mask_XYZ: torch.Tensor) -> tuple[Band, ...]:
    """Bands under the surface of the head; the last is everything deeper."""
    square, before = ((volume.data_XYZ - truth.data_XYZ).double().square() for volume in (ours, interpolated))
    bands, above = [], ~mask_XYZ
    for number in range(BANDS + 1):
        upto = within(above, BAND_MM, truth.spacing_mm) if number < BANDS else torch.ones_like(mask_XYZ)
        band, above = upto & ~above, upto
        if bool(band.any()):
            bands.append(
                Band(
                    from_mm=number * BAND_MM,
                    voxels=float(band.sum() / mask_XYZ.sum()),
                    error=float(square[band].sum() / square[mask_XYZ].sum()),
                    gain_db=10 * math.log10(float(before[band].sum() / square[band].sum())),
                )
            )
    return tuple(bands)


def recipes_of(rows: Sequence[Row]) -> list[str]:
    """In order."""
    return list(dict.fromkeys(row.recipe for row in rows))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per scan; in each cell the gains in PSNR (dB) and SSIM."""
    recipes = recipes_of(rows)
    cells = {(row.scan, row.recipe): f"{row.gain_db:+.2f} / {row.gain_ssim:+.3f}" for row in rows}
    lines = [
        [scan, *(cells.get((scan, recipe), "-") for recipe in recipes)]
        for scan in dict.fromkeys(row.scan for row in rows)
    ]
    for title, name in (("mean dB", "gain_db"), ("mean SSIM", "gain_ssim")):
        values = [[getattr(row, name) for row in rows if row.recipe == recipe] for recipe in recipes]
        lines.append([f"**{title}**", *(f"{mean(own):+.3f}" for own in values)])
    return markdown(["scan", *recipes], lines)


def kinds_of(scan: str) -> list[str]:
    """The kinds that a scan counts for: its contrast, and brain or whole head."""
    contrast = scan.rsplit("_", 1)[1]
    contrast += "w" if contrast in ("T1", "T2") else ""
    return [contrast, "with skull" if scan in WITH_SKULL else "brain only"]


def table_by_kind(rows: Sequence[Row]) -> str:
    """Markdown: a line per kind of scan; in each cell the mean gain in dB and that of the worst scan."""
    recipes, lines = recipes_of(rows), []
    for kind in KINDS:
        own = [row for row in rows if kind in kinds_of(row.scan)]
        gains = [[row.gain_db for row in own if row.recipe == recipe] for recipe in recipes]
        cells = [f"{mean(values):+.2f} ({min(values):+.2f})" if values else "-" for values in gains]
        lines.append([f"{kind} ({len(gains[0])})", *cells])
    return markdown(["kind (scans)", *recipes], lines)


def table_by_depth(rows: Sequence[Row]) -> str:
    """Markdown: a line per scan and band; in each cell the gain in dB and the share of our squared error."""
    recipes, lines = recipes_of(rows), []
    bands = {(row.scan, row.recipe): row.depth for row in rows}
    for scan in dict.fromkeys(row.scan for row in rows):
        for across in zip(*(bands[scan, recipe] for recipe in recipes), strict=True):
            cells = (f"{band.gain_db:+.2f}, {band.error:.2f}" for band in across)
            lines.append([scan, f"{across[0].from_mm:g}", f"{across[0].voxels:.2f}", *cells])
    return markdown(["scan", "depth from, mm", "voxels", *recipes], lines)


def parsed() -> argparse.Namespace:
    """Options of the command line."""
    parser = parser_of(__doc__, recipes=("thick5", "low1.5", "iso2"))
    parser.add_argument("--folder", choices=list(FOLDERS), default="val")
    parser.add_argument("--scans", nargs="+", help="names without suffix (default: all of the folder that are sharp)")
    parser.add_argument("--side", type=int, default=0, help="judge the middle cube of this many voxels only")
    parser.add_argument("--child", type=float, default=1.0, help="declared voxel size over the true one")
    parser.add_argument("--tta", type=int, default=1, help="test-time augmentation by so many flips (1, 2, 4, 8)")
    parser.add_argument("--depth", action="store_true", help="also by depth under the surface of the head")
    parser.add_argument("--no-data-consistency", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Print a line per case, then the tables."""
    args = parsed()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    rows: list[Row] = []
    for recipe in args.recipes:
        for scan in args.scans or FOLDERS[args.folder]:
            rows.append(evaluate(enhancer, args.data / args.folder / f"{scan}.nii.gz", recipe, args))
            report(rows[-1])
    parts = [table(rows), table_by_kind(rows), *([table_by_depth(rows)] if args.depth else [])]
    print("\n\n".join(parts))
    write_rows(
        args.json,
        rows,
        bundle=enhancer.bundle.sha256,
        folder=args.folder,
        side=args.side,
        child=args.child,
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


if __name__ == "__main__":
    main()
