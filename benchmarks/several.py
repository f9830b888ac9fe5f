"""Several scans of one head: registration error over random motions, and what combining brings.

    python benchmarks/several.py registration --motions 100 --json benchmarks/results/several_registration.json
    python benchmarks/several.py quality --side 64 --json benchmarks/results/several_quality.json
    python benchmarks/several.py tune      # regularisation of least squares, on a head of train/

A run that is stopped goes on where it was. Scans are acquired from sharp ones in frames that moved by up to 5 degrees
and 5 mm, with small bright lesions added. PSNR in dB inside the head, where all scans measured, over the 99.9th
percentile of the truth, after a fit of gain and offset by Huber's loss for every method alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from common import SCANS, parser_of, validation_scan
from several_rows import LesionCounts, QualityRow, RegistrationRow, Stored, motion_table, quality_tables
from several_simulation import DESIGNS, Regularisation, Simulated, least_squares, psnr_db, simulate
from torch import Tensor

from moediff.acquisition.normalisation import foreground
from moediff.core.morphology import within
from moediff.core.statistics import quantile
from moediff.core.volume import Grid, Volume
from moediff.evaluation.intensity_fit import fit_intensities
from moediff.evaluation.lesions import judge_lesions
from moediff.inference.enhancer import Enhancer
from moediff.inference.grid_plan import plan_grids
from moediff.inference.options import EnhanceOptions
from moediff.inference.session import no_progress
from moediff.inference.several import SeveralScans, aligned_scans
from moediff.io.scans import from_volume, load
from moediff.registration.align import align
from moediff.registration.rigid import Rigid, grid_centre_mm

INTERVAL_SD = 1.6449
EDGE_MM = 3.0  # of what all scans measured, where lesions are not judged
TUNED_ON = "mrgd_T1c"  # of train/
DEVIATIONS, CORRELATIONS_VOX = (0.02, 0.05, 0.1, 0.2), (1.0, 1.5, 2.5, 4.0)
TUNED = Regularisation(0.05, 1.5)  # within 0.04 dB of the best for every design (`tune --side 48`)


class Judge:
    """Compares results with the truth, all by the same rules.

    Args:
        simulated: truth, lesions, and where all scans measured.
    """

    def __init__(self, simulated: Simulated) -> None:
        truth, seen = simulated.truth, simulated.seen_XYZ
        self.truth, self.lesions = truth, simulated.lesions
        mask = foreground(truth.data_XYZ, truth.spacing_mm)
        self.inside = mask & seen
        self.top = quantile(truth.data_XYZ, 0.999)
        self.brain = mask & ~within(~seen, EDGE_MM, truth.spacing_mm) if not bool(seen.all()) else mask

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
        covered = (fitted_XYZ - self.truth.data_XYZ).abs() < INTERVAL_SD * gain * deviation_XYZ
        return round(float(covered[self.inside].float().mean()), 4)

    def lesion_counts(self, data_XYZ: Tensor) -> LesionCounts:
        """Synthetic lesions that a result misses, and others that it shows."""
        unit = float(self.truth.data_XYZ[self.inside].median())
        pair = (self.fitted(data_XYZ)[0] / unit, self.truth.data_XYZ / unit)
        return LesionCounts.of(judge_lesions(*pair, self.brain, self.lesions, self.truth.spacing_mm))


def error_mm(estimate: Rigid, true: Rigid, grid: Grid) -> float:
    """RMS over a ball of 80 mm."""
    return round((estimate.inverse @ true).displacement_mm(grid_centre_mm(grid)), 4)


def registration_row(whole: Volume, name: str, design: str, seed: int, side: int) -> RegistrationRow:
    """Two scans of one person, of which the second moved."""
    simulated = simulate(whole, side, DESIGNS[design], seed)
    pick = 1 + seed % (len(simulated.scans) - 1)
    both = align([simulated.scans[0], simulated.scans[pick]])
    error = error_mm(both[1].transform, simulated.transforms[pick], simulated.truth.grid)
    mismatch = max(one.agreement.motion.mismatch for one in both if one.agreement is not None)
    return RegistrationRow(
        name, design, seed, error, round(both[1].uncertain_mm, 4), round(mismatch, 4), both[1].misfit
    )


def quality_row(enhancer: Enhancer, whole: Volume, name: str, design: str, side: int) -> QualityRow:
    """One person, one design."""
    simulated = simulate(whole, side, DESIGNS[design], 0, lesions=True)
    truth, scans, judge, start = simulated.truth, simulated.scans, Judge(simulated), time.process_time()
    options, loaded = EnhanceOptions(like=truth.grid), [from_volume(scan) for scan in scans]
    several = SeveralScans(
        enhancer.model, aligned_scans(loaded, options), plan_grids(loaded[0], options), options, no_progress
    )
    estimates = several.estimates()
    scaling = several.first.prepared.scaling
    single = [scaling.undo(e.mean_XYZ) for e in estimates]
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
        alone_db=tuple(map(judge.psnr, single)),
        together_db=judge.psnr(result),
        least_squares_db=judge.psnr(squares),
        alone_coverage=tuple(map(judge.coverage, single, spread)),
        coverage=judge.coverage(result, together.uncertainty.data_XYZ),
        alone_lesions=tuple(map(judge.lesion_counts, single)),
        lesions=judge.lesion_counts(result),
        least_squares_lesions=judge.lesion_counts(squares),
        registration_mm=tuple(
            error_mm(f, t, truth.grid) for f, t in zip(motions[1:], simulated.transforms[1:], strict=True)
        ),
        warnings=together.sidecar.warnings,
        cpu_seconds=round(seconds, 1),
    )


def tune(data: Path, side: int, designs: Sequence[str]) -> None:
    """PSNR of least squares under every regularisation, on a head of train/."""
    whole = load(data / "train" / f"{TUNED_ON}.nii.gz").volume
    for design in designs:
        simulated = simulate(whole, side, DESIGNS[design], 0, lesions=True)
        judge = Judge(simulated)
        placed = [t.placed_volume(scan) for t, scan in zip(simulated.transforms, simulated.scans, strict=True)]
        for prior in (Regularisation(d, c) for c in CORRELATIONS_VOX for d in DEVIATIONS):
            squares = least_squares(placed, simulated.noise, simulated.truth.grid, prior)
            print(f"{design}: {prior}: {judge.psnr(squares):.2f} dB", flush=True)


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
    sharp_scans = {name: validation_scan(args.data, name) for name in args.scans}
    if args.what == "registration":
        motions = Stored(args.json, RegistrationRow)
        for seed in range(args.motions):
            name, design = args.scans[seed % len(args.scans)], args.designs[seed // 5 % len(args.designs)]
            motions.add(
                (name, design, seed), partial(registration_row, sharp_scans[name], name, design, seed, args.side)
            )
        print(motion_table(motions.rows))
        return
    enhancer = Enhancer(args.bundle)
    bundle = enhancer.model.bundle
    quality = Stored(args.json, QualityRow, f"{bundle.sha256}-{bundle.settings_sha256[:12]}")
    for design in args.designs:
        for name in args.scans:
            side = max(args.side, DESIGNS[design].least_side)
            quality.add((name, design, side), partial(quality_row, enhancer, sharp_scans[name], name, design, side))
    print(quality_tables(quality.rows))


if __name__ == "__main__":
    main()
