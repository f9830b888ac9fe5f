"""Synthetic small lesions: visibility of spheres of 1-5 mm added to sharp scans, which are degraded, then restored.

    python benchmarks/small_lesions.py --data ../shared/data [--bundle NAME=DIR ...] [--json out.json]

Lesions lie where the scan is homogeneous (white matter, mostly), brighter or darker than their surroundings by a share
of its intensity. An observer measures the mean over the sphere minus the mean of a shell around it. A lesion counts as
detected if that contrast has the lesion's sign and exceeds 95 % of the contrasts at the same sites in the same
restoration of the same scan without lesions; "false positives" is the share of lesion-free sites that look like a
lesion by the sharp scan's threshold (0.05 is chance). Axes: X Y Z voxels, N sites.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import RECIPES, enhancers_of, markdown, parser_of, predictions, validation_scan, write_rows
from torch import Tensor

from moediff.acquisition.degrade import degrade
from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.memory import tune_allocator
from moediff.core.volume import Volume
from moediff.evaluation.metrics.fidelity import head_mask
from moediff.inference.enhancer import Enhancer

SCANS = ("M2307_T2w", "fsf_T1w", "ljms07_FLAIR")
SIZES_MM = (1, 2, 3, 4, 5)
CONTRASTS = (0.15, 0.3)  # of the intensity around
SITES, APART_MM = 200, 13.0
HOMOGENEOUS = 0.3  # sites lie among this share of the head's voxels, those whose surroundings vary least
REACH_MM = 7.0  # of the box that a site's sphere and shell are measured in


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A sphere: site in voxels, diameter, and contrast as a share of the intensity around it."""

    site: tuple[int, int, int]
    size_mm: int
    contrast: float


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One lesion in one result: change of contrast that it causes, with its sign, and whether it is detected."""

    size_mm: int
    contrast: float
    change: float
    detected: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scan, recipe and method; `span` is the median intensity of the head."""

    scan: str
    recipe: str
    method: str
    span: float
    lesions: tuple[Detection, ...]
    false_positives: float

    @property
    def share_detected(self) -> float:
        """Of all lesions."""
        return sum(one.detected for one in self.lesions) / len(self.lesions)


