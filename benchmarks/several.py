"""Several scans of one head: registration error over random motions, and what combining brings.

    python benchmarks/several.py registration --motions 100 --json benchmarks/results/several_registration.json
    python benchmarks/several.py quality --side 96 --json benchmarks/results/several_quality.json
    python benchmarks/several.py tune      # regularisation of least squares, on a head of train/

A run that is stopped goes on where it was. Scans are acquired from sharp ones in frames that moved by up to 5 degrees
and 5 mm, with small bright lesions planted. PSNR in dB inside the head, where all scans measured, over the 99.9th
percentile of the truth, after a fit of gain and offset by Huber's loss for every method alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from common import SCANS, mean, parser_of, validation_scan
from several_simulation import DESIGNS, Regularisation, Simulated, least_squares, psnr_db, simulate
from torch import Tensor

from moediff.acquisition.normalisation import foreground
from moediff.core.morphology import within
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.evaluation.intensity_fit import fit_intensities
from moediff.evaluation.lesions import LesionScores, judge_lesions
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.inference.session import no_progress
from moediff.inference.several import DOUBTFUL_MM, SeveralScans, aligned_scans
from moediff.io.scans import from_volume, load
from moediff.registration.align import align
from moediff.registration.rigid import Rigid, grid_centre_mm

INTERVAL_SD = 1.6449
EDGE_MM = 3.0  # of what all scans measured, where lesions are not judged
TUNED_ON = "mrgd_T1c"  # of train/
DEVIATIONS, CORRELATIONS_VOX = (0.02, 0.05, 0.1, 0.2), (1.0, 1.5, 2.5, 4.0)
TUNED = Regularisation(0.05, 1.5)  # within 0.04 dB of the best for every design (`tune --side 48`)


@dataclass(frozen=True)
class RegistrationRow:
    """One random motion."""

    scan: str
    design: str
    seed: int
    error_mm: float
    uncertain_mm: float
    mismatch: float
    misfit: str | None


@dataclass(frozen=True)
class Found:
    """Planted lesions in one result: lost and invented ones, of how many."""

    lost: int
    invented: int
    count: int

    @classmethod
    def of(cls, scores: LesionScores) -> Found:
        """The counts."""
        return cls(scores.false_negatives, scores.false_positives, scores.count)


@dataclass(frozen=True)
class QualityRow:
    """One person and design: PSNR of every scan alone and of all together, and how the result was made.

    Args:
        alone_db, alone_coverage, alone_lesions: of every scan by itself.
        together_db, coverage, lesions: of the result; coverage is the share of voxels in the 90 % interval.
        least_squares_db, least_squares_lesions: without a network, but with the true motion.
    """

    scan: str
    design: str
    side: int
    alone_db: tuple[float, ...]
    together_db: float
    least_squares_db: float
    alone_coverage: tuple[float, ...]
    coverage: float
    alone_lesions: tuple[Found, ...]
    lesions: Found
    least_squares_lesions: Found
    registration_mm: tuple[float, ...]
    warnings: tuple[str, ...]
    cpu_seconds: float


class Judge:
    """Compares results with the truth, all by the same rules.

    Args:
        simulated: truth, lesions, and where all scans measured.
    """

    def __init__(self, simulated: Simulated) -> None:
        truth, seen = simulated.truth, simulated.seen_XYZ
        self.truth, self.lesions = truth, simulated.lesions
        head = foreground(truth.data_XYZ, truth.spacing_mm)
        self.inside = head & seen
        self.top = quantile(truth.data_XYZ, 0.999)
        self.brain = head & ~within(~seen, EDGE_MM, truth.spacing_mm) if not bool(seen.all()) else head

    def fitted(self, data_XYZ: Tensor) -> tuple[Tensor, float]:
        """A result with the truth's gain and offset, and the gain."""
        fit = fit_intensities(data_XYZ[self.inside], self.truth.data_XYZ[self.inside])
        return fit.apply(data_XYZ), fit.gain

    def psnr(self, data_XYZ: Tensor) -> float:
        """In dB."""
        return psnr_db(self.fitted(data_XYZ)[0], self.truth, self.inside, self.top)

    def coverage(self, data_XYZ: Tensor, deviation_XYZ: Tensor) -> float:
        """Share of voxels whose 90 % interval holds the truth."""
        fitted_XYZ, gain = self.fitted(data_XYZ)
        held = (fitted_XYZ - self.truth.data_XYZ).abs() < INTERVAL_SD * gain * deviation_XYZ
        return round(float(held[self.inside].float().mean()), 4)

    def found(self, data_XYZ: Tensor) -> Found:
        """Planted lesions that it shows, and others."""
        unit = float(self.truth.data_XYZ[self.inside].median())
        pair = (self.fitted(data_XYZ)[0] / unit, self.truth.data_XYZ / unit)
        return Found.of(judge_lesions(*pair, self.brain, self.lesions, self.truth.spacing_mm))


