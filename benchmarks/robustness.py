"""Robustness: change of the result when the scan is stored, placed or scaled in another form.

    python benchmarks/robustness.py --data ../shared/data [--scans fsf_T1w M2307_T2w] [--recipes thick5 low1.5]

Middle cubes of held-out scans are degraded and enhanced twice, as they are and changed; then the change is undone on
the result. "gain" is how much of its gain over cubic (dB PSNR inside the head) is lost or won, "moved" the root mean
square difference of the two results over that between the result and cubic interpolation; both in percent. Voxels
near the faces of the cube are left out: a grid off by half a voxel is brought back by its spectrum, which rings there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from common import markdown, parser_of, report, write_rows
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.benchmark.cases import Case, Scan
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.memory import tune_allocator
from moediff.core.volume import Grid, Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

LIMIT = 2.0  # percent of the gain
BIAS = 0.2  # peak log-gain of the added field
EDGE = 12  # voxels at every face that are not judged


@dataclass(frozen=True)
class Input:
    """A scan and the grid of its result."""

    low: Volume
    target: Grid


@dataclass(frozen=True)
class Change:
    """A change of the input, and its undo on the result: back to the truth's intensities and voxels."""

    apply: Callable[[Input], Input]
    undo: Callable[[Volume], Tensor] = lambda result: result.data_XYZ


def reordered(volume: Volume, order: Sequence[int], flips: Sequence[int]) -> Volume:
    """The same scan with its voxels stored in another order; every voxel stays where it is in the world."""
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    matrix[3, 3] = 1
    for new, old in enumerate(order):
        matrix[old, new] = -1 if new in flips else 1
        matrix[old, 3] = volume.shape[old] - 1 if new in flips else 0
    return Volume(volume.data_XYZ.permute(*order).flip(list(flips)).contiguous(), volume.affine @ matrix)


def stored(order: Sequence[int], flips: Sequence[int]) -> Change:
    """Another voxel order in the file."""
    return Change(lambda case: replace(case, low=reordered(case.low, order, flips)))


def placed(world: Tensor) -> Change:
    """The head turned or mirrored in the scanner, with its slices."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = world

    def move(case: Input) -> Input:
        low, target = case.low, case.target
        return Input(Volume(low.data_XYZ, matrix @ low.affine), Grid(target.shape, matrix @ target.affine))

    return Change(move)


def scaled(factor: float) -> Change:
    """Other units of intensity."""
    return Change(
        lambda case: replace(case, low=case.low.with_data(case.low.data_XYZ * factor)),
        lambda result: result.data_XYZ / factor,
    )


def field(grid: Grid) -> Tensor:
    """A smooth gain over the world, the same on every grid."""
    index = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid.shape), indexing="ij")
    world = torch.stack(index, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return torch.exp(BIAS * torch.cos(world @ torch.tensor([0.02, 0.025, 0.015], dtype=torch.float64))).float()


BIASED = Change(
    lambda case: replace(case, low=case.low.with_data(case.low.data_XYZ * field(case.low.grid))),
    lambda result: result.data_XYZ / field(result.grid),
)


def off_by(grid: Grid, part: float) -> Grid:
    """A grid moved along its three axes by a part of its voxels."""
    affine = grid.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.full((3,), part, dtype=torch.float64)
    return Grid(grid.shape, affine)


def shifted(part: float) -> Change:
    """The result on a grid that lies off by a part of its voxels, and moved back by its spectrum."""
    return Change(
        lambda case: replace(case, target=off_by(case.target, part)),
        lambda result: resample(result, off_by(result.grid, -part), "zero-fill").data_XYZ,
    )


def turn_about_z(degrees: float) -> Tensor:
    """A rotation of the world."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)


def signed(*rows: tuple[int, int]) -> Tensor:
    """World axis i becomes sign x old axis."""
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    for new, (old, sign) in enumerate(rows):
        matrix[new, old] = sign
    return matrix


