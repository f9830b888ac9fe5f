"""Several scans of one head: registration error over random motions, and what combining brings.

    python benchmarks/several.py registration --motions 100 --json benchmarks/results/several_registration.json
    python benchmarks/several.py quality --side 112 --json benchmarks/results/several_quality.json

A run that is stopped goes on where it was. Scans are acquired from sharp ones in frames that moved by up to 5 degrees
and 5 mm. PSNR in dB inside the head, over the 99.9th percentile of the truth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import SCANS, mean, parser_of, validation_scan
from torch import Tensor

from moediff.acquisition.combine import Measurement, consistent
from moediff.acquisition.degrade import degrade
from moediff.acquisition.normalisation import brain_scaling, foreground
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.registration.align import align
from moediff.registration.rigid import IDENTITY, Rigid, grid_centre_mm

MAX_DEG, MAX_MM = 5.0, 5.0
LEAST_SQUARES = (0.05, 0.1, 0.2)  # deviations of the prior that were tried for least squares without a network
INTERVAL_SD = 1.6449


@dataclass(frozen=True)
class Design:
    """How often and in which planes a head is scanned: the slice axis of every scan, and the rest of the recipe."""

    axes: tuple[int, ...]
    factor: float
    plane: float = 1.0
    noise: float = 0.01
    bias: float = 0.0
    gamma: float = 1.0
    half_shift: bool = False

    def recipe(self, axis: int) -> Recipe:
        """Of one scan."""
        rows = [AxisRecipe(method="truncate", factor=self.plane) if self.plane > 1 else AxisRecipe()] * 3
        rows[axis] = AxisRecipe(method="gaussian", factor=self.factor)
        return Recipe(
            axes=(rows[0], rows[1], rows[2]), noise=self.noise, bias=self.bias, gamma=self.gamma, name="several"
        )


DESIGNS = {
    "3 planes 5 mm": Design((2, 0, 1), 5),
    "3 planes 3 mm": Design((2, 0, 1), 3),
    "2 planes 5 mm": Design((2, 0), 5),
    "2 parallel 5 mm": Design((2, 2), 5, half_shift=True),
    "3 planes 64 mT": Design((2, 0, 1), 5, plane=1.6, noise=0.04, bias=0.3, gamma=0.8),
}


@dataclass(frozen=True)
class RegistrationRow:
    """One random motion."""

    scan: str
    design: str
    seed: int
    error_mm: float
    apart_mm: float
    mismatch: float
    misfit: str | None


@dataclass(frozen=True)
class QualityRow:
    """One person and design: PSNR of every scan alone and of all together, and how the result was made."""

    scan: str
    design: str
    alone_db: tuple[float, ...]
    together_db: float
    least_squares_db: tuple[float, ...]
    coverage: float
    registration_mm: tuple[float, ...]
    warnings: tuple[str, ...]


def motion(seed: int, index: int, centre: Sequence[float]) -> Rigid:
    """Up to MAX_DEG about every axis and MAX_MM along it."""
    draw = (torch.rand(6, generator=rng_for(seed, "motion", index)) * 2 - 1).tolist()
    return Rigid.of([v * MAX_DEG for v in draw[:3]], [v * MAX_MM for v in draw[3:]], centre)


def scans_of(truth: Volume, side: int, design: Design, seed: int) -> tuple[Volume, list[Volume], list[Rigid]]:
    """A crop of the truth, the scans of it, and where each lies; the first has not moved."""
    box = centre_crop(truth, side)
    centre, scans, transforms = grid_centre_mm(box.grid), [], []
    for index, axis in enumerate(design.axes):
        transform = motion(seed, index, centre) if index else IDENTITY
        if index and design.half_shift:
            step = [0.0, 0.0, 0.0]
            step[axis] = design.factor * box.spacing_mm[axis] / 2
            transform = Rigid.of((0, 0, 0), step) @ transform
        moved = resample(truth, transform.placed_grid(box.grid)).data_XYZ.clamp_min(0) if index else box.data_XYZ
        rng = rng_for(seed, "noise", index)
        scans.append(degrade(Volume(moved, box.affine), design.recipe(axis), rng))
        transforms.append(transform)
    return box, scans, transforms


def error_mm(estimate: Rigid, true: Rigid, grid: Grid) -> float:
    """RMS over the head."""
    return round((estimate.inverse @ true).displacement_mm(grid_centre_mm(grid)), 4)


def registration_row(data: Path, name: str, design: str, seed: int) -> RegistrationRow:
    """Two scans of one person, of which the second moved."""
    one = DESIGNS[design]
    truth, scans, transforms = scans_of(validation_scan(data, name), 400, one, seed)
    pick = 1 + seed % (len(scans) - 1)
    second = align([scans[0], scans[pick]])[1]
    error = error_mm(second.transform, transforms[pick], truth.grid)
    mismatch = 1.0 if second.agreement is None else round(second.agreement.mismatch, 4)
    return RegistrationRow(name, design, seed, error, round(second.apart_mm or 0.0, 4), mismatch, second.misfit)


def quality_row(enhancer: Enhancer, data: Path, name: str, design: str, side: int) -> QualityRow:
    """One person, one design."""
    truth, scans, transforms = scans_of(validation_scan(data, name), side, DESIGNS[design], 0)
    inside, top = foreground(truth.data_XYZ, truth.spacing_mm), quantile(truth.data_XYZ, 0.999)

    def psnr(data_XYZ: Tensor) -> float:
        return round(10 * math.log10(top**2 / float((data_XYZ - truth.data_XYZ)[inside].square().mean())), 3)

    options = EnhanceOptions(like=truth.grid)
    alone = []
    for scan, transform in zip(scans, transforms, strict=True):
        placed = transform.placed_volume(scan)
        alone.append(psnr(enhancer(placed, options).volume.data_XYZ))
    together = enhancer(scans, options)
    assert together.uncertainty is not None
    error = (together.volume.data_XYZ - truth.data_XYZ).abs()
    coverage = float((error < INTERVAL_SD * together.uncertainty.data_XYZ)[inside].float().mean())
    estimates = [Rigid(torch.tensor(r.transform, dtype=torch.float64)) for r in together.sidecar.scans]
    return QualityRow(
        scan=name,
        design=design,
        alone_db=tuple(alone),
        together_db=psnr(together.volume.data_XYZ),
        least_squares_db=tuple(psnr(x) for x in least_squares(scans, transforms, truth.grid)),
        coverage=round(coverage, 4),
        registration_mm=tuple(error_mm(f, t, truth.grid) for f, t in zip(estimates[1:], transforms[1:], strict=True)),
        warnings=together.sidecar.warnings,
    )


def least_squares(scans: Sequence[Volume], transforms: Sequence[Rigid], grid: Grid) -> list[Tensor]:
    """Without a network but with the true motion, one result for every prior."""
    head = foreground(scans[0].data_XYZ, scans[0].spacing_mm)
    scaling = brain_scaling(scans[0].data_XYZ, head, scans[0].spacing_mm)
    measurements = []
    for scan, transform in zip(scans, transforms, strict=True):
        placed = transform.placed_volume(scan.with_data(scaling.apply(scan.data_XYZ)))
        measurements.append(Measurement(placed, 0.01, grid))
    start = torch.zeros(grid.shape)
    return [
        scaling.undo(consistent(start, torch.full(grid.shape, prior), measurements, 15).result_XYZ)
        for prior in LEAST_SQUARES
    ]


def kept_rows(path: Path | None) -> list[dict[str, object]]:
    """Rows of a run that was stopped."""
    return list(json.loads(path.read_text())["rows"]) if path is not None and path.exists() else []


def write(path: Path | None, rows: Sequence[dict[str, object]]) -> None:
    """After every row."""
    if path is not None:
        path.write_text(json.dumps({"rows": list(rows)}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__, side=112)
    parser.add_argument("what", choices=("registration", "quality"))
    parser.add_argument("--motions", type=int, default=100)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS))
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    args = parser.parse_args()
    rows = kept_rows(args.json)
    known = {(r["scan"], r["design"], r.get("seed", 0)) for r in rows}
    if args.what == "registration":
        turns = (
            (args.scans[s % len(args.scans)], args.designs[s // 5 % len(args.designs)], s) for s in range(args.motions)
        )
        for name, design, seed in turns:
            if (name, design, seed) not in known:
                rows.append(asdict(registration_row(args.data, name, design, seed)))
                write(args.json, rows)
                print(json.dumps(rows[-1]), flush=True)
        errors = sorted(float(str(r["error_mm"])) for r in rows)
        below = sum(e < 0.3 for e in errors)
        print(
            f"{len(errors)} motions: below 0.3 mm {below}, median {errors[len(errors) // 2]:.3f}, "
            f"worst {errors[-1]:.3f}"
        )
        return
    enhancer = Enhancer(args.bundle)
    for design in args.designs:
        for name in args.scans:
            if (name, design, 0) not in known:
                rows.append(asdict(quality_row(enhancer, args.data, name, design, args.side)))
                write(args.json, rows)
                print(json.dumps(rows[-1]), flush=True)
        print_design(design, [r for r in rows if r["design"] == design])


def print_design(design: str, rows: Sequence[dict[str, object]]) -> None:
    """Means over persons."""

    def values(row: dict[str, object], key: str) -> list[float]:
        return [float(v) for v in row[key]]  # type: ignore[attr-defined]

    together = mean([float(str(r["together_db"])) for r in rows])
    alone = mean([max(values(r, "alone_db")) for r in rows])
    squares = max(mean([values(r, "least_squares_db")[i] for r in rows]) for i in range(len(LEAST_SQUARES)))
    coverage = mean([float(str(r["coverage"])) for r in rows])
    print(
        f"{design}: best alone {alone:.2f}, least squares {squares:.2f}, together {together:.2f}, "
        f"in 90 %: {coverage:.3f}"
    )


if __name__ == "__main__":
    main()