def error_mm(estimate: Rigid, true: Rigid, grid: Grid) -> float:
    """RMS over a ball of 80 mm."""
    return round((estimate.inverse @ true).displacement_mm(grid_centre_mm(grid)), 4)


def registration_row(head: Volume, name: str, design: str, seed: int, side: int) -> RegistrationRow:
    """Two scans of one person, of which the second moved."""
    simulated = simulate(head, side, DESIGNS[design], seed)
    pick = 1 + seed % (len(simulated.scans) - 1)
    both = align([simulated.scans[0], simulated.scans[pick]])
    error = error_mm(both[1].transform, simulated.transforms[pick], simulated.truth.grid)
    mismatch = max(one.agreement.motion.mismatch for one in both if one.agreement is not None)
    return RegistrationRow(
        name, design, seed, error, round(both[1].uncertain_mm, 4), round(mismatch, 4), both[1].misfit
    )


def quality_row(enhancer: Enhancer, head: Volume, name: str, design: str, side: int) -> QualityRow:
    """One person, one design."""
    simulated = simulate(head, side, DESIGNS[design], 0, lesions=True)
    truth, scans, judge, start = simulated.truth, simulated.scans, Judge(simulated), time.process_time()
    options, loaded = EnhanceOptions(like=truth.grid), [from_volume(scan) for scan in scans]
    several = SeveralScans(
        enhancer.model, aligned_scans(loaded, options), plan_grids(loaded[0], options), options, no_progress
    )
    estimates = several.estimates()
    scaling = several.first.prepared.scaling
    alone = [scaling.undo(e.mean_XYZ) for e in estimates]
    spread = [e.precision_XYZ.clamp_min(1e-12).rsqrt() * scaling.scale for e in estimates]
    together = several.join(estimates)
    assert together.uncertainty is not None
    seconds, result = time.process_time() - start, together.volume.data_XYZ
    records = together.sidecar.scans
    motions = [Rigid(torch.tensor(r.transform, dtype=torch.float64)) for r in records]
    placed = [
        true.placed_volume(scan.with_data(scan.data_XYZ / (record.gain or 1.0)))
        for true, scan, record in zip(simulated.transforms, scans, records, strict=True)
    ]
    squares = least_squares(placed, simulated.noise, truth.grid, TUNED)
    return QualityRow(
        scan=name,
        design=design,
        side=side,
        alone_db=tuple(map(judge.psnr, alone)),
        together_db=judge.psnr(result),
        least_squares_db=judge.psnr(squares),
        alone_coverage=tuple(map(judge.coverage, alone, spread)),
        coverage=judge.coverage(result, together.uncertainty.data_XYZ),
        alone_lesions=tuple(map(judge.found, alone)),
        lesions=judge.found(result),
        least_squares_lesions=judge.found(squares),
        registration_mm=tuple(
            error_mm(f, t, truth.grid) for f, t in zip(motions[1:], simulated.transforms[1:], strict=True)
        ),
        warnings=together.sidecar.warnings,
        cpu_seconds=round(seconds, 1),
    )


def tune(data: Path, side: int, designs: Sequence[str]) -> None:
    """PSNR of least squares under every regularisation, on a head of train/."""
    head = load(data / "train" / f"{TUNED_ON}.nii.gz").volume
    for design in designs:
        simulated = simulate(head, side, DESIGNS[design], 0, lesions=True)
        judge = Judge(simulated)
        placed = [t.placed_volume(scan) for t, scan in zip(simulated.transforms, simulated.scans, strict=True)]
        for prior in (Regularisation(d, c) for c in CORRELATIONS_VOX for d in DEVIATIONS):
            squares = least_squares(placed, simulated.noise, simulated.truth.grid, prior)
            print(f"{design}: {prior}: {judge.psnr(squares):.2f} dB", flush=True)


