"""Distortion against perception: solvers, numbers of evaluations and temperatures of `detail`.

    python benchmarks/samplers.py --data ../shared/data [--bundle DIR] [--json out.json] [--plot out.svg]

Crops from the middle of val/ scans, degraded. Gains in PSNR are over the posterior mean (`faithful`); sharpness needs
no reference and is given over the truth's. "Band" is the share of the truth's power between half and full Nyquist of
the low-resolution scan, "fine" beyond it. Temperature scales the noise that a sample starts from (and that churn
adds); 1 draws from the model. Axes: X Y Z voxels.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tradeoff import draw

from moediff.acquisition.degrade import degrade
from moediff.acquisition.prepare import Prepared, prepare
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.geometry import canonicalise, middle
from moediff.core.memory import keep_memory
from moediff.core.volume import Volume
from moediff.diffusion.samplers import Denoise, Sampler, dpm_solver, euler, heun
from moediff.diffusion.schedule import schedule
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.evaluation.metrics.haarpsi import haarpsi
from moediff.evaluation.metrics.no_reference import sharpness
from moediff.evaluation.metrics.spectrum import radial_spectral_distance, taper
from moediff.evaluation.metrics.structural import gmsd
from moediff.inference.enhancer import Enhancer, nothing, whole
from moediff.inference.options import EnhanceOptions
from moediff.inference.tiling import Frame, frame
from moediff.io.scans import load

SCANS = ("M2307_T2w", "aurora_T1c", "fsf_T1w", "ljms07_FLAIR", "seg3d_T1w")


def churned(denoise: Denoise, x: Tensor, sigmas: Sequence[float], amount: float, rng: torch.Generator) -> Tensor:
    """Euler with noise put back before each step but the first; Karras 2022, algorithm 2. `amount` scales it."""
    highest = sigmas[0]
    for sigma, after in pairwise(sigmas):
        raised = min(sigma * math.sqrt(2), highest) if sigma < highest else sigma
        x = x + amount * math.sqrt(max(raised**2 - sigma**2, 0)) * torch.randn(x.shape, generator=rng)
        clean = denoise(x, raised)
        x = clean + (after / raised) * (x - clean)
    return x


def plans() -> dict[str, tuple[Sampler, int, float]]:
    """Name -> solver, noise levels, temperature; names say how often the network is asked."""
    rng = rng_for(0, "churn")
    found: dict[str, tuple[Sampler, int, float]] = {f"euler {n}": (euler, n, 1.0) for n in (2, 3, 4, 6, 8)}
    found |= {f"heun {2 * n - 1}": (heun, n, 1.0) for n in (2, 3, 4)}
    found |= {f"churn {n}": (partial(churned, amount=1.0, rng=rng), n, 1.0) for n in (4, 8)}
    found |= {f"dpm++2m {n}": (dpm_solver, n, 1.0) for n in (2, 3, 4, 6, 8)}
    return found | {f"dpm++2m 3 at {t}": (dpm_solver, 3, t) for t in (0.0, 0.3, 0.6, 0.8, 1.1, 1.2, 1.3)}


def bands(pred_XYZ: Tensor, truth_XYZ: Tensor, mask_XYZ: Tensor, coarser: Sequence[float]) -> tuple[float, float]:
    """Power over the truth's, between half and full Nyquist of voxels `coarser` times as large, and beyond."""
    weight = taper(mask_XYZ)
    x, y = (torch.fft.fftfreq(n) * 2 * c for n, c in zip(truth_XYZ.shape[:2], coarser, strict=False))
    z = torch.fft.rfftfreq(truth_XYZ.shape[2]) * 2 * coarser[2]
    rho = torch.stack(torch.broadcast_tensors(x[:, None, None].abs(), y[:, None].abs(), z)).amax(0)
    powers = [torch.fft.rfftn((t - t[mask_XYZ].mean()) * weight).abs().square() for t in (pred_XYZ, truth_XYZ)]
    inside, beyond = (rho >= 0.5) & (rho < 1), rho >= 1
    band, fine = (float(powers[0][part].sum() / powers[1][part].sum().clamp_min(1e-12)) for part in (inside, beyond))
    return band, fine


