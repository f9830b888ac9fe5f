"""Self-supervised fine-tuning on the thick-slice scan that is to be enhanced (`--adapt`): its gain.

    python benchmarks/adapting.py --data ../shared/data [--scans fsf_T1w] [--recipes thick5 thick3] [--side 128]

Held-out scans are degraded, the weights adapt to each degraded scan alone (`moediff.training.adapt`), and the scan is
enhanced before and after, with the weights part of the way and all of it (`--shares`). Gain in dB PSNR over the better
of cubic and zero-filling; SSIM and HaarPSI; the share of errors inside the predicted 90 % interval.
The truth is used in the last step only.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from common import SCANS, markdown, mean, parser_of, report, write_rows
from quality import case_of

from moediff.core.geometry import resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.calibration import half_width
from moediff.evaluation.metrics.fidelity import data_range, head_mask, score
from moediff.evaluation.metrics.haarpsi import haarpsi
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import from_volume
from moediff.model.bundle import Bundle, load_bundle
from moediff.training.adapt import AdaptOptions, adapt, part_way


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One bundle on one scan; `coverage` of the 90 % interval where the bundle predicts its error."""

    gain_db: float
    ssim: float
    haarpsi: float
    coverage: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scan and recipe: scores before, and after by share.

    Args:
        adapt_s: seconds of fine-tuning.
        error_over_interpolation: before and after, as fine-tuning measured it.
    """

    scan: str
    recipe: str
    adapt_s: float
    error_over_interpolation: object
    before: Scores
    after: dict[str, Scores]


def interpolated_db(low: Volume, truth: Volume) -> float:
    """PSNR of the better of two interpolations."""
    results = (resample(low, truth.grid, kernel).data_XYZ for kernel in ("cubic", "zero-fill"))
    return max(score(data, truth.data_XYZ, head_mask(truth.data_XYZ)).psnr for data in results)


def evaluate(bundle: Bundle, low: Volume, truth: Volume, interpolated_psnr: float, mode: str) -> Scores:
    """Scores of a bundle on a degraded scan."""
    mask = head_mask(truth.data_XYZ)
    top = data_range(truth.data_XYZ, mask)
    result = Enhancer(bundle)(low, EnhanceOptions(like=truth.grid, mode=mode))
    ours, coverage = score(result.volume.data_XYZ, truth.data_XYZ, mask), None
    if result.uncertainty is not None:
        error_XYZ = (result.volume.data_XYZ - truth.data_XYZ).abs()
        inside_XYZ = error_XYZ <= half_width(90) * result.uncertainty.data_XYZ
        coverage = float(inside_XYZ[mask].double().mean())
    return Scores(
        gain_db=ours.psnr - interpolated_psnr,
        ssim=ours.ssim,
        haarpsi=haarpsi(result.volume.data_XYZ, truth.data_XYZ, mask, top),
        coverage=coverage,
    )


def row_of(bundle: Bundle, path: Path, recipe: str, args: argparse.Namespace, options: AdaptOptions) -> Row:
    """One scan and recipe."""
    truth, low = case_of(path, recipe, args.side, 1.0)
    scan = from_volume(low)
    plans = [plan_grids(scan, EnhanceOptions(like=truth.grid))]
    start = time.perf_counter()
    adapted = adapt([scan], bundle, options, plans=plans)
    seconds = round(time.perf_counter() - start, 1)
    psnr, after = interpolated_db(low, truth), {}
    for share in args.shares:
        denoiser = part_way(bundle.denoiser, copy.deepcopy(adapted.denoiser), share)
        after[str(share)] = evaluate(replace(adapted, denoiser=denoiser), low, truth, psnr, args.mode)
    return Row(
        scan=path.name.removesuffix(".nii.gz"),
        recipe=recipe,
        adapt_s=seconds,
        error_over_interpolation=adapted.provenance["adapted"]["error_over_interpolation"],
        before=evaluate(bundle, low, truth, psnr, args.mode),
        after=after,
    )


def table(rows: Sequence[Row], shares: Sequence[float]) -> str:
    """Markdown: before -> after by share for every scan, and the mean change of each recipe."""
    lines = []
    for row in rows:
        steps = [row.before, *row.after.values()]
        across = [[getattr(step, field.name) for step in steps] for field in fields(Scores)]
        cells = (" -> ".join("-" if value is None else f"{value:.3f}" for value in values) for values in across)
        lines.append([row.scan, row.recipe, *cells])
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = [row for row in rows if row.recipe == recipe]
        changes = [mean([row.after[str(share)].gain_db - row.before.gain_db for row in own]) for share in shares]
        lines.append(["**mean**", recipe, " ".join(f"{change:+.3f}" for change in changes), "", "", ""])
    return markdown(["scan", "recipe", "gain, dB", "SSIM", "HaarPSI", "inside the 90 % interval"], lines)


def parsed() -> argparse.Namespace:
    """Options of the command line, with those of `AdaptOptions`."""
    parser = parser_of(__doc__, recipes=("thick5", "thick3"), side=128)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--mode", default="faithful", choices=("faithful", "detail"))
    parser.add_argument("--shares", nargs="+", type=float, default=[AdaptOptions.share, 1.0])
    for field in [field for field in fields(AdaptOptions) if field.name != "share"]:
        kind = int if field.default is None else type(field.default)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    return parser.parse_args()


def main() -> None:
    """Print a line per case, then the table."""
    args = parsed()
    tune_allocator()
    chosen = {field.name: getattr(args, field.name) for field in fields(AdaptOptions) if field.name != "share"}
    options, bundle = AdaptOptions(**chosen, share=1.0), load_bundle(args.bundle)
    rows: list[Row] = []
    for recipe in args.recipes:
        for scan in args.scans:
            rows.append(row_of(bundle, args.data / "val" / f"{scan}.nii.gz", recipe, args, options))
            report(rows[-1])
    print(table(rows, args.shares))
    write_rows(args.json, rows, bundle=bundle.sha256, threads=torch.get_num_threads(), options=vars(args))


if __name__ == "__main__":
    main()