class Rows:
    """Rows of a run that may be stopped and goes on where it was; written after every one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows = list(json.loads(path.read_text())["rows"]) if path is not None and path.exists() else []

    def add(self, key: tuple[str, str, int], make: Callable[[], RegistrationRow | QualityRow]) -> None:
        """One more row, unless it is known."""
        if any((r["scan"], r["design"], r.get("seed", r.get("side"))) == key for r in self.rows):
            return
        self.rows.append(asdict(make()))
        if self.path is not None:
            self.path.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(self.rows[-1]), flush=True)


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__, side=96)
    parser.add_argument("what", choices=("registration", "quality", "tune"))
    parser.add_argument("--motions", type=int, default=100)
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS))
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    args = parser.parse_args()
    if args.what == "tune":
        tune(args.data, args.side, args.designs)
        return
    rows, heads = Rows(args.json), {name: validation_scan(args.data, name) for name in args.scans}
    if args.what == "registration":
        for seed in range(args.motions):
            name, design = args.scans[seed % len(args.scans)], args.designs[seed // 5 % len(args.designs)]
            rows.add((name, design, seed), lambda: registration_row(heads[name], name, design, seed, args.side))  # noqa: B023
        print_motions(rows.rows)
        return
    enhancer = Enhancer(args.bundle)
    for design in args.designs:
        for name in args.scans:
            rows.add(
                (name, design, args.side),
                lambda: quality_row(enhancer, heads[name], name, design, args.side),  # noqa: B023
            )
        print_design(design, [r for r in rows.rows if r["design"] == design])


def print_motions(rows: Sequence[dict[str, object]]) -> None:
    """How many motions were found, and what became of the others."""
    errors = sorted(float(str(r["error_mm"])) for r in rows)
    unnoticed = sum(float(str(r["error_mm"])) >= 0.3 and not _noticed(r) for r in rows)
    false_alarms = sum(float(str(r["error_mm"])) < 0.3 and _noticed(r) for r in rows)
    print(
        f"{len(errors)} motions: below 0.3 mm {sum(e < 0.3 for e in errors)}, median {errors[len(errors) // 2]:.3f}, "
        f"worst {errors[-1]:.3f}; larger and not noticed {unnoticed}; smaller and warned of {false_alarms}"
    )


def _noticed(row: dict[str, object]) -> bool:
    """Whether a user is warned, or the scan left out."""
    return row["misfit"] is not None or float(str(row["uncertain_mm"])) > DOUBTFUL_MM


def print_design(design: str, rows: Sequence[dict[str, object]]) -> None:
    """Means over persons, and sums of lesions."""

    def of(row: dict[str, object], key: str) -> list[float]:
        return [float(v) for v in row[key]]  # type: ignore[attr-defined]

    def lesions(part: str) -> str:
        every = []
        for row in rows:
            found = row[part]
            best = max(range(len(of(row, "alone_db"))), key=lambda i: of(row, "alone_db")[i])
            every.append(found[best] if isinstance(found, list | tuple) else found)
        lost, invented, count = (sum(int(f[k]) for f in every) for k in ("lost", "invented", "count"))  # type: ignore[index, misc]
        return f"{lost}/{count} lost {invented} invented"

    gains = [float(str(r["together_db"])) - max(of(r, "alone_db")) for r in rows]
    over = [float(str(r["together_db"])) - float(str(r["least_squares_db"])) for r in rows]
    print(
        f"{design}, {len(rows)} persons: best alone {mean([max(of(r, 'alone_db')) for r in rows]):.2f}, together "
        f"{mean(gains):+.2f} (least {min(gains):+.2f}), over least squares {mean(over):+.2f} (least {min(over):+.2f}), "
        f"in 90 %: {mean([float(str(r['coverage'])) for r in rows]):.3f}; lesions alone {lesions('alone_lesions')}, "
        f"least squares {lesions('least_squares_lesions')}, together {lesions('lesions')}"
    )


if __name__ == "__main__":
    main()
