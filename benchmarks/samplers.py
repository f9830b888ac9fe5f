"""Samplers of `detail`: distortion against perception by solver, number of evaluations and temperature.

    python benchmarks/samplers.py --data ../shared/data [--bundle DIR] [--json out.json] [--plot out.svg]

Crops from the middle of val/ scans, degraded. Gains in PSNR are over the posterior mean (`faithful`); sharpness needs
no reference and is given over the truth's. "Band" is the share of the truth's power between half and full Nyquist of
the low-resolution scan, "fine" beyond it. Temperature scales the noise that a sample starts from (and that churn
adds); 1 draws from the model. The plot has distortion along x and a measure of perception in each panel.
Axes: X Y Z voxels.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import SCANS, SVG_SALT, markdown, mean, parser_of, report, validation_scan, write_rows
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.diffusion.samplers import Denoise, Sampler, dpm_solver, euler, heun
from moediff.diffusion.schedule import schedule
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.evaluation.metrics.haarpsi import haarpsi
from moediff.evaluation.metrics.no_reference import sharpness
from moediff.evaluation.metrics.spectrum import radial_spectral_distance, taper
from moediff.evaluation.metrics.structural import gmsd
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.inference.session import Session
from moediff.io.scans import from_volume

MEASURES = {  # of perception: title of a panel, and the value of the truth where it has one
    "haarpsi": ("HaarPSI (1 is best)", None),
    "gmsd": ("GMSD (0 is best)", None),
    "spectral": ("spectral distance to truth, dB", 0.0),
    "sharpness": ("sharpness (1 is that of the truth)", 1.0),
}
COLOURS = {"euler": "#0072b2", "heun": "#009e73", "churn": "#cc79a7", "dpm++2m": "#d55e00"}  # Okabe & Ito
LEAST_DB = -2.0  # plans that lose more are not drawn: Heun with few evaluations falls apart
FAITHFUL = "faithful"


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
    """Name -> solver, noise levels, temperature; names say how often the network is evaluated."""
    rng = rng_for(0, "churn")
    named: dict[str, tuple[Sampler, int, float]] = {f"euler {n}": (euler, n, 1.0) for n in (2, 3, 4, 6, 8)}
    named |= {f"heun {2 * n - 1}": (heun, n, 1.0) for n in (2, 3, 4)}
    named |= {f"churn {n}": (partial(churned, amount=1.0, rng=rng), n, 1.0) for n in (4, 8)}
    named |= {f"dpm++2m {n}": (dpm_solver, n, 1.0) for n in (2, 3, 4, 6, 8)}
    return named | {f"dpm++2m 3 at {t}": (dpm_solver, 3, t) for t in (0.0, 0.3, 0.6, 0.8, 1.1, 1.2, 1.3)}


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


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Distortion and perception of one result; see the module for `band` and `fine`."""

    psnr: float
    haarpsi: float
    gmsd: float
    spectral: float
    sharpness: float
    band: float
    fine: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one crop by plan."""

    scan: str
    recipe: str
    scores: dict[str, Scores]


class Case:
    """One crop, read by the encoder once."""

    def __init__(self, enhancer: Enhancer, truth: Volume, key: str, recipe: str) -> None:
        self.truth = truth
        self.low = degrade(self.truth, NAMED[recipe], rng_for(0, key, recipe))
        self.mask = head_mask(self.truth.data_XYZ)
        scan, options = from_volume(self.low), EnhanceOptions(like=self.truth.grid)
        self.session = Session(enhancer.model, scan, plan_grids(scan, options), options)
        self.context = self.session.encode(self.session.prepared)
        self.coarser = [a / b for a, b in zip(self.low.spacing_mm, self.truth.spacing_mm, strict=True)]

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """D(x, sigma)."""
        return self.session.denoise(x, sigma, self.context)

    def result(self, residual: Tensor) -> Volume:
        """The whole scan for a residual of the head, consistent with the measurement."""
        prepared = self.session.prepared
        pasted = self.context.crop.paste(residual, prepared.interpolated_XYZ)
        return prepared.undo(self.session.compose(pasted))

    def sharpness(self, data_XYZ: Tensor) -> float:
        """Without a reference."""
        return sharpness(data_XYZ, self.mask, self.truth.spacing_mm)

    def scores(self, volume: Volume) -> Scores:
        """Distortion and perception."""
        pred, truth, mask = volume.data_XYZ, self.truth.data_XYZ, self.mask
        span = data_range(truth, mask)
        band, fine = bands(pred, truth, mask, self.coarser)
        return Scores(
            psnr=psnr(pred, truth, mask, span),
            haarpsi=haarpsi(pred, truth, mask, span),
            gmsd=gmsd(pred, truth, mask, span),
            spectral=radial_spectral_distance(pred, truth, mask),
            sharpness=self.sharpness(pred) / self.sharpness(truth),
            band=band,
            fine=fine,
        )


@torch.no_grad()
def run(case: Case) -> dict[str, Scores]:
    """Scores of every plan, and of the posterior mean."""
    config = case.session.config
    data, top = config.denoiser.sigma_data, config.diffusion.sigma_max
    zero = torch.zeros(1, *case.context.crop.shape)
    scores = {FAITHFUL: case.scores(case.result(case.denoise(zero, top * data)))}
    noise = torch.randn(case.context.crop.shape, generator=rng_for(0, "sample", 0))[None]
    for name, (solver, levels, temperature) in plans().items():
        sigmas = schedule(levels, data, config.diffusion)
        scores[name] = case.scores(case.result(solver(case.denoise, temperature * noise * sigmas[0], sigmas)))
    return scores


def average(rows: Sequence[Row], plan: str, measure: str) -> float:
    """Mean of a measure over crops."""
    return mean([getattr(row.scores[plan], measure) for row in rows])


def gain_db(rows: Sequence[Row], plan: str) -> float:
    """Mean PSNR over that of `faithful`."""
    return average(rows, plan, "psnr") - average(rows, FAITHFUL, "psnr")


def table(rows: Sequence[Row]) -> str:
    """Markdown: means over crops."""
    digits = {"haarpsi": ".3f", "gmsd": ".4f", "spectral": ".2f", "sharpness": ".2f", "band": ".2f", "fine": ".2f"}
    titles = (
        "plan",
        "PSNR against faithful, dB",
        "HaarPSI",
        "GMSD",
        "spectral distance, dB",
        "sharpness",
        "band",
        "fine",
    )
    lines = [
        [plan, f"{gain_db(rows, plan):+.2f}", *(f"{average(rows, plan, key):{form}}" for key, form in digits.items())]
        for plan in rows[0].scores
    ]
    return markdown(titles, lines)


def lines_of(plans: Sequence[str]) -> dict[str, list[str]]:
    """Plans that one line joins: a solver by its evaluations, and the chosen one by its temperature."""
    lines = {solver: [p for p in plans if p.startswith(solver + " ") and " at " not in p] for solver in COLOURS}
    return lines | {"temperature": sorted((p for p in plans if " at " in p), key=lambda p: float(p.split()[-1]))}


def draw(rows: Sequence[Row], path: Path) -> None:
    """A row of panels per recipe, one for each measure."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    recipes = list(dict.fromkeys(row.recipe for row in rows))
    with rc_context({"svg.hashsalt": SVG_SALT, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(3 * len(MEASURES), 2.7 * len(recipes)))
        panels = figure.subplots(len(recipes), len(MEASURES), squeeze=False)
        figure.set_layout_engine("constrained")
        for recipe, across in zip(recipes, panels, strict=True):
            own = [row for row in rows if row.recipe == recipe]
            for panel, (measure, (title, truth)) in zip(across, MEASURES.items(), strict=True):
                points = {plan: (gain_db(own, plan), average(own, plan, measure)) for plan in own[0].scores}
                draw_panel(panel, points, truth)
                panel.set(title=title, xlabel="PSNR against faithful, dB")
            across[0].set_ylabel(recipe)
        panels[0, 0].legend(fontsize=6)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def draw_panel(panel: Any, points: dict[str, tuple[float, float]], truth: float | None) -> None:
    """One measure against gain, and a line at the value of the truth."""
    if truth is not None:
        panel.axhline(truth, color="0.7", linewidth=0.8)
    drawn = [plan for plan, point in points.items() if point[0] > LEAST_DB]
    for name, plans in lines_of(drawn).items():
        if not plans:
            continue
        style = {"color": COLOURS.get(name, "0.3"), "linestyle": "-" if name in COLOURS else ":"}
        xy = zip(*(points[plan] for plan in plans), strict=True)
        panel.plot(*xy, "o", markersize=3, linewidth=0.8, label=name, **style)
        for plan in plans:
            panel.annotate(plan.split()[-1], points[plan], xytext=(2, 2), textcoords="offset points", fontsize=5)
    panel.plot(*points[FAITHFUL], "k*", markersize=7, label=FAITHFUL)


def parsed() -> argparse.Namespace:
    """Options of the command line."""
    parser = parser_of(__doc__, recipes=("thick5", "low1.5"), side=80)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--plot", type=Path, metavar="SVG")
    return parser.parse_args()


def main() -> None:
    """Print a line per case, then a table per recipe."""
    args = parsed()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    rows: list[Row] = []
    for recipe in args.recipes:
        for scan in args.scans:
            truth = centre_crop(validation_scan(args.data, scan), args.side)
            case = Case(enhancer, truth, f"{scan}.nii.gz", recipe)
            rows.append(Row(scan=scan, recipe=recipe, scores=run(case)))
            report(rows[-1])
        print(f"\n{recipe}\n\n{table([row for row in rows if row.recipe == recipe])}\n", flush=True)
    write_rows(args.json, rows, bundle=enhancer.bundle.sha256)
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
