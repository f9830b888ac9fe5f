"""What enhancing a scan of 1 mm to finer voxels brings: gain over the better interpolation where the truth is finer.

Truths are a sharp head of 0.67 mm, which weights learned from, and scans drawn at 0.5 mm from label maps that nothing
was learned from (random contrasts; smooth borders, no texture of tissue). Each is halved along three axes by
truncation of k-space with noise, as `moediff enhance` halves the voxels of a 1 mm scan by default.

    python benchmarks/finer.py --side 128
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common import label_map, markdown, mean, parser_of, report, write_rows

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import AxisRecipe, Recipe
from moediff.anatomy.finer_labels import finer_label_map
from moediff.anatomy.synthesis import synthesise
from moediff.core.config import rng_for
from moediff.core.geometry import centre_crop, resample
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions
from moediff.io.scans import load

MEASURED = "train/forrest_T1w.nii.gz"
MAPS = (9, 10)  # of labels/, for validation
DRAWN_MM = 0.5
CONTRASTS = 3  # drawn of every map
NOISE = (0.01, 0.03)
HALVED = AxisRecipe(method="truncate", factor=2)


@dataclass(frozen=True)
class Row:
    """PSNR in the head of the better interpolation and of ours, dB."""

    scan: str
    kind: str
    noise: float
    interpolated_db: float
    ours_db: float

    @property
    def gain_db(self) -> float:
        """Ours over interpolation."""
        return self.ours_db - self.interpolated_db


def truths(data: Path, side: int) -> Iterator[tuple[str, str, Volume]]:
    """Name, kind and the middle cube of every head."""
    scan = centre_crop(load(data / MEASURED).volume, side)
    yield Path(MEASURED).name.split(".")[0], "measured", scan.with_data(scan.data_XYZ.float().clamp_min(0))
    for number in MAPS:
        drawn = finer_label_map(centre_crop(label_map(data, number)[0], side), DRAWN_MM)
        middle = centre_crop(drawn, side)
        for contrast in range(CONTRASTS):
            data_XYZ = synthesise(middle.data_XYZ, rng_for(contrast, "finer", number))
            yield f"{number:02d}, contrast {contrast}", "drawn", middle.with_data(data_XYZ)


def row(name: str, kind: str, truth: Volume, noise: float, enhancer: Enhancer) -> Row:
    """One head at one noise."""
    low = degrade(truth, Recipe(axes=(HALVED, HALVED, HALVED), noise=noise), rng_for(0, "finer", name))
    mask = head_mask(truth.data_XYZ)
    top = data_range(truth.data_XYZ, mask)

    def judged(result: Volume) -> float:
        return round(psnr(result.data_XYZ, truth.data_XYZ, mask, top), 3)

    best = max(judged(resample(low, truth.grid, kernel)) for kernel in ("cubic", "zero-fill"))
    return Row(name, kind, noise, best, judged(enhancer(low, EnhanceOptions(like=truth.grid)).volume))


def main() -> None:
    """Print means of both kinds of truth."""
    args = parser_of(__doc__, side=128).parse_args()
    enhancer, rows = Enhancer(args.bundle), []
    for name, kind, truth in truths(args.data, args.side):
        for noise in NOISE:
            rows.append(row(name, kind, truth, noise, enhancer))
            report(rows[-1])
    lines = []
    for kind in ("measured", "drawn"):
        for noise in NOISE:
            same = [one for one in rows if (one.kind, one.noise) == (kind, noise)]
            gains = [one.gain_db for one in same]
            lines.append(
                [
                    kind,
                    f"{noise:g}",
                    f"{mean([one.interpolated_db for one in same]):.2f}",
                    f"{mean(gains):+.2f}",
                    f"{min(gains):+.2f}",
                ]
            )
    print(f"{args.side}^3 voxels, weights {enhancer.bundle.sha256[:8]}\n")
    print(markdown(["truth", "noise", "interpolated", "gain", "least"], lines))
    write_rows(args.json, rows, sha256=enhancer.bundle.sha256, side=args.side)


if __name__ == "__main__":
    main()
