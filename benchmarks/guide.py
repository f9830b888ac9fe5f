"""A sharp scan of another contrast as guide: gain on thick slices, and what becomes of lesions that one scan shows.

    python benchmarks/guide.py --json benchmarks/results/guide.json

Truth: a scan of `anisotropic/` (persons whom no weights saw) resampled to 1 mm, or of `train/`; its middle is acquired
with slices of 5 mm and 1 % noise along an axis that is sharp in it. The guide is the same person's T1w, whole, after a
motion of about 4 mm. PSNR in dB inside the head. Spheres of 3-6 mm and 30 % contrast are added where the truth is
homogeneous: in the thick scan alone, then in the guide alone. What the latter leave behind is given as a share of
their contrast in the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from common import markdown, parser_of, report, write_rows
from guide_cases import MOTION, PAIRS, Pair, scan_of, truth_of
from small_lesions import with_lesions

from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.registration.rigid import Rigid, grid_centre_mm


@dataclass(frozen=True, kw_only=True)
class GuideRow:
    """One pair.

    Args:
        training: whether the weights learnt from this person.
        plain_db, gain_db: PSNR without a guide, and how much more with it.
        off_mm: from where registration to the sharp truth places the guide.
        agreement, apart_mm: as in the sidecar.
        mirrored, other_head: agreement of a guide that must not be used, whether it was, and its gain.
        kept_plain, kept, worst_change: contrast of lesions in the thick scan alone, as a share; the largest loss.
        place_plain_mm, place_mm: distance of their centres of mass from where they are, across slices.
        ghost, worst_ghost: contrast that lesions in the guide alone leave, as a share; mean size and largest.
    """

    pair: str
    training: bool
    plain_db: float
    gain_db: float
    off_mm: float
    agreement: float
    apart_mm: float
    mirrored: tuple[float, bool, float]
    other_head: tuple[float, bool, float]
    lesions: int
    kept_plain: float
    kept: float
    worst_change: float
    place_plain_mm: float
    place_mm: float
    ghost: float
    worst_ghost: float


def wrong(pair: Pair, guide: Volume, plain: float) -> tuple[float, bool, float]:
    """Agreement of a guide that does not belong, whether it was used, and its gain."""
    result = pair.enhanced(pair.truth, guide)
    record = result.sidecar.guide
    assert record is not None
    return record.agreement, record.not_used is None, round(pair.psnr(result) - plain, 3)


def row_of(pair: Pair, other: Volume, *, training: bool) -> GuideRow:
    """Everything about one pair; `other` is another person's T1w."""
    plain, guided = pair.enhanced(pair.truth, None), pair.enhanced(pair.truth, pair.guide)
    record, plain_db = guided.sidecar.guide, pair.psnr(plain)
    assert record is not None
    estimate = Rigid(torch.tensor(record.transform, dtype=torch.float64))
    lesioned = with_lesions(pair.truth, pair.lesions)
    true_XYZ = lesioned.data_XYZ - pair.truth.data_XYZ
    guided_XYZ = guided.volume.data_XYZ
    plain_change_XYZ = pair.enhanced(lesioned, None).volume.data_XYZ - plain.volume.data_XYZ
    guided_change_XYZ = pair.enhanced(lesioned, pair.guide).volume.data_XYZ - guided_XYZ
    ghost = pair.shares(
        pair.enhanced(pair.truth, pair.guide_with_lesions()).volume.data_XYZ - guided_XYZ, true_XYZ
    ).abs()
    plain_shares, guided_shares = pair.shares(plain_change_XYZ, true_XYZ), pair.shares(guided_change_XYZ, true_XYZ)
    return GuideRow(
        pair=pair.name,
        training=training,
        plain_db=round(plain_db, 3),
        gain_db=round(pair.psnr(guided) - plain_db, 3),
        off_mm=round(
            (estimate.inverse @ pair.guide_transform).displacement_mm(grid_centre_mm(pair.truth.grid), 40.0), 3
        ),
        agreement=record.agreement,
        apart_mm=record.apart_mm or 0.0,
        mirrored=wrong(pair, pair.guide.with_data(pair.guide.data_XYZ.flip(0)), plain_db),
        other_head=wrong(pair, other, plain_db),
        lesions=len(pair.lesions),
        kept_plain=round(float(plain_shares.mean()), 3),
        kept=round(float(guided_shares.mean()), 3),
        worst_change=round(float((guided_shares - plain_shares).min()), 3),
        place_plain_mm=round(pair.distance_mm(plain_change_XYZ), 3),
        place_mm=round(pair.distance_mm(guided_change_XYZ), 3),
        ghost=round(float(ghost.mean()), 3),
        worst_ghost=round(float(ghost.max()), 3),
    )


def table(rows: Sequence[GuideRow]) -> str:
    """Markdown."""
    header = ["pair", "gain, dB", "off, mm", "agreement", "mirrored", "other head", "kept", "ghost", "worst ghost"]
    return markdown(
        header,
        [
            [
                f"{r.pair}{' (training person)' if r.training else ''}",
                f"{r.gain_db:+.2f}",
                f"{r.off_mm:.2f}",
                f"{r.agreement:.2f}",
                *(f"{a:.2f}{' used' if used else ''} {db:+.2f}" for a, used, db in (r.mirrored, r.other_head)),
                f"{r.kept_plain:.2f} -> {r.kept:.2f}",
                f"{r.ghost:.3f}",
                f"{r.worst_ghost:.2f}",
            ]
            for r in rows
        ],
    )


def main() -> None:
    """Run every pair, print a table."""
    parser = parser_of(__doc__, side=80)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    args = parser.parse_args()
    enhancer, rows = Enhancer(args.bundle), list[GuideRow]()
    sharp_scans = list(dict.fromkeys(guide for _, guide, _ in PAIRS.values()))
    for name in args.pairs:
        thick, sharp, axis = PAIRS[name]
        next_person = sharp_scans[(sharp_scans.index(sharp) + 1) % len(sharp_scans)]
        guides = [scan_of(args.data, one) for one in (sharp, next_person)]
        guide, other = (Volume(g.data_XYZ, MOTION.matrix @ g.affine) for g in guides)
        pair = Pair(name, enhancer, truth_of(scan_of(args.data, thick), args.side), guide, axis)
        rows.append(row_of(pair, other, training=thick.startswith("train/")))
        report(rows[-1])
    print(table(rows))
    write_rows(args.json, rows, bundle=enhancer.bundle.sha256)


if __name__ == "__main__":
    main()
