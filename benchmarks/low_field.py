"""What limits the gain on low-field scans: bias field and contrast, or resolution and noise.

The recipe `low-field` is taken apart: with and without its bias field and its change of contrast. Every result is
compared with the sharp scan (as the benchmark does), and with the sharp scan as this scanner would show it, which has
the same bias field and contrast but neither noise nor loss of resolution. Gains are over the better of cubic and
zero-filled interpolation, inside the head, after one gain and offset were fitted to each. `--n4` corrects the bias
field of every input first, before interpolation too (Tustison 2010; SimpleITK, extra `align`).

    python benchmarks/low_field.py --side 96
    python benchmarks/low_field.py --side 96 --n4
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from common import SCANS, markdown, mean, middle_of_head, parser_of, report, write_rows
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED, AxisRecipe, Recipe
from moediff.core.config import rng_for
from moediff.core.geometry import resample
from moediff.core.volume import Volume
from moediff.evaluation.intensity_fit import fit_intensities
from moediff.evaluation.metrics.fidelity import data_range, head_mask, psnr
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

LOW_FIELD = NAMED["low-field"]
VARIANTS = {
    "low-field": LOW_FIELD,
    "without bias field": replace(LOW_FIELD, bias=0.0),
    "without change of contrast": replace(LOW_FIELD, gamma=1.0),
    "resolution and noise only": replace(LOW_FIELD, bias=0.0, gamma=1.0),
}
N4_LEVELS = 3
SHARP, MEASURED = "sharp scan", "sharp scan as measured"


@dataclass(frozen=True)
class Row:
    """PSNR of the better interpolation and of ours, dB."""

    scan: str
    variant: str
    reference: str
    interpolated_db: float
    ours_db: float

    @property
    def gain_db(self) -> float:
        """Ours over interpolation."""
        return self.ours_db - self.interpolated_db


def as_measured(truth: Volume, recipe: Recipe, seed: str) -> Volume:
    """The sharp scan with the recipe's bias field and contrast; `degrade` draws the field before anything else."""
    sharp = replace(recipe, axes=(AxisRecipe(), AxisRecipe(), AxisRecipe()), noise=0.0)
    return degrade(truth, sharp, rng_for(0, seed))


def fitted_psnr(result_XYZ: Tensor, truth: Volume) -> float:
    """Inside the head, dB."""
    mask = head_mask(truth.data_XYZ)
    fit = fit_intensities(result_XYZ[mask], truth.data_XYZ[mask])
    return psnr(fit.apply(result_XYZ), truth.data_XYZ, mask, data_range(truth.data_XYZ, mask))


def without_bias_field(scan: Volume) -> Volume:
    """Divided by the field that N4 finds in the head, on a grid half as fine."""
    import SimpleITK  # of the extra `align`

    image = SimpleITK.GetImageFromArray(scan.data_XYZ.numpy())
    mask = SimpleITK.GetImageFromArray(head_mask(scan.data_XYZ).to(torch.uint8).numpy())
    corrector = SimpleITK.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([50] * N4_LEVELS)
    corrector.Execute(SimpleITK.Shrink(image, [2] * 3), SimpleITK.Shrink(mask, [2] * 3))
    field = torch.from_numpy(SimpleITK.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image))).exp()
    return scan.with_data(scan.data_XYZ / field)


def rows_of(name: str, truth: Volume, enhancer: Enhancer, *, n4: bool) -> list[Row]:
    """All variants of one head."""
    rows = []
    for variant, recipe in VARIANTS.items():
        low = degrade(truth, recipe, rng_for(0, name))
        low = without_bias_field(low) if n4 else low
        ours = enhancer(low, EnhanceOptions(like=truth.grid)).volume.data_XYZ
        plain = [resample(low, truth.grid, kernel).data_XYZ for kernel in ("cubic", "zero-fill")]
        for label, reference in ((SHARP, truth), (MEASURED, as_measured(truth, recipe, name))):
            best = max(fitted_psnr(one, reference) for one in plain)
            rows.append(Row(name, variant, label, round(best, 3), round(fitted_psnr(ours, reference), 3)))
            report(rows[-1])
    return rows


def main() -> None:
    """Print means over persons."""
    parser = parser_of(__doc__, side=96)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--n4", action="store_true", help="correct the bias field of every input first")
    args = parser.parse_args()
    enhancer, rows = Enhancer(args.bundle), []
    for name in args.scans:
        rows += rows_of(name, middle_of_head(args.data, name, args.side), enhancer, n4=args.n4)
    lines = []
    for variant in VARIANTS:
        cells = [variant]
        for label in (SHARP, MEASURED):
            same = [row for row in rows if (row.variant, row.reference) == (variant, label)]
            cells += [f"{mean([row.interpolated_db for row in same]):.2f}", f"{mean([r.gain_db for r in same]):+.2f}"]
        lines.append(cells)
    print(f"{args.side}^3 voxels, weights {enhancer.bundle.sha256[:8]}; mean of {len(args.scans)}\n")
    print(markdown(["recipe", f"{SHARP}: interpolated", "gain", f"{MEASURED}: interpolated", "gain"], lines))
    write_rows(args.json, rows, sha256=enhancer.bundle.sha256, side=args.side)


if __name__ == "__main__":
    main()