class Case:
    """One crop, read by the encoder once."""

    def __init__(self, enhancer: Enhancer, path: Path, recipe: str, side: int) -> None:
        whole, _ = canonicalise(load(path).volume)
        self.truth = middle(whole, side)
        self.low = degrade(self.truth, NAMED[recipe], rng_for(0, path.name, recipe))
        self.mask = head_mask(self.truth.data_XYZ)
        self.enhancer, self.options = enhancer, EnhanceOptions(like=self.truth.grid)
        self.prepared: Prepared = prepare(self.low, self.truth.grid, enhancer.bundle.config.prepare)
        self.head: Frame = frame(enhancer.bundle.denoiser, self.prepared)
        self.coarser = [a / b for a, b in zip(self.low.spacing_mm, self.truth.spacing_mm, strict=True)]

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """D(x, sigma)."""
        return self.enhancer._denoise(x, sigma, self.head, self.options)

    def result(self, residual: Tensor) -> Volume:
        """The whole scan for a residual of the head, consistent with the measurement."""
        return self.prepared.undo(whole(self.head.place(residual, nothing(self.prepared)), self.prepared, self.options))

    def sharpness(self, data_XYZ: Tensor) -> float:
        """Without a reference."""
        return sharpness(data_XYZ, self.mask, self.truth.spacing_mm)

    def scores(self, volume: Volume) -> dict[str, float]:
        """Distortion and perception."""
        pred, truth, mask = volume.data_XYZ, self.truth.data_XYZ, self.mask
        span = data_range(truth, mask)
        band, fine = bands(pred, truth, mask, self.coarser)
        return {
            "psnr": psnr(pred, truth, mask, span),
            "haarpsi": haarpsi(pred, truth, mask, span),
            "gmsd": gmsd(pred, truth, mask, span),
            "spectral": radial_spectral_distance(pred, truth, mask),
            "sharpness": self.sharpness(pred) / self.sharpness(truth),
            "band": band,
            "fine": fine,
        }


@torch.no_grad()
def run(case: Case) -> dict[str, dict[str, float]]:
    """Scores of every plan, and of the posterior mean."""
    config = case.enhancer.bundle.config
    data, top = config.denoiser.sigma_data, config.process.sigma_max
    found = {"faithful": case.scores(case.result(case.denoise(torch.zeros(1, *case.head.shape), top * data)))}
    noise = torch.randn(case.head.shape, generator=rng_for(0, "sample", 0))[None]
    for name, (solver, levels, temperature) in plans().items():
        sigmas = schedule(levels, data, config.process)
        found[name] = case.scores(case.result(solver(case.denoise, temperature * noise * sigmas[0], sigmas)))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over crops."""
    lines = [
        "| plan | PSNR against faithful, dB | HaarPSI | GMSD | spectral distance, dB | sharpness | band | fine |",
        "|---" * 8 + "|",
    ]
    for name in rows[0]["found"]:

        def mean(key: str, of: str = name) -> float:
            return sum(row["found"][of][key] for row in rows) / len(rows)

        gain = mean("psnr") - mean("psnr", "faithful")
        lines.append(
            f"| {name} | {gain:+.2f} | {mean('haarpsi'):.3f} | {mean('gmsd'):.4f} | {mean('spectral'):.2f} "
            f"| {mean('sharpness'):.2f} | {mean('band'):.2f} | {mean('fine'):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print a line per case, then a table per recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--recipes", nargs="+", default=["thick5", "low1.5"])
    parser.add_argument("--side", type=int, default=80, help="of a crop, voxels")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, metavar="SVG")
    args = parser.parse_args()
    keep_memory()
    enhancer, rows = Enhancer(args.bundle), []
    for recipe in args.recipes:
        for scan in SCANS:
            case = Case(enhancer, args.data / "val" / f"{scan}.nii.gz", recipe, args.side)
            rows.append({"scan": scan, "recipe": recipe, "found": run(case)})
            print(json.dumps(rows[-1]), file=sys.stderr)
        print(f"\n{recipe}\n\n{table([row for row in rows if row['recipe'] == recipe])}\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"bundle": enhancer.bundle.sha256, "rows": rows}))
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