CHANGES = {
    "stored z, x, y": stored((2, 0, 1), ()),
    "stored backwards": stored((0, 1, 2), (0, 1, 2)),
    "turned by 12 degrees": placed(turn_about_z(12)),
    "turned by 90 degrees": placed(turn_about_z(90)),
    "mirrored left to right": placed(signed((0, -1), (1, 1), (2, 1))),
    "upside down": placed(signed((0, 1), (1, -1), (2, -1))),
    "x, y, z become y, z, x": placed(signed((1, 1), (2, 1), (0, 1))),
    "intensities x 1000": scaled(1000.0),
    "intensities / 1000": scaled(0.001),
    "bias field": BIASED,
    "grid off by half a voxel": shifted(0.5),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One change in one case: the gain without it (dB), and by how much gain and result change (percent)."""

    case: str
    change: str
    gain_db: float
    gain_percent: float
    moved_percent: float


def rms(data: Tensor, mask: Tensor) -> float:
    """Inside the mask."""
    return float(data[mask].square().mean().sqrt())


def judged_voxels(truth_XYZ: Tensor) -> Tensor:
    """The head, away from the faces of the cube."""
    inner = torch.zeros_like(truth_XYZ, dtype=torch.bool)
    inner[(slice(EDGE, -EDGE),) * 3] = True
    return head_mask(truth_XYZ) & inner


def rows_of(enhancer: Enhancer, low: Volume, truth: Volume, name: str) -> list[Row]:
    """One row per change."""
    mask, case = judged_voxels(truth.data_XYZ), Input(low, truth.grid)
    span, cubic = data_range(truth.data_XYZ, mask), resample(low, truth.grid, "cubic").data_XYZ

    def enhanced(one: Input) -> Volume:
        return enhancer(one.low, EnhanceOptions(like=one.target)).stored  # with the axes of the target

    def gain_of(result: Tensor) -> float:
        return psnr(result, truth.data_XYZ, mask, span) - psnr(cubic, truth.data_XYZ, mask, span)

    plain = enhanced(case).data_XYZ
    step, gain, rows = rms(plain - cubic, mask), gain_of(plain), []
    for title, change in CHANGES.items():
        result = change.undo(enhanced(change.apply(case)))
        rows.append(
            Row(
                case=name,
                change=title,
                gain_db=round(gain, 3),
                gain_percent=round(100 * (gain_of(result) - gain) / gain, 2),
                moved_percent=round(100 * rms(result - plain, mask) / step, 2),
            )
        )
        report(rows[-1])
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a change; in each cell gain and movement in percent."""
    cases = list(dict.fromkeys(row.case for row in rows))
    cells = {(row.change, row.case): f"{row.gain_percent:+.1f} / {row.moved_percent:.1f}" for row in rows}
    return markdown(["gain / moved, %", *cases], [[name, *(cells[name, case] for case in cases)] for name in CHANGES])


def main() -> None:
    """Print a line per change, then the table."""
    parser = parser_of(__doc__, recipes=("thick5", "low1.5"), side=96)
    parser.add_argument("--scans", nargs="+", default=["fsf_T1w", "M2307_T2w"])
    args = parser.parse_args()
    tune_allocator()
    enhancer = Enhancer(args.bundle)
    rows: list[Row] = []
    for scan in args.scans:
        for recipe in args.recipes:
            truth, _ = Case(Scan(scan, args.data / "val" / f"{scan}.nii.gz"), NAMED[recipe], seed=0).acquire()
            truth = centre_crop(truth, args.side + 2 * EDGE) if args.side else truth
            low = degrade(truth, NAMED[recipe], rng_for(0, scan, recipe))
            rows += rows_of(enhancer, low, truth, f"{scan} {recipe}")
    print(table(rows))
    over = [row for row in rows if abs(row.gain_percent) > LIMIT]
    print(f"{len(rows) - len(over)} of {len(rows)} changes alter the gain by less than {LIMIT} %")
    write_rows(args.json, rows, bundle=enhancer.bundle.sha256)


if __name__ == "__main__":
    main()
