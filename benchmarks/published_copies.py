"""Gain on copies halved by a tool, as papers on super-resolution make them: 8 bit, no noise, PSNR of single slices.

The recipe of a published 3-D diffusion network of 50.7 million parameters (arXiv 2603.14667; 33.89 dB of bicubic
interpolation to 37.75 dB, T1-weighted heads of another cohort): grey values over 0..255 and rounded, every sagittal
slice halved along both of its axes by a tool's bicubic kernel and rounded again, results compared slice by slice over
the whole field of view. Ours runs twice: without knowing how the copy was made, and with `--profile` stating it.

    python benchmarks/published_copies.py --scans seg3d_T1w fsf_T1w
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import markdown, mean, parser_of, report, validation_scan, write_rows
from torch import Tensor

from moediff.acquisition.point_spread import Sampling
from moediff.core.geometry import centre_crop
from moediff.core.statistics import quantile
from moediff.core.volume import Volume
from moediff.inference.enhancer import Enhancer
from moediff.inference.options import EnhanceOptions

LEVELS = 255
BICUBIC = (Sampling(), Sampling("bicubic"), Sampling("bicubic"))  # sagittal slices lie side by side along x
METHODS = ("bicubic", "faithful", "faithful, stated")


@dataclass(frozen=True)
class Row:
    """Mean PSNR of the slices in dB, in the order of METHODS."""

    scan: str
    slices: int
    psnr_db: tuple[float, ...]


def eight_bit(data_XYZ: Tensor) -> Tensor:
    """Whole numbers of 0..255."""
    return data_XYZ.round().clamp(0, LEVELS)


def even(volume: Volume) -> Volume:
    """Without the last sagittal row or column where their number is odd, in 8 bit."""
    data_XYZ = volume.data_XYZ.float()
    y, z = (n // 2 * 2 for n in data_XYZ.shape[1:])
    scaled = data_XYZ.clamp_min(0) * (LEVELS / quantile(data_XYZ, 0.999))
    return Volume(eight_bit(scaled[:, :y, :z]).contiguous(), volume.grid.affine)


def halved(truth: Volume) -> Volume:
    """Every sagittal slice by a tool's bicubic kernel, in 8 bit."""
    slices_X1YZ = truth.data_XYZ[:, None]
    low_XYZ = F.interpolate(slices_X1YZ, scale_factor=0.5, mode="bicubic", antialias=True)[:, 0]
    step = torch.diag(torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    step[1:3, 3] = 0.5  # the first of the new voxels lies between the first two of the old ones
    return Volume(eight_bit(low_XYZ).contiguous(), truth.grid.affine @ step)


def interpolated(low: Volume) -> Tensor:
    """By the same tool."""
    return F.interpolate(low.data_XYZ[:, None], scale_factor=2, mode="bicubic")[:, 0]


def psnr_of_slices(result_XYZ: Tensor, truth_XYZ: Tensor) -> float:
    """Mean over sagittal slices, dB; equal slices count as 100, as in the paper."""
    error_X = (eight_bit(result_XYZ) - truth_XYZ).square().mean((1, 2))
    return float((10 * torch.log10(LEVELS**2 / error_X.clamp_min(1e-10 * LEVELS**2))).mean())


def judged(name: str, truth: Volume, enhancer: Enhancer) -> Row:
    """All methods on one head."""
    low = halved(truth)
    results = [interpolated(low)]
    for profile in (None, BICUBIC):
        results.append(enhancer(low, EnhanceOptions(like=truth.grid, profile=profile)).volume.data_XYZ)
    return Row(name, truth.shape[0], tuple(round(psnr_of_slices(one, truth.data_XYZ), 3) for one in results))


def main() -> None:
    """Print a table of single heads."""
    parser = parser_of(__doc__, side=0)
    parser.add_argument("--scans", nargs="+", default=["seg3d_T1w", "fsf_T1w", "trio_b17_T1w"])
    args = parser.parse_args()
    enhancer, rows = Enhancer(args.bundle), []
    for name in args.scans:
        scan = validation_scan(args.data, name)
        rows.append(judged(name, even(centre_crop(scan, args.side) if args.side else scan), enhancer))
        report(rows[-1])
    lines = [[row.scan, str(row.slices), *(f"{value:.2f}" for value in row.psnr_db)] for row in rows]
    means = [mean([row.psnr_db[index] for row in rows]) for index in range(len(METHODS))]
    print(f"weights {enhancer.bundle.sha256[:8]}\n")
    print(markdown(["head", "slices", *METHODS], [*lines, ["mean", "", *(f"{value:.2f}" for value in means)]]))
    write_rows(args.json, rows, sha256=enhancer.bundle.sha256)


if __name__ == "__main__":
    main()