def homogeneous_sites(truth: Volume, rng: torch.Generator) -> list[tuple[int, int, int]]:
    """Up to SITES voxels with homogeneous surroundings, APART_MM from each other, in random order."""
    size = max(3, round(9 / truth.spacing_mm[0]) // 2 * 2 + 1)

    def mean(value_XYZ: Tensor) -> Tensor:
        return F.avg_pool3d(value_XYZ[None, None], size, 1, size // 2)[0, 0]

    data, mask = truth.data_XYZ, head_mask(truth.data_XYZ)
    inner = mean(mask.float()) > 0.999
    around = mean(data)
    spread = (mean(data.square()) - around.square()).clamp_min(0).sqrt() / around.clamp_min(1e-6)
    tissue = inner & (around > 0.4 * data[inner].median())
    candidates = (tissue & (spread < torch.quantile(spread[tissue][::7], HOMOGENEOUS))).nonzero()
    candidates = candidates[torch.randperm(len(candidates), generator=rng)[:20_000]]
    chosen: list[Tensor] = []
    spacing = torch.tensor(truth.spacing_mm)
    for site in candidates:
        if all(float(((site - other) * spacing).norm()) >= APART_MM for other in chosen):
            chosen.append(site)
        if len(chosen) == SITES:
            break
    return [(int(p[0]), int(p[1]), int(p[2])) for p in chosen]


def box_around(site: tuple[int, int, int], volume: Volume) -> tuple[tuple[slice, ...], Tensor]:
    """The voxels near a site, and how far each lies from it in mm."""
    box, axes = [], []
    for at, n, spacing in zip(site, volume.shape, volume.spacing_mm, strict=True):
        reach = round(REACH_MM / spacing)
        box.append(slice(max(at - reach, 0), min(at + reach + 1, n)))
        axes.append((torch.arange(box[-1].start, box[-1].stop) - at) * spacing)
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    return tuple(box), (x.square() + y.square() + z.square()).sqrt()


def contrast(volume: Volume, site: tuple[int, int, int], size_mm: float) -> float:
    """Mean over the sphere (at least the middle voxel) minus mean of a shell 2-5 mm outside it."""
    box, far = box_around(site, volume)
    data, radius = volume.data_XYZ[box], max(size_mm / 2, 0.6 * min(volume.spacing_mm))
    shell = (far > size_mm / 2 + 2) & (far < size_mm / 2 + 5)
    return float(data[far <= radius].mean() - data[shell].mean())


def with_lesions(truth: Volume, lesions: Sequence[Lesion]) -> Volume:
    """The scan with spheres whose rims are as soft as its voxels."""
    data = truth.data_XYZ.clone()
    for lesion in lesions:
        box, far = box_around(lesion.site, truth)
        inside = ((lesion.size_mm / 2 - far) / min(truth.spacing_mm) + 0.5).clamp(0, 1)
        around = float(truth.data_XYZ[box][far < 4].mean())
        data[box] += lesion.contrast * around * inside
    return truth.with_data(data.clamp_min(0))


def plan(truth: Volume, name: str) -> list[Lesion]:
    """A lesion for every site: sizes, contrasts and signs by turns."""
    rng = rng_for(0, "small lesions", name)
    kinds = [(size, sign * c) for c in CONTRASTS for sign in (1, -1) for size in SIZES_MM]
    return [
        Lesion(site=site, size_mm=kinds[i % len(kinds)][0], contrast=kinds[i % len(kinds)][1])
        for i, site in enumerate(homogeneous_sites(truth, rng))
    ]


def restored(
    truth: Volume, key: tuple[str, str], enhancers: dict[str, Enhancer], modes: Sequence[str]
) -> Iterator[tuple[str, Volume]]:
    """The sharp scan itself, then every method's result from its degraded version; `key` is scan and recipe."""
    yield "sharp scan", truth
    low = degrade(truth, NAMED[key[1]], rng_for(0, *key))
    yield from predictions(low, truth, enhancers, modes)


def detections(
    clean: Volume, with_lesion: Volume, lesions: Sequence[Lesion], sharp: dict[int, float]
) -> tuple[tuple[Detection, ...], float]:
    """Every lesion, and the share of false positives; `sharp` holds the sharp scan's thresholds."""
    result, false = [], []
    for size in SIZES_MM:
        null_N = torch.tensor([contrast(clean, lesion.site, size) for lesion in lesions]).abs()
        threshold = float(null_N.quantile(0.95))
        sharp.setdefault(size, threshold)
        false.append(float((null_N > sharp[size]).float().mean()))
        for lesion in (lesion for lesion in lesions if lesion.size_mm == size):
            sign = 1 if lesion.contrast > 0 else -1
            seen = contrast(with_lesion, lesion.site, size)
            change = sign * (seen - contrast(clean, lesion.site, size))
            detected = sign * seen > threshold
            result.append(Detection(size_mm=size, contrast=lesion.contrast, change=change, detected=detected))
    return tuple(result), sum(false) / len(false)


def table(rows: Sequence[Row]) -> str:
    """Markdown: share detected by size, weak and strong, over all scans; contrast recovery; false positives."""
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        contrast_of: dict[str, float] = {}
        for method in methods:
            own = [row for row in rows if row.method == method and row.recipe == recipe]
            contrast_of[method] = sum(lesion.change / row.span for row in own for lesion in row.lesions)
            detected = {
                (size, c): [x.detected for row in own for x in row.lesions if (x.size_mm, abs(x.contrast)) == (size, c)]
                for size in SIZES_MM
                for c in CONTRASTS
            }
            shares = {key: f"{sum(values) / max(len(values), 1):.2f}" for key, values in detected.items()}
            cells = (" / ".join(shares[size, c] for c in CONTRASTS) for size in SIZES_MM)
            recovery = contrast_of[method] / contrast_of[methods[0]]
            false_positives = sum(row.false_positives for row in own) / len(own)
            lines.append([recipe, method, *cells, f"{recovery:.2f}", f"{false_positives:.2f}"])
    header = ["recipe", "method", *(f"{size} mm" for size in SIZES_MM), "contrast recovery", "false positives"]
    return markdown(header, lines)


def rows_of(truth: Volume, name: str, args: argparse.Namespace, enhancers: dict[str, Enhancer]) -> Iterator[Row]:
    """Every recipe and method on one scan, with and without lesions."""
    lesions = plan(truth, name)
    lesioned, span = with_lesions(truth, lesions), float(truth.data_XYZ[head_mask(truth.data_XYZ)].median())
    print(f"{name}: {len(lesions)} lesions", file=sys.stderr)
    for recipe in args.recipes:
        sharp: dict[int, float] = {}
        both = (restored(scan, (name, recipe), enhancers, args.modes) for scan in (truth, lesioned))
        for (method, clean), (_, marked) in zip(*both, strict=True):
            detected, false_positives = detections(clean, marked, lesions, sharp)
            yield Row(
                scan=name, recipe=recipe, method=method, span=span, lesions=detected, false_positives=false_positives
            )


def main() -> None:
    """Print a line per scan, recipe and method, then the table."""
    parser = parser_of(__doc__, recipes=RECIPES, bundle=False)
    parser.add_argument("--bundle", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--modes", nargs="+", default=["faithful", "detail"])
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    args = parser.parse_args()
    tune_allocator()
    enhancers = enhancers_of(args.bundle)
    rows: list[Row] = []
    for name in args.scans:
        for row in rows_of(validation_scan(args.data, name), name, args, enhancers):
            rows.append(row)
            print(f"{name} {row.recipe} {row.method}: {row.share_detected:.2f} detected", file=sys.stderr)
    print(table(rows))
    write_rows(args.json, rows, bundle=enhancers["embedded"].bundle.sha256)


if __name__ == "__main__":
    main()
